"""Marks by what a test uses; fixtures: generated studies, a trained run, a headless Chromium."""

import os
import sys
from pathlib import Path

# Before Keras is imported: its notices about CPU instructions are not what a test is about.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Before NumPy is: where several processes share the cores, threads of OpenBLAS that wait for one
# another take several times as long as one thread.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from PIL import Image

import marks
from lab import open_chromium

MEDICAL = Path(__file__).parents[1] / "medical"
BOX = ["xmin", "ymin", "xmax", "ymax"]


def pytest_ignore_collect(collection_path, config):
    """Leave out, before it is imported, a file that loads TensorFlow where that is not wanted."""
    if "not tensorflow" in config.option.markexpr and collection_path.name.startswith("test_"):
        return marks.loads_tensorflow(collection_path) or None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark tests by what they use; the long ones come first, so that no process ends alone."""
    for item in items:
        for mark in sorted(marks.marks_of(item)):
            item.add_marker(mark)
    long = {item.path: 0 for item in items}
    for item in items:
        for rank, mark in enumerate(("process", "tensorflow", "browser", "notebooks"), 1):
            if item.get_closest_marker(mark):
                long[item.path] = max(long[item.path], rank)
    items.sort(key=lambda item: -long[item.path])


@pytest.fixture(autouse=True)
def true_to_its_marks(request):
    """Fail a test that loads TensorFlow and is not marked so: `make check` would grow slow."""
    loaded = "tensorflow" in sys.modules
    wanted = "not tensorflow" not in request.config.option.markexpr
    assert wanted or not loaded, "TensorFlow was loaded while tests were collected"
    yield
    marked = request.node.get_closest_marker("tensorflow")
    assert loaded or marked or "tensorflow" not in sys.modules, "this test loads TensorFlow"


@pytest.fixture(scope="session")
def medical() -> Path:
    """The folder of the bundled study."""
    return MEDICAL


@pytest.fixture(scope="session")
def study(medical):
    """The bundled study; modules that want another one say so themselves."""
    from cxrlib.data.study import read_study

    return read_study(medical)


@pytest.fixture(scope="session")
def run(medical):
    """The bundled run; read it and leave it as it is."""
    from cxrlib.model.run import load_run

    return load_run(medical / "models" / "cardiomegaly")


@pytest.fixture(scope="session")
def make_tiny_study():
    """A function that writes a study with small generated pictures and returns its folder."""

    def make(folder, rows, size=(40, 48), seed=0) -> Path:
        """Write a study.

        `rows` are dicts of any columns, or tuples (filename, label, xmin, ymin, xmax, ymax, view)
        cut short where you like. Every file name gets a picture of `size`, (width, height),
        whose content follows from `seed` and the name's place in the table.
        """
        columns = ["filename", "label", *BOX, "view"]
        rows = [r if isinstance(r, dict) else dict(zip(columns, r, strict=False)) for r in rows]
        images = Path(folder) / "images"
        images.mkdir(parents=True)
        table = pd.DataFrame(rows)
        table.to_csv(images.parent / "labels.csv", index=False)
        for number, name in enumerate(table["filename"].unique()):
            rng = np.random.default_rng([seed, number])
            pixels = rng.integers(0, 256, (size[1], size[0]), np.uint8)
            Image.fromarray(pixels).save(images / name)
        return images.parent

    return make


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory, medical):
    """(folder of a run, its study), trained on the bundled study with small settings.

    The processes of `pytest -n` share it: the first that wants it trains, the others wait.
    """
    from cxrlib.data.study import choose_films, read_study
    from cxrlib.model.backbone import extract_features, load_backbone
    from cxrlib.model.head import fit_head
    from cxrlib.model.save import save_run

    study = read_study(medical)
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "trained" / "cardiomegaly"
    with FileLock(shared / "trained.lock"):
        if not folder.exists():
            films = choose_films(study, "Cardiomegaly")
            train = films[films["split"] == "train"]
            backbone = load_backbone("EfficientNetLite2", image_size=128, layer="stage3")
            head = fit_head(extract_features(backbone, train["path"], grid=5), train)
            save_run(folder, study, films, "Cardiomegaly", backbone, head)
    return folder, study


@pytest.fixture(scope="session")
def small_run(trained_run):
    """The run of `trained_run`; read it and leave it as it is."""
    from cxrlib.model.run import load_run

    return load_run(trained_run[0])


@pytest.fixture(scope="session")
def chromium():
    """A headless browser; what needs it is skipped where none is installed."""
    with open_chromium() as browser:
        if browser is None:
            pytest.skip("no chromium on this machine: apt-get install chromium")
        yield browser
