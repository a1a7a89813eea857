"""Training in 8 bits: features, head, run and scores are of the same engine."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from cxrlib.audit.recalibrate import recalibrate
from cxrlib.data.images import read_image
from cxrlib.data.study import choose_films
from cxrlib.deploy.engine import EngineError, add_engine, quantise_backbone
from cxrlib.deploy.export import ExportError, export_run
from cxrlib.model.backbone import extract_features, load_backbone
from cxrlib.model.fast import PARTS
from cxrlib.model.head import fit_head
from cxrlib.model.run import RunError, load_run, load_run_backbone
from cxrlib.model.save import save_run
from cxrlib.scoring.extract import extract_on_workers

pytest.importorskip("nncf")
SIZE = 75


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def films(study):
    return choose_films(study, "Cardiomegaly")


@pytest.fixture(scope="module")
def train(films):
    return films[films["split"] == "train"]


@pytest.fixture(scope="module")
def full():
    return load_backbone("EfficientNetLite2", image_size=SIZE, layer="stage2")


@pytest.fixture(scope="module")
def fast(full, train, cache):
    return quantise_backbone(full, train["path"], cache)


@pytest.fixture(scope="module")
def features(fast, train, cache):
    return extract_features(fast, train["path"], 3, cache)


@pytest.fixture(scope="module")
def fitted(features, train):
    return fit_head(features, train)


@pytest.fixture(scope="module")
def saved(fast, fitted, study, films, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "fast"
    return save_run(folder, study, films, "Cardiomegaly", fast, fitted)


def test_features_in_8_bits_are_near_and_kept_apart(full, fast, features, train, cache):
    exact = extract_features(full, train["path"], 3, cache).astype(float)
    off = np.abs(features - exact).mean() / exact.std()
    assert 1e-4 < off < 0.05
    kept = sorted(folder.name.rpartition("-")[2] for folder in cache.iterdir())
    assert kept == ["engine", "grid3", "grid3"]
    # Made once; the same films give it again, others another.
    assert quantise_backbone(full, train["path"], cache).engine == fast.engine


def test_the_run_scores_by_the_features_it_was_trained_on(saved, fitted, features, train):
    assert json.loads((saved.folder / "run.json").read_text())["precision"] == "fast"
    assert {*PARTS} <= saved.facts["files"].keys()
    assert "computes in 8 bits" in (saved.folder / "MODEL_CARD.md").read_text()
    pixels = np.stack([read_image(path, SIZE) for path in train["path"][:8]])[..., None]
    wanted = expit(fitted.model.predict(features[:8].astype(np.float32), verbose=0)[:, 0])
    for run in (saved, load_run(saved.folder)):
        np.testing.assert_allclose(run.predict(pixels), wanted, atol=2e-3)  # features in float16
    exact = expit(saved.model.predict(pixels, verbose=0)[:, 0])
    assert np.abs(exact - wanted).max() > np.abs(saved.predict(pixels) - wanted).max()


def test_whoever_loads_its_backbone_gets_the_engine(saved, fast, features, train, tmp_path):
    backbone = load_run_backbone(saved.folder, saved.facts)
    assert backbone.settings == fast.settings != fast.digest
    again = extract_on_workers(backbone, train["path"][:5], 3, tmp_path, workers=1)
    assert (again == features[:5]).all()


def test_a_recalibrated_run_keeps_its_features(saved, train, study, tmp_path):
    scores = saved.split("train", study).assign(status="ok", study="there", digest="")
    new = recalibrate(saved, scores, tmp_path / "new", patients=40)
    pixels = np.stack([read_image(path, SIZE) for path in train["path"][:4]])[..., None]
    move = np.diff([saved.predict(pixels), new.predict(pixels)], axis=0)
    assert new.facts["precision"] == "fast" and np.abs(move).max() > 0


def test_what_would_compute_otherwise_is_refused(saved, study, tmp_path, monkeypatch):
    with pytest.raises(ExportError, match="8 bits.* its scores would be others. Train with"):
        export_run(saved, "keras", tmp_path / "out")
    with pytest.raises(EngineError, match="fast was trained in 8 bits"):
        add_engine(saved, study)
    folder = shutil.copytree(saved.folder, tmp_path / "run")
    (folder / PARTS[1]).write_bytes(b"")
    with pytest.raises(RunError, match=r"features\.bin is not the file that was saved"):
        load_run(folder)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match=r"needs openvino .*pip install '\.\[fast\]'"):
        replace(saved).predict(np.zeros((1, SIZE, SIZE, 1), np.float32))
