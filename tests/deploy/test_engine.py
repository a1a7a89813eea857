import json
import re
import shutil
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit

from cxrlib.cli import main
from cxrlib.data.images import read_image
from cxrlib.data.study import choose_films, read_study
from cxrlib.deploy import engine as module
from cxrlib.deploy.engine import FILES, EngineError, add_engine, compare, load_fast
from cxrlib.model._keras import freeze
from cxrlib.model.predict import score_films, score_test
from cxrlib.model.run import RunError, load_run, rewrite_run
from cxrlib.scoring import write as score

openvino = pytest.importorskip("openvino")
SIZE = 128


@pytest.fixture(scope="module")
def train(trained_run):
    """Training films, and their pixels."""
    films = choose_films(trained_run[1], "Cardiomegaly").query("split == 'train'")
    return films, np.stack([read_image(path, SIZE) for path in films["path"]])[..., None]


@pytest.fixture(scope="module")
def full(small_run, train):
    """Probabilities of training films by the model."""
    return small_run.predict(train[1])


@pytest.fixture(scope="module")
def seen():
    """The paths of films that were read while the engine below was made."""
    return []


@pytest.fixture(scope="module")
def saved(small_run, trained_run, full, tmp_path_factory, seen):
    """A run with an engine, its threshold in the widest gap of the scores: no film's decision hangs
    on a thread."""
    folder = shutil.copytree(trained_run[0], tmp_path_factory.mktemp("runs") / "fast")
    run, scores = replace(small_run, folder=folder), np.sort(full)
    widest = np.diff(scores).argmax()
    threshold = float(scores[widest : widest + 2].mean())
    facts = {"threshold": run.facts["threshold"] | {"value": threshold}}
    run = rewrite_run(run, facts, lambda _: [])

    def read(path, size):
        seen.append(path)
        return read_image(path, size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "read_image", read)
        return add_engine(run, trained_run[1])


@pytest.fixture(scope="module")
def fast(saved):
    """The same run, read with its engine."""
    return load_fast(saved.folder)


@pytest.fixture(scope="module")
def pixels(medical):
    """18 films: a batch, and two."""
    paths = sorted((medical / "images").iterdir())[:18]
    return np.stack([read_image(path, SIZE) for path in paths])[..., None]


@pytest.mark.portable
def test_frozen_network_gives_the_models_logits(saved, pixels):
    expected = saved.model.predict(pixels, verbose=0)
    assert expected.std() > 0.1
    frozen = freeze(saved.model)
    np.testing.assert_allclose(frozen(pixels), expected, atol=2e-5)
    np.testing.assert_allclose(frozen(pixels[:1].astype(np.float64)), expected[:1], atol=2e-5)
    assert saved.engine is None
    np.testing.assert_allclose(saved.predict(pixels), expit(expected[:, 0]), atol=1e-5)


def test_engine_is_measured_on_training_films_and_kept(saved, fast, train, full, pixels):
    facts = json.loads((saved.folder / "run.json").read_text())
    measured = facts["engine"]
    assert measured["accepted"] and measured["files"] == list(FILES)
    assert set(FILES) < set(facts["files"])
    assert measured["films"] == len(full) and measured["calibrated_on"] == module.CALIBRATION
    quick = fast.predict(train[1])
    assert 1e-4 < measured["largest_move"] < 0.1
    assert np.abs(full - quick).max() == pytest.approx(measured["largest_move"], abs=1e-4)
    assert fast.threshold == saved.threshold
    changed = ((full >= saved.threshold) != (quick >= saved.threshold)).mean()
    assert changed == pytest.approx(measured["decisions_changed"], abs=1.1 / len(full))
    assert measured["decisions_changed"] < 0.01 and measured["auc_moved"] < 0.005
    assert abs(measured["shift"]) > 1e-4
    assert (logit(quick) - logit(full)).mean() == pytest.approx(0, abs=1e-4)
    assert (fast.model.predict_on_batch(pixels) == saved.model.predict_on_batch(pixels)).all()
    assert "near 1" in measured["note"]


