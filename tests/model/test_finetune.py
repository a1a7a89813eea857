import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.utils.class_weight import compute_sample_weight

from cxrlib.audit.localise import map_films
from cxrlib.data.images import read_image
from cxrlib.data.study import choose_films, read_study
from cxrlib.deploy.export import export_run
from cxrlib.model import finetune as module
from cxrlib.model._keras import keras
from cxrlib.model.backbone import extract_features, join, load_backbone
from cxrlib.model.batches import TrainingFilms
from cxrlib.model.evidence import map_evidence
from cxrlib.model.finetune import fine_tune
from cxrlib.model.head import TrainError, fit_head, fit_uncalibrated
from cxrlib.model.network import parts_of
from cxrlib.model.run import Run, load_run
from cxrlib.model.save import save_run
from cxrlib.model.store import Rows

SIZE = 64
SETTINGS = {"from_layer": "stage1", "learning_rate": 1e-4, "epochs": 2}


def prepare(medical):
    """What `fine_tune` is given: a small backbone, features, films of a few patients, a head."""
    films = choose_films(read_study(medical), "Cardiomegaly").query("split == 'train'")[:48]
    backbone = load_backbone("EfficientNetLite2", image_size=SIZE, layer="stage2")
    features = extract_features(backbone, films["path"], grid=3)
    return backbone, features, films, fit_head(features, films)


# Trains one epoch on two devices, and says on how many `fit` runs; then begins anew on one device,
# and dies in the midst of the second epoch.
CHILD = """
import os, signal, sys
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
sys.path.insert(0, sys.argv[1])
from cxrlib.model import batches
from test_finetune import SETTINGS, fine_tune, keras, module, prepare
fit = keras.Model.fit
def counting_fit(model, *args, **kwargs):
    print(model.distribute_strategy.num_replicas_in_sync, flush=True)
    return fit(model, *args, **kwargs)
keras.Model.fit = counting_fit
given, two = prepare(sys.argv[2]), ["CPU:0", "CPU:1"]
fine_tune(*given, sys.argv[3] + "/two", **SETTINGS | {"epochs": 1}, devices=two)
keep = module._keep
def keep_and_die(folder, model, history, row):
    if row["epoch"] == 1:
        batches.read_image = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    return keep(folder, model, history, row)
module._keep = keep_and_die
fine_tune(*given, sys.argv[3] + "/killed", **SETTINGS)
"""


@pytest.fixture(scope="module")
def given(medical):
    return prepare(medical)


@pytest.fixture(scope="module")
def before(given):
    return [weight.copy() for weight in given[0].model.get_weights()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("epochs")


@pytest.fixture(scope="module")
def tuned(given, before, folder):
    """Fine-tuned for two epochs, undisturbed."""
    return fine_tune(*given, folder, **SETTINGS)


@pytest.fixture(scope="module")
def begun(medical, tmp_path_factory):
    """What another process began: 'two' on two devices, 'killed' until it died."""
    out = tmp_path_factory.mktemp("begun")
    command = [sys.executable, "-c", CHILD, os.path.dirname(__file__), medical, out]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert child.stdout == "2\n1\n1\n"
    return out


def last_epoch(folder):
    (of_settings,) = folder.iterdir()
    epoch = pd.read_csv(of_settings / "history.csv")["epoch"].max()
    return keras.models.load_model(of_settings / f"epoch{epoch}.keras")


def trained_layers(model):
    names = [layer.name for layer in model.layers]
    return names[names.index("stage1") + 1 : names.index("stage2") + 1]


def test_batch_normalisation_stays_frozen(given, tuned, folder):
    backbone, features, films, fitted = given
    model = last_epoch(folder)
    frozen = [x for x in backbone.model.layers if isinstance(x, keras.layers.BatchNormalization)]
    above = [x.name for x in frozen if x.name in trained_layers(backbone.model)]
    assert len(above) == 9  # of stage2: they would move
    for layer in frozen:
        for old, new in zip(
            layer.get_weights(), model.get_layer(layer.name).get_weights(), strict=True
        ):
            assert old.tobytes() == new.tobytes()
    trained = fitted.fold != 0
    start, _ = fit_uncalibrated(
        features[trained], films["target"].to_numpy()[trained], fitted.fold[trained], fitted.facts
    )
    for old, new in zip(
        start.get_layer("standardise").get_weights(),
        model.get_layer("head").get_layer("standardise").get_weights(),
        strict=True,
    ):
        assert old.tobytes() == new.tobytes()


def test_only_layers_above_are_trained(given, tuned, folder):
    old, new = given[0].model, last_epoch(folder)
    convolutions = [x.name for x in old.layers if isinstance(x, keras.layers.Conv2D)]
    above = set(trained_layers(old))
    changed = {
        name
        for name in convolutions
        if (old.get_layer(name).get_weights()[0] != new.get_layer(name).get_weights()[0]).any()
    }
    assert changed == set(convolutions) & above
    assert len(changed) == 6


def test_the_backbone_given_stays_as_it_was(given, before, tuned):
    for old, new in zip(before, given[0].model.get_weights(), strict=True):
        assert old.tobytes() == new.tobytes()


def test_validation_patients_are_not_trained_on(given, tuned, monkeypatch, tmp_path):
    films, fitted = given[2], given[3]
    seen = []

    def fit(_, data, **__):
        seen.append(data.films)
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "fit", fit, raising=False)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(*given, tmp_path, **SETTINGS)
    scored = films[~np.isnan(tuned.probability)]
    assert set(seen[0]["patient"]).isdisjoint(scored["patient"])
    assert len(seen[0]) + len(scored) == len(films)
    assert (np.isnan(tuned.probability) == (fitted.fold != 0)).all()


