import io
import json
import os
import shutil
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxrlib.data.images import PREPROCESSING, file_digest, read_image
from cxrlib.data.study import choose_films, digest_films, read_study
from cxrlib.metrics.thresholds import choose_threshold
from cxrlib.model import run as module
from cxrlib.model._keras import keras
from cxrlib.model.backbone import extract_features, join, load_backbone
from cxrlib.model.card import model_card
from cxrlib.model.facts import read_facts
from cxrlib.model.head import fit_head
from cxrlib.model.predict import score_films, score_test
from cxrlib.model.run import RunError, load_run
from cxrlib.model.save import save_run
from facts import edit


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of one's own."""
    keras.utils.set_random_seed(3)
    shape = (32, 32, 3)
    network = keras.applications.MobileNet(include_top=False, weights=None, input_shape=shape)
    path = tmp_path_factory.mktemp("weights") / "mine.weights.h5"
    network.save_weights(path)
    return path


@pytest.fixture(scope="module")
def parts(study, weights):
    """What `save_run` is given after the folder, made with a small backbone."""
    films = choose_films(study, "Cardiomegaly")
    train = films[films["split"] == "train"]
    backbone = load_backbone("MobileNet", str(weights), 32, "conv1")
    features = extract_features(backbone, train["path"], grid=4)
    return study, films, "Cardiomegaly", backbone, fit_head(features, train)


@pytest.fixture
def saved(trained_run, tmp_path):
    """A copy of the trained run, whose test patients are not scored yet."""
    return shutil.copytree(trained_run[0], tmp_path / "run")


@pytest.fixture
def own_run(small_run, saved):
    """The same, loaded."""
    return replace(small_run, folder=saved)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.portable
def test_round_trip(parts, tmp_path):
    study, films, _, backbone, fitted = parts
    run = save_run(tmp_path / "deep" / "run", *parts, seed=5)
    again = load_run(run.folder)
    assert again.facts == run.facts
    batch = np.stack([read_image(path, 32) for path in films["path"][:9]])[..., None]
    expected = run.model.predict_on_batch(batch)
    assert expected.std() > 0
    assert (again.model.predict_on_batch(batch) == expected).all()
    assert set(content(run.folder)) == {
        "head.keras",
        "run.json",
        "predictions.csv",
        "history.csv",
        "MODEL_CARD.md",
    }
    predictions = again.predictions
    assert list(predictions) == module.PREDICTION_COLUMNS
    pd.testing.assert_frame_equal(again.split("train"), predictions)
    assert again.split("test").empty
    assert again.split("test", study)["probability"].isna().all()
    joined = again.split("train", study)
    assert joined["path"].tolist() == films.loc[films["split"] == "train", "path"].tolist()
    np.testing.assert_array_equal(joined["probability"], predictions["probability"])
    assert (again.finding, again.image_size) == (parts[2], 32)
    assert again.prevalence == again.metrics["train"]["prevalence"] == predictions["target"].mean()
    train = films[films["split"] == "train"]
    assert predictions["path"].tolist() == [f"images/{name}" for name in train["filename"]]
    rounded = fitted.probability.round(6)
    assert (rounded != fitted.probability).any()
    assert predictions["probability"].tolist() == rounded.tolist()
    assert run.threshold == choose_threshold(train["target"].to_numpy(), rounded)
    called = predictions["probability"] >= run.threshold
    assert (predictions["decision"] == np.where(called, "positive", "negative")).all()
    confusion = run.facts["metrics"]["train"]["confusion"]
    assert confusion["tp"] == (called & (train["target"].to_numpy() == 1)).sum()
    assert pd.read_csv(run.folder / "history.csv").columns.tolist() == list(fitted.history)