def test_what_is_returned_does_not_change_with_the_next_films(fast, pixels):
    engine = fast.engine
    assert re.fullmatch(r"OpenVINO \d[\w.-]+, 8 bits", engine.name)
    first = engine(pixels[:2])
    kept = first.copy()
    assert first.shape == (2, 1)
    engine(pixels[2:4])
    assert (first == kept).all()


def test_calibration_and_measurement_see_training_films_alone(saved, train, seen):
    films = train[0]["path"]
    assert set(seen) == set(films) and len(seen) == len(films) + module.CALIBRATION


def test_engine_that_decides_otherwise_is_not_kept_but_its_numbers_are(
    saved, small_run, medical, tmp_path, monkeypatch, capfd
):
    def turned(model, films, folder):
        # The engine of the same network with the sign of its logit changed.
        right = openvino.Core().read_model(saved.folder / FILES[0])
        logit = right.output(0).get_node().input_value(0)
        wrong = openvino.Model([openvino.opset13.negative(logit)], right.get_parameters())
        openvino.save_model(wrong, folder / FILES[0], compress_to_fp16=False)

    def earlier(folder):
        for name in FILES:
            (folder / name).write_text("an engine of before")
        return FILES

    monkeypatch.setattr(module, "_quantise", turned)
    run = replace(small_run, folder=shutil.copytree(small_run.folder, tmp_path / "run"))
    run = rewrite_run(run, {}, earlier)
    capfd.readouterr()
    main(["engine", str(run.folder), str(medical)])
    said = rf"{run.folder}: OpenVINO, 8 bits, not kept: on 1\d\d training radiographs .*\n"
    assert re.fullmatch(said, capfd.readouterr().out)
    facts = json.loads((run.folder / "run.json").read_text())
    measured = facts["engine"]
    assert measured["accepted"] is False
    assert measured["auc_moved"] > 0.5 and measured["decisions_changed"] > 0.5
    assert not set(FILES) & {path.name for path in run.folder.iterdir()}
    assert not set(FILES) & set(facts["files"]) and measured["files"] == []
    assert "OpenVINO, 8 bits, not kept: on 1" in (run.folder / "MODEL_CARD.md").read_text()
    with pytest.raises(RunError, match="no fast engine: its engine was not accepted"):
        load_fast(run.folder)


def test_rule_of_acceptance():
    target = np.repeat([0, 1], 200)
    full = np.concatenate([np.linspace(0.01, 0.45, 200), np.linspace(0.55, 0.99, 200)])
    for flipped, accepted in ((0, True), (3, True), (4, False)):
        fast = full.copy()
        # Called positive now, in the same rank: the AUC does not move.
        fast[200 - flipped : 200] = np.linspace(0.51, 0.53, flipped)
        measured = compare(target, full, fast, 0.5)
        assert measured["auc_moved"] == 0
        assert measured["decisions_changed"] == flipped / 400
        assert measured["accepted"] is accepted
    # One ill film now ranks with the healthy, or below them; no decision changes.
    for ill, moved, accepted in ((0.6, 0.0025, True), (0.5, 0.005, False)):
        full = np.concatenate([np.full(200, 0.6), np.full(200, 0.7)])
        fast = full.copy()
        fast[200] = ill
        measured = compare(target, full, fast, 0.4)
        assert measured["decisions_changed"] == 0
        assert measured["largest_move"] == pytest.approx(0.7 - ill)
        assert measured["auc_moved"] == pytest.approx(moved)
        assert measured["accepted"] is accepted


@pytest.mark.parametrize("name", FILES)
def test_changed_engine_is_named(saved, tmp_path, name):
    folder = tmp_path / "run"
    shutil.copytree(saved.folder, folder)
    changed = bytearray((folder / name).read_bytes())
    changed[-1] ^= 1
    (folder / name).write_bytes(changed)
    with pytest.raises(RunError, match=rf"{name} is not the file that was saved. Train again"):
        load_fast(folder)