def test_history_and_the_model_of_the_best_epoch(given, tuned):
    films, history = given[2], tuned.history
    assert list(history) == ["epoch", "val_loss", "val_auc", "auc", "loss"]
    assert history["epoch"].tolist() == [0, 1, 2]
    best = history.loc[history["val_loss"].idxmin()]
    assert tuned.facts["finetuning_epochs"] == best["epoch"]
    assert tuned.stage == "finetuned"
    # Undo the calibration: what is left has the loss that the best epoch had.
    held_out = ~np.isnan(tuned.probability)
    target = films["target"].to_numpy()[held_out]
    of_model = tuned.model.predict(TrainingFilms(films[held_out], SIZE, 16), verbose=0)
    of_model = of_model[: held_out.sum(), 0]
    np.testing.assert_allclose(logit(tuned.probability[held_out]), of_model, atol=1e-4)
    calibration = tuned.facts["calibration"]
    raw = (of_model - calibration["intercept"]) / calibration["slope"]
    loss = np.log1p(np.exp(np.where(target == 1, -raw, raw)))
    weights = compute_sample_weight("balanced", target)
    assert (loss * weights).sum() / len(loss) == pytest.approx(best["val_loss"], rel=1e-4)


@pytest.mark.portable
def test_killed_training_goes_on_as_if_undisturbed(given, tuned, folder, begun):
    killed = begun / "killed"
    (of_settings,) = killed.iterdir()
    assert len(pd.read_csv(of_settings / "history.csv")) == 2  # the start and one epoch
    first = (of_settings / "epoch1.keras").stat().st_mtime_ns
    resumed = fine_tune(*given, killed, **SETTINGS)
    assert [path.name for path in killed.iterdir()] == [of_settings.name]
    pd.testing.assert_frame_equal(resumed.history, tuned.history, check_exact=True)
    assert resumed.probability.tobytes() == tuned.probability.tobytes()
    for one, other in zip(
        last_epoch(killed).get_weights(), last_epoch(folder).get_weights(), strict=True
    ):
        assert one.tobytes() == other.tobytes()
    if (of_settings / "epoch1.keras").exists():
        assert (of_settings / "epoch1.keras").stat().st_mtime_ns == first


@pytest.mark.portable
def test_two_devices_train_as_one_does(given, tuned, folder, begun):
    fitted = given[3]
    assert (fitted.fold == 0).sum() % 2 and (fitted.fold != 0).sum() % 2  # last batches are uneven
    # What two devices began, one ends: all is as if one had done it, up to rounding.
    ended = fine_tune(*given, begun / "two", **SETTINGS)
    rounding = {"rtol": 0, "atol": 1e-6}
    pd.testing.assert_frame_equal(ended.history, tuned.history, **rounding)
    np.testing.assert_allclose(ended.probability, tuned.probability, **rounding)
    frozen = keras.layers.BatchNormalization
    for one, two in zip(last_epoch(folder).layers, last_epoch(begun / "two").layers, strict=True):
        for old, new in zip(one.get_weights(), two.get_weights(), strict=True):
            np.testing.assert_allclose(new, old, **rounding)
            assert not isinstance(one, frozen) or new.tobytes() == old.tobytes()