def test_facts_hold_the_contract(parts, tmp_path, weights):
    study, films, _, backbone, fitted = parts
    run = save_run(tmp_path / "run", *parts, operating_point="sensitivity=0.9", seed=5)
    text = (run.folder / "run.json").read_text()
    facts = json.loads(text)
    assert facts["finding"] == "Cardiomegaly"
    assert facts["image_size"] == 32
    assert facts["backbone"]["digest"] == backbone.digest
    assert facts["preprocessing"] == PREPROCESSING
    assert facts["threshold"]["rule"] == "sensitivity=0.9"
    assert facts["metrics"]["train"]["sensitivity"]["value"] >= 0.8999
    assert "grouped by patient" in facts["threshold"]["chosen_on"]
    train = films[films["split"] == "train"]
    assert facts["prevalence"] == pytest.approx(train["target"].mean())
    assert facts["split"]["patients"] == films.groupby("split")["patient"].nunique().to_dict()
    assert not any(f'"{patient}"' in text for patient in films["patient"])
    assert "SHA-256" in facts["split"]["rule"]
    assert facts["data"]["films"] == len(films)
    assert facts["data"]["digest"] == digest_films(films.sample(frac=1, random_state=0))
    assert {"cxrlib", "keras", "tensorflow"} <= set(facts["versions"])
    assert facts["metrics"]["train"]["auc"]["low"] < facts["metrics"]["train"]["auc"]["value"]
    assert "test" not in facts["metrics"]
    assert facts["seed"] == 5
    # Not a path of the machine, though weights came from one.
    assert facts["backbone"]["weights"].startswith("../")
    assert str(tmp_path) not in text and str(weights.parent) not in text
    assert '"/' not in text


def test_a_run_of_the_same_name_stands_in_with_a_warning(small, tmp_path):
    with pytest.warns(UserWarning, match="there is no .*runs/run yet, so .*small.*run is loaded"):
        assert load_run(tmp_path / "runs" / "run", fallback=small).folder == small
    with pytest.raises(RunError, match=r"effusion holds no run\.json"):
        load_run(tmp_path / "runs" / "effusion", fallback=small)