def test_an_engine_without_digests_is_not_used(saved, tmp_path):
    folder = shutil.copytree(saved.folder, tmp_path / "run")
    facts = json.loads((folder / "run.json").read_text())
    facts["files"] = {name: x for name, x in facts["files"].items() if name not in FILES}
    (folder / "run.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match="has no fast engine"):
        load_fast(folder)


def test_engine_of_another_study_is_not_made(saved, make_tiny_study, tmp_path):
    rows = [(f"{n}_0.png", "Cardiomegaly" if n % 2 else "No Finding") for n in range(40)]
    with pytest.raises(RunError, match="does not hold the films that .*fast was made from"):
        add_engine(saved, read_study(make_tiny_study(tmp_path, rows)))


def test_scores_by_the_model_go_on_when_an_engine_was_added(saved, tmp_path):
    bare = json.loads((saved.folder / "run.json").read_text())
    files = bare.pop("engine")["files"]
    bare["files"] = {name: d for name, d in bare["files"].items() if name not in files}
    assert score._settings(replace(saved, facts=bare), True) == score._settings(saved, True)


def test_run_without_engine(medical, monkeypatch):
    monkeypatch.setattr(module, "load_run", lambda _: pytest.fail("the network was built"))
    bundled = medical / "models" / "cardiomegaly"
    assert "engine" not in json.loads((bundled / "run.json").read_text())
    with pytest.raises(RunError, match=r"none was added.*`cxr engine RUN STUDY`"):
        load_fast(bundled)


def test_without_openvino_all_but_the_engine_works(
    saved, trained_run, pixels, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(EngineError, match=r"needs openvino .*pip install '\.\[fast\]' in a clone"):
        load_fast(saved.folder)
    folder = shutil.copytree(saved.folder, tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(EngineError, match=r"\.\[fast\]"):
        add_engine(replace(saved, folder=folder), trained_run[1])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]
    assert np.isfinite(saved.predict(pixels)).all()
    load_run(saved.folder)


def test_test_patients_are_scored_by_the_model(saved, fast, trained_run, tmp_path):
    folders = [tmp_path / "full", tmp_path / "fast"]
    for folder in folders:
        shutil.copytree(saved.folder, folder)
    full = score_test(replace(saved, folder=folders[0]), trained_run[1])
    tested = score_test(replace(fast, folder=folders[1]), trained_run[1])
    assert tested.engine and tested.facts["metrics"] == full.facts["metrics"]
    assert tested.predictions.equals(full.predictions)


def test_command_scores_fast(saved, fast, medical, tmp_path, capsys):
    films = [str(path) for path in sorted((medical / "images").iterdir())[:3]]
    main(["score", str(saved.folder), *films, "--out", str(tmp_path / "fast.csv"), "--fast"])
    given = pd.read_csv(tmp_path / "fast.csv")["probability"]
    full = score_films(saved, films)["probability"]
    settings = score._settings(fast, True)
    assert settings != score._settings(saved, True)
    part = score._score_part(load_fast, str(saved.folder), settings, films)
    assert given.tolist() == [row[2] for row in part]
    assert np.abs(given - full).max() > 1e-6
    assert given.tolist() == score_films(fast, films)["probability"].tolist()


@pytest.mark.portable
def test_a_worker_scores_fast_to_the_same_bytes(saved, fast, medical, tmp_path):
    paths = [str(path) for path in sorted((medical / "images").iterdir())[:12]]
    alone, spread = tmp_path / "alone.csv", tmp_path / "spread.csv"
    score.write_scores(fast, paths, alone, part=4)
    score.write_scores(fast, paths, spread, workers=1, part=4)
    assert spread.read_bytes() == alone.read_bytes()
    assert (
        np.abs(pd.read_csv(alone)["probability"] - score_films(saved, paths)["probability"]).max()
        > 1e-6
    )