def test_a_finished_call_is_not_trained_again(given, tuned, folder, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", None, raising=False)
    again = fine_tune(*given, folder, **SETTINGS)
    assert again.probability.tobytes() == tuned.probability.tobytes()


def test_training_stops_early_and_returns_the_start(given, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 1)
    ruined = fine_tune(*given, tmp_path, from_layer="stage1", learning_rate=0.5, epochs=9)
    assert ruined.history["epoch"].tolist() == [0, 1]
    assert ruined.facts["finetuning_epochs"] == 0
    first = given[0].model.get_layer(trained_layers(given[0].model)[0]).name
    for old, new in zip(
        given[0].model.get_layer(first).get_weights(),
        ruined.model.get_layer(first).get_weights(),
        strict=True,
    ):
        assert old.tobytes() == new.tobytes()


@pytest.mark.parametrize("other", [{"learning_rate": 1e-3}, {"augment": False}, {"seed": 1}])
def test_other_settings_start_anew(given, tuned, folder, monkeypatch, other):
    def fit(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "fit", fit, raising=False)
    before = set(folder.iterdir())
    with pytest.raises(KeyboardInterrupt):
        fine_tune(*given, folder, **SETTINGS | other)
    (new,) = set(folder.iterdir()) - before
    assert pd.read_csv(new / "history.csv")["epoch"].tolist() == [0]


def test_augmentation_follows_the_seed_and_moves_films_a_little(given):
    films = given[2]

    def pixels(augment, seed):
        return TrainingFilms(films, SIZE, 16, [seed, 0] if augment else None)[0][0]

    plain = pixels(False, 5)
    moved = np.asarray(pixels(True, 5))
    assert moved.shape == plain.shape == (16, SIZE, SIZE, 1)
    assert (np.asarray(pixels(True, 5)) == moved).all()
    assert (np.asarray(pixels(True, 6)) != moved).any()
    assert 0.001 < abs(moved - plain).mean() < 0.2
    assert moved.min() >= 0 and moved.max() <= 1


def test_the_learning_rate_rises_and_falls_over_all_epochs(given, tmp_path, monkeypatch):
    rates, weights = [], []

    def fit(model, data, **_):
        rate = model.optimizer._learning_rate
        rates.extend(float(rate(step)) for step in range(4 * len(data) + 1))
        weights.append(model.optimizer.weight_decay)
        raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "fit", fit, raising=False)
    settings = SETTINGS | {"epochs": 4, "learning_rate": 1e-3}
    with pytest.raises(KeyboardInterrupt):
        fine_tune(*given, tmp_path, **settings, warm_up=1, decay=True, weight_decay=0.01)
    steps = (len(rates) - 1) // 4
    assert rates[0] == 0 and rates[steps] == pytest.approx(1e-3)
    assert np.diff(rates[: steps + 1]).min() > 0 > np.diff(rates[steps:]).max()
    fallen = np.cos(np.pi * np.arange(3 * steps + 1) / (3 * steps))
    assert rates[steps:] == pytest.approx(5e-4 * (1 + fallen), abs=1e-8)
    assert rates[-1] == pytest.approx(0, abs=1e-9) and weights == [0.01]


def test_16_bits_train_as_32_do_and_return_32(given, tuned, folder, tmp_path, monkeypatch):
    computed, load = [], module._load

    def load_and_look(*given):
        model = load(*given)
        layers = [part for whole in model.layers for part in parts_of(whole)]
        computed.append(({x.compute_dtype for x in layers}, model.optimizer))
        return model

    monkeypatch.setattr(module, "_precision", lambda devices: "mixed_float16")
    monkeypatch.setattr(module, "_load", load_and_look)
    half = fine_tune(*given, tmp_path, **SETTINGS | {"epochs": 1})
    assert [kinds for kinds, _ in computed] == [{"float16", "float32"}, {"float32"}]
    assert {weight.dtype for weight in half.model.weights} == {"float32"}
    assert isinstance(computed[0][1], keras.optimizers.LossScaleOptimizer)
    assert half.history["loss"][1] == pytest.approx(tuned.history["loss"][1], rel=0.02)
    assert half.history["val_loss"][1] != tuned.history["val_loss"][1]
    fine_tune(*given, folder, **SETTINGS)  # begun in 32 bits
    assert computed[2][0] == {"float32"}


