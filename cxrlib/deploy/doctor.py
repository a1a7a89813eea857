"""Is this installation in order? One film goes through it, and each step is compared."""

import hashlib
import json
import os
import platform
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from cxrlib import versions
from cxrlib.data.files import file_digest
from cxrlib.data.frontal import BUNDLED as CHECK_FILE
from cxrlib.data.frontal import find_reasons
from cxrlib.data.images import read_image
from cxrlib.model._keras import keras
from cxrlib.model.backbone import Backbone, join, load_backbone
from cxrlib.model.network import BUNDLED

# What is compared with; `tools/make_golden.py` makes it.
GOLDEN = Path(__file__).parent / "golden"
FILM, FEATURES, HEAD = GOLDEN / "film4.png", GOLDEN / "features.npy", GOLDEN / "head.keras"
SIZE, TILES = 399, 7
# Measured against plain float32: without oneDNN 0.0005 and 0.0000001, inputs and kernels of every
# convolution rounded to TF32, as GPUs do by default, 0.02 and 0.0003, to bfloat16 0.33 and 0.014.
FEATURE_OFF = 0.05  # in standard deviations of the features
SCORE_OFF = 0.002  # in probability

AGAIN = "The file is not that of this cxrlib. Install it again, or take the file by git."
CAUSE = (
    "The same input gives another output: another {}, or a change in cxrlib.{}. Install the "
    "versions of requirements.lock (`make .venv/ready`)."
)
KERAS = CAUSE.format("TensorFlow or Keras", "model.backbone")
DEVICE = "Or a driver, or less precision: try CUDA_VISIBLE_DEVICES=-1, TF_ENABLE_ONEDNN_OPTS=0."


def describe_machine() -> dict[str, str]:
    """Return what the result of a computation may depend on: versions, platform, devices."""
    import tensorflow as tf

    devices = []
    for device in tf.config.list_physical_devices():
        model = tf.config.experimental.get_device_details(device).get("device_name")
        name = device.name.removeprefix("/physical_device:")
        devices.append(f"{name} ({model})" if model else name)
    where = {"python": platform.python_version(), "devices": ", ".join(devices)}
    return versions() | where | {"platform": f"{platform.platform()}, {os.cpu_count()} cores"}


def examine() -> pd.DataFrame:
    """Take the bundled film from its file to grey values, features and a score.

    Each step is compared with what is stored, up to the first that differs. Returns a DataFrame,
    one row per step: step; same (bool); found, a sentence with the numbers; advice, what a
    difference means and what to do, '' where there is none.
    """
    rows, golden, made = [], json.loads((GOLDEN / "golden.json").read_text()), {}
    for step, look, advice in STEPS:
        try:
            same, found = look(golden, made)
        except Exception as error:  # whatever a broken installation raises, the step is the news
            same, found = False, f"{type(error).__name__}: {error}"
        rows.append((step, same, found, "" if same else advice))
        if not same:
            break
    return pd.DataFrame(rows, columns=["step", "same", "found", "advice"])


def _grey(golden: dict, made: dict) -> tuple[bool, str]:
    grey = made["grey"] = read_image(FILM, SIZE)
    off = 255 * abs(tile_means(grey) - golden["grey_means"]).max()
    more = f"; means of {TILES} x {TILES} tiles are off by up to {off:.3f} of 255"
    return _compare(hashlib.sha256(grey.tobytes()).hexdigest(), golden["grey"], more)


def _network(golden: dict, made: dict) -> tuple[bool, str]:
    made["backbone"] = load_backbone(image_size=SIZE)
    return _compare(made["backbone"].digest, golden["network"])


def _features(golden: dict, made: dict) -> tuple[bool, str]:
    head = keras.models.load_model(HEAD, safe_mode=True)
    features, made["score"] = apply_network(made["backbone"], head, made["grey"])
    stored = np.load(FEATURES).astype(float)
    off = abs(features - stored).max() / stored.std()
    more = f"; off by up to {off:.2g} standard deviations, {FEATURE_OFF} allowed"
    digest = hashlib.sha256(features.tobytes()).hexdigest()
    same, found = _compare(digest, golden["features"], more)
    return same or off <= FEATURE_OFF, found


def _score(golden: dict, made: dict) -> tuple[bool, str]:
    off = abs(made["score"] - golden["probability"])
    return off <= SCORE_OFF, f"{made['score']:.6f}, off by {off:.2g}, {SCORE_OFF} allowed"


def _check(_: dict, made: dict) -> tuple[bool, str]:
    reason = find_reasons(made["grey"][None])["reason"][0]
    return not reason, reason or "a frontal chest radiograph, as it is"


# Name, a look that compares with what is stored and leaves what it made to those behind it, and
# what it means that it differs while all before it are as stored.
STEPS = [
    ("weights file", lambda golden, _: _compare(file_digest(BUNDLED), golden["weights"]), AGAIN),
    ("film file", lambda golden, _: _compare(file_digest(FILM), golden["film"]), AGAIN),
    ("head file", lambda golden, _: _compare(file_digest(HEAD), golden["head"]), AGAIN),
    ("check file", lambda golden, _: _compare(file_digest(CHECK_FILE), golden["check"]), AGAIN),
    ("grey values", _grey, CAUSE.format("Pillow or NumPy", "data.images")),
    ("network", _network, KERAS),
    ("features", _features, f"{KERAS} {DEVICE}"),
    ("score", _score, KERAS),
    ("check", _check, CAUSE.format("NumPy or Pillow", "data.frontal")),
]


def _compare(found: str, stored: str, more: str = "") -> tuple[bool, str]:
    other = "" if found == stored else f" and not {stored[:12]}"
    return found == stored, f"SHA-256 {found[:12]}{other}{more}"


def tile_means(grey: np.ndarray) -> np.ndarray:
    """Return the means of 7 x 7 tiles of a square film whose side is a multiple of seven."""
    side = len(grey) // TILES
    return grey.reshape(TILES, side, TILES, side).mean(axis=(1, 3), dtype=float)


def apply_network(
    backbone: Backbone, head: keras.Model, grey: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return the features, float16 (grid, grid, channels), and the probability of a square film."""
    model = join(backbone, head)
    model = keras.Model(model.input, [model.get_layer("grid").output, model.output])
    features, logit = model.predict_on_batch(grey[None, ..., None])
    return features[0].astype(np.float16), float(expit(logit[0, 0]))