def rezip(content, change):
    """Return a `.keras` file in which `change(name, bytes)` gives each member, None for none."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            if (member := change(name, old.read(name))) is not None:
                new.writestr(name, member)
    return out.getvalue()


def replaced(name, by):
    return lambda content: rezip(content, lambda n, member: by(member) if n == name else member)


def model_of(*layers, shape=(4, 4, 32)):
    def make(_):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "head.keras"
            keras.Sequential([keras.Input(shape), *layers]).save(path)
            return path.read_bytes()

    return make


def not_finite(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "head.keras"
        path.write_bytes(content)
        head = keras.models.load_model(path)
        head.set_weights([np.full_like(weight, np.nan) for weight in head.get_weights()])
        head.save(path)
        return path.read_bytes()


WEIGHTS, CONFIG = "model.weights.h5", "config.json"
DAMAGE = {
    "empty": lambda _: b"",
    "text": lambda _: b"a thesis",
    "cut": lambda content: content[:-100],
    "half": lambda content: content[: len(content) // 2],
    "no weights": lambda content: rezip(content, lambda n, x: None if n == WEIGHTS else x),
    "no config": lambda content: rezip(content, lambda n, x: None if n == CONFIG else x),
    "no members": lambda content: rezip(content, lambda *_: None),
    "weights cut": replaced(WEIGHTS, lambda x: x[: len(x) // 2]),
    "weights empty": replaced(WEIGHTS, lambda _: b""),
    "config cut": replaced(CONFIG, lambda x: x[:-20]),
    "config of a list": replaced(CONFIG, lambda _: b"[]"),
    "unknown layer": replaced(CONFIG, lambda x: x.replace(b'"Flatten"', b'"Fatten"')),
    "other layer": replaced(CONFIG, lambda x: x.replace(b'"Flatten"', b'"LSTM"')),
    "lambda": model_of(keras.layers.Flatten(), keras.layers.Lambda(lambda x: x[:, :1])),
    "other input": model_of(keras.layers.Flatten(), keras.layers.Dense(1), shape=(3, 3, 5)),
    "flat input": model_of(keras.layers.Dense(1), shape=(512,)),
    "two outputs": model_of(keras.layers.Flatten(), keras.layers.Dense(2)),
    "not finite": not_finite,
}


@pytest.fixture(scope="module")
def small(parts, tmp_path_factory):
    """A run that loads in a moment."""
    return save_run(tmp_path_factory.mktemp("small") / "run", *parts).folder


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_model_file_that_is_none_is_told_in_a_sentence(small, tmp_path, damage):
    folder = shutil.copytree(small, tmp_path / "run")
    edit(folder, "backbone", "weights", value=os.path.relpath(weights_of(small), folder))
    file = folder / "head.keras"
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    edit(folder, "files", "head.keras", value=file_digest(file))
    with pytest.raises(RunError, match=r"head\.keras holds no model of this run .*Train again\.$"):
        load_run(folder)


def weights_of(folder):
    return folder / json.loads((folder / "run.json").read_text())["backbone"]["weights"]


def test_too_little_memory_is_told_as_such(small, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(keras.models, "load_model", fail)
    with pytest.raises(RunError, match="run: too little memory to load it"):
        load_run(small)
    monkeypatch.undo()
    fail.__module__ = keras.applications.MobileNet.__module__
    monkeypatch.setattr(keras.applications, "MobileNet", fail)
    with pytest.raises(RunError, match="run: too little memory to load it"):
        load_run(small)


def test_a_model_that_is_not_finite_is_not_saved(parts, tmp_path):
    head = keras.models.clone_model(parts[4].model)
    head.set_weights([np.full_like(weight, np.inf) for weight in head.get_weights()])
    with pytest.raises(RunError, match="weights that are not finite numbers: check labels"):
        save_run(tmp_path / "run", *parts[:4], replace(parts[4], model=head))
    assert not list(tmp_path.iterdir())


def test_other_weights_are_refused(parts, weights, tmp_path):
    mine = tmp_path / "mine.weights.h5"
    shutil.copy(weights, mine)
    backbone = replace(parts[3], weights=str(mine))
    run = save_run(tmp_path / "run", *parts[:3], backbone, parts[4])
    load_run(run.folder)
    keras.utils.set_random_seed(4)
    shape = (32, 32, 3)
    network = keras.applications.MobileNet(include_top=False, weights=None, input_shape=shape)
    network.save_weights(mine)
    with pytest.raises(RunError, match=r"other weights than '.*mine\.weights\.h5' gives now"):
        load_run(run.folder)


def test_project_can_be_moved_with_its_weights(parts, weights, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(weights, project / "mine.weights.h5")
    backbone = replace(parts[3], weights=str(project / "mine.weights.h5"))
    save_run(project / "runs" / "one", *parts[:3], backbone, parts[4])
    project.rename(tmp_path / "moved")
    load_run(tmp_path / "moved" / "runs" / "one")


def test_a_run_is_replaced_whole_or_not_at_all(parts, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    save_run(folder, *parts)
    (folder / "left over.txt").write_text("of an earlier run")
    before = content(folder)

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(module, "model_card", fail)
    with pytest.raises(OSError, match="no space"):
        save_run(folder, *parts, seed=1)
    monkeypatch.undo()
    assert content(folder) == before
    save_run(folder, *parts, seed=1)
    assert json.loads((folder / "run.json").read_text())["seed"] == 1
    assert "left over.txt" not in content(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_link_to_a_folder_is_followed(parts, tmp_path):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "run").symlink_to("large disk")
    for seed in (0, 1):
        save_run(tmp_path / "run", *parts, seed=seed)
        assert load_run(tmp_path / "large disk").facts["seed"] == seed
    assert (tmp_path / "run").is_symlink()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "large disk"}


def test_foreign_folder_is_left_alone(parts, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match=r"holds files, but no run\.json"):
        save_run(tmp_path, *parts)
    assert set(content(tmp_path)) == {"thesis.txt"}


def test_fine_tuned_run(parts, tmp_path):
    """A run of which the whole network is kept, with probabilities for some training films."""
    study, films, finding, backbone, fitted = parts
    network = join(backbone, fitted.model)
    known = np.where(fitted.fold == 0, fitted.probability, np.nan)
    tuned = replace(fitted, model=network, stage="finetuned", probability=known)
    run = save_run(tmp_path / "run", study, films, finding, backbone, tuned)
    again = load_run(run.folder)
    batch = np.stack([read_image(path, 32) for path in films["path"][:9]])[..., None]
    assert (again.model.predict_on_batch(batch) == network.predict_on_batch(batch)).all()
    assert len(again.predictions) == (fitted.fold == 0).sum()
    (run.folder / "model.keras").write_bytes(b"else")
    with pytest.raises(RunError, match=r"model\.keras is not the file"):
        load_run(run.folder)


def test_test_patients_are_scored_once(own_run, trained_run, monkeypatch):
    study, run, saved = trained_run[1], own_run, own_run.folder
    before = content(saved)
    # None is refused there: it would flatter the classifier.
    refuse = "cxrlib.model.predict.find_reasons"
    monkeypatch.setattr(refuse, lambda *_: pytest.fail("asked for reasons"))
    scored = score_test(run, study)
    after = content(saved)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"run.json", "predictions.csv", "MODEL_CARD.md"}
    assert set(after) == set(before)
    assert "test" not in run.facts["metrics"]
    assert scored.facts["metrics"]["train"] == run.facts["metrics"]["train"]
    predictions = scored.predictions
    test = predictions[predictions["split"] == "test"]
    films = choose_films(study, "Cardiomegaly").query("split == 'test'")
    assert test["path"].tolist() == [f"images/{name}" for name in films["filename"]]
    seen = set(predictions.query("split == 'train'")["patient"])
    assert seen.isdisjoint(test["patient"])
    assert scored.facts["metrics"]["test"]["films"] == len(films)
    assert scored.facts["metrics"]["test"]["auc"]["value"] > 0.8
    alone = score_films(run, films["path"][:5], check=False)
    np.testing.assert_array_equal(test["probability"][:5], alone["probability"])
    assert test["decision"][:5].tolist() == alone["decision"].tolist()
    card = (saved / "MODEL_CARD.md").read_text()
    assert "| metric | training, held out | test |" in card

    monkeypatch.setattr("cxrlib.model.predict.score_films", None)
    again = score_test(load_run(saved), study)
    assert again.facts == scored.facts
    assert content(saved) == after


def test_scoring_refuses_another_study(own_run, medical, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(medical, other)
    labels = pd.read_csv(other / "labels.csv")
    labels.iloc[:-1].to_csv(other / "labels.csv", index=False)
    before = content(own_run.folder)
    with pytest.raises(RunError, match="other does not hold the films that .*run was made from"):
        score_test(own_run, read_study(other))
    assert content(own_run.folder) == before


def test_scoring_refuses_patients_on_other_sides(trained_run, own_run):
    study = trained_run[1]
    test = study.films["split"] == "test"
    first = study.films.loc[~test, "patient"].iloc[0]
    moved = study.films.assign(patient=study.films["patient"].where(~test, first))
    with pytest.raises(RunError, match="stand on other sides than when .*run was made"):
        score_test(own_run, replace(study, films=moved))


def test_a_run_of_format_2_lists_its_patients_and_still_loads(trained_run, saved):
    study = trained_run[1]
    films = choose_films(study, "Cardiomegaly")
    sides = {side: sorted(set(rows["patient"])) for side, rows in films.groupby("split")}
    edit(saved, "format", value=2)
    edit(saved, "split", value={"rule": study.split_rule, "patients": sides})
    run = load_run(saved)
    counted = f"{len(sides['train'])} patients"
    assert counted in model_card(run.facts) and "test" in score_test(run, study).metrics
    shutil.copytree(trained_run[0], saved, dirs_exist_ok=True)
    edit(saved, "format", value=2)
    sides["train"].append(sides["test"][0])
    edit(saved, "split", value={"rule": study.split_rule, "patients": sides})
    with pytest.raises(RunError, match="stand on other sides"):
        score_test(replace(run, facts=read_facts(saved)), study)