@pytest.mark.parametrize(
    ("gpus", "devices", "precision"),
    [
        ([], None, "float32"),
        ([(9, 0), (8, 0)], None, "mixed_bfloat16"),
        ([(9, 0), (7, 5)], ["GPU:0"], "mixed_float16"),
        ([(6, 1)], None, "float32"),
        ([(9, 0)], ["GPU:0", "CPU:0"], "float32"),
    ],
)
def test_devices_decide_the_precision(monkeypatch, gpus, devices, precision):
    config = module.tf.config
    monkeypatch.setattr(config, "list_physical_devices", lambda kind: gpus)
    about = lambda gpu: {"compute_capability": gpu}  # noqa: E731
    monkeypatch.setattr(config.experimental, "get_device_details", about)
    assert module._precision(devices) == precision


def test_errors(given, tmp_path):
    backbone, features, films, fitted = given
    with pytest.raises(TrainError, match="give a layer of EfficientNetLite2 below 'stage2', such"):
        fine_tune(*given, tmp_path, from_layer="stage2")
    with pytest.raises(TrainError, match="for 0 epochs: give at least 1"):
        fine_tune(*given, tmp_path, from_layer="stage1", epochs=0)
    with pytest.raises(TrainError, match="warm_up is 3: give 0 or more, and fewer than 3 epochs"):
        fine_tune(*given, tmp_path, from_layer="stage1", epochs=3, warm_up=3)
    with pytest.raises(TrainError, match="device 'GPU:9': TensorFlow sees CPU:0"):
        fine_tune(*given, tmp_path, from_layer="stage1", devices=["CPU:0", "GPU:9"])
    with pytest.raises(TrainError, match="48 films of test patients"):
        fine_tune(backbone, features, films.assign(split="test"), fitted, tmp_path)
    with pytest.raises(TrainError, match="films is of type Rows: give the table of choose_films"):
        fine_tune(backbone, features, Rows(features, np.arange(48)), fitted, tmp_path)
    for embeddings in ((None, features), (backbone, features.reshape(48, -1))):
        with pytest.raises(TrainError, match="embeddings come without: give a backbone of load_"):
            fine_tune(*embeddings, films, fitted, tmp_path)
    with pytest.raises(TrainError, match="such as stage1$"):
        fine_tune(backbone, features, films, fitted, tmp_path, from_layer="nowhere")
    assert not list(tmp_path.iterdir())


def test_maps_are_taken_of_a_fine_tuned_model_too(given, tuned, tmp_path):
    backbone, _, films, _ = given
    paths = list(films["path"][:3])
    run = Run(tmp_path, {"image_size": backbone.image_size}, tuned.model)
    maps = map_films(run, paths)
    assert np.isfinite(maps["evidence"]).all()
    assert maps["Grad-CAM"].min() == 0 < maps["Grad-CAM"].max()
    for number, path in enumerate(paths):
        evidence, remainder = map_evidence(run, path)
        film = read_image(path, backbone.image_size)[None, ..., None]
        logit = float(tuned.model.predict_on_batch(film)[0, 0])
        assert evidence.sum() + remainder == pytest.approx(logit, abs=1e-3)
        np.testing.assert_allclose(maps["evidence"][number], evidence, atol=1e-4)


def test_a_fine_tuned_run_is_exported_too(given, tuned, medical, tmp_path):
    backbone, _, films, fitted = given
    study = read_study(medical)
    save_run(tmp_path / "run", study, films, "Cardiomegaly", backbone, tuned)
    run = load_run(tmp_path / "run")
    pixels = np.stack([read_image(path, SIZE) for path in films["path"][:4]])[..., None]
    untuned = expit(join(backbone, fitted.model).predict_on_batch(pixels)[:, 0])
    assert np.abs(run.predict(pixels) - untuned).max() > 0.01
    card = export_run(run, "onnx", tmp_path / "onnx")
    assert card["check"]["largest_difference"] < 1e-5
