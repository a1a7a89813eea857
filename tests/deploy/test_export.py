"""`cxr export`: the same probabilities in other software, or nothing."""

import json
import re
import sys

import numpy as np
import pytest

from cxrlib import cli
from cxrlib.data.images import PREPROCESSING, file_digest, read_image
from cxrlib.data.study import choose_films
from cxrlib.deploy import export
from cxrlib.deploy.export import FORMATS, ExportError, export_run
from cxrlib.model._keras import keras
from cxrlib.model.backbone import extract_features, load_backbone
from cxrlib.model.head import fit_head
from cxrlib.model.save import save_run


@pytest.fixture(scope="module")
def run(study, tmp_path_factory):
    """A run that takes a second to export: few layers, few films."""
    train = choose_films(study, "Cardiomegaly").query("split == 'train'")[:60]
    backbone = load_backbone("EfficientNetLite2", image_size=80, layer="stage1")
    fitted = fit_head(extract_features(backbone, train["path"], grid=3), train)
    folder = tmp_path_factory.mktemp("runs") / "small"
    return save_run(folder, study, train, "Cardiomegaly", backbone, fitted)


@pytest.mark.parametrize("form", FORMATS)
def test_an_exported_model_agrees_with_the_run(form, run, medical, tmp_path):
    out = tmp_path / "taken"
    card = export_run(run, form, out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["taken"]
    assert {p.name: file_digest(p) for p in out.iterdir() if p.name != "card.json"} == card["files"]
    # Other films than those it was checked on, and another number of them.
    films = sorted((medical / "images").iterdir())[:7]
    pixels = np.stack([read_image(path, 80) for path in films])[..., None]
    given = export._read_back(form, out / FORMATS[form][0], pixels)
    assert given.shape == (7, 1)
    np.testing.assert_allclose(given[:, 0], run.predict(pixels), atol=1e-5)
    assert np.ptp(given) > 0.05  # so that these films tell one model from another
    if form == "openvino":  # which would report its use
        assert sys.modules["openvino_telemetry"] is None
    assert card["check"]["largest_difference"] < 1e-5 and card["check"]["films"] == 4
    assert np.ptp(card["check"]["probabilities"]) > 0.05


def test_the_card_says_what_the_model_wants_and_gives(run, tmp_path, capsys):
    out = tmp_path / "taken"
    cli.main(["export", str(run.folder), "--format", "keras", "--out", str(out)])
    card = json.loads((out / "card.json").read_text())
    said = rf"{out}: model\.keras and card\.json; on 4 radiographs keras 3\S+ differs from the"
    assert re.fullmatch(said + r" run by at most \d\S*\n", capsys.readouterr().out)
    assert card["note"].startswith("Not a medical device") and "simulated" in card["note"]
    assert card["finding"] == "Cardiomegaly" and card["run"]["study"] == "medical"
    assert card["run"]["digest"] == file_digest(run.folder / "run.json")
    assert card["input"] == {
        "name": "films",
        "shape": [None, 80, 80, 1],
        "dtype": "float32",
        "range": [0, 1],
        "preprocessing": PREPROCESSING,
    }
    assert card["threshold"]["value"] == run.threshold
    model = keras.models.load_model(tmp_path / "taken" / "model.keras", safe_mode=True)
    assert model.output_shape == (None, 1)


@pytest.mark.parametrize("spoiled", [0.002, np.nan])
def test_a_model_that_disagrees_is_not_written(run, tmp_path, monkeypatch, spoiled):
    def read_back(form, path, films):
        assert path.exists()
        return run.predict(films)[:, None] + spoiled

    monkeypatch.setattr(export, "_read_back", read_back)
    with pytest.raises(
        ExportError, match=r"keras 3.* gives \[.*\] on films to which the run gives"
    ):
        export_run(run, "keras", tmp_path / "taken")
    assert not list(tmp_path.iterdir())


def test_what_is_interrupted_leaves_nothing(run, tmp_path, monkeypatch):
    def write(model, form, path, films):
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_write", write)
    with pytest.raises(KeyboardInterrupt):
        export_run(run, "keras", tmp_path / "taken")
    assert not list(tmp_path.iterdir())


def test_full_precision_is_exported_whatever_predict_does(run, tmp_path):
    class Coarse(type(run)):
        def predict(self, films):
            return super().predict(films).round(1)

    coarse = Coarse(run.folder, run.facts, run.model)
    card = export_run(coarse, "keras", tmp_path / "taken")
    assert any(p != round(p, 1) for p in card["check"]["probabilities"])


def test_errors(run, tmp_path, monkeypatch):
    with pytest.raises(ExportError, match="format 'h5': give keras, onnx, litert, openvino"):
        export_run(run, "h5", tmp_path / "taken")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("the only copy")
    with pytest.raises(ExportError, match="full is there already: give an empty or a new folder"):
        export_run(run, "keras", tmp_path / "full")
    with pytest.raises(ExportError, match=r"a/b cannot be written: .*a is no folder"):
        export_run(run, "keras", tmp_path / "a" / "b")
    assert [p.name for p in tmp_path.rglob("*")] == ["full", "thesis.txt"]
    packages = FORMATS["onnx"][1]
    monkeypatch.setitem(FORMATS, "onnx", ("model.onnx", [*packages, "no-such-package"]))
    reason, way = r"\(No module named 'no_such_package'\)", r"pip install '\.\[export\]' in a clone"
    line = f"cxr: format 'onnx' needs no-such-package {reason}: {way}"
    with pytest.raises(SystemExit, match=line):
        cli.main(["export", str(run.folder), "--format", "onnx", "--out", str(tmp_path / "taken")])
