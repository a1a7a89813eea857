"""Is this installation in order? One film goes through it, and each step is compared."""

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from cxrlib import versions
from cxrlib.data.frontal import BUNDLED as CHECK_FILE
from cxrlib.data.frontal import find_reasons
from cxrlib.data.images import file_digest, read_image
from cxrlib.model._keras import keras
from cxrlib.model.backbone import BUNDLED, Backbone, join, load_backbone

# What is compared with; `tools/make_golden.py` makes it.
GOLDEN = Path(__file__).parent / "golden"
FILM, FEATURES, HEAD = GOLDEN / "film4.png", GOLDEN / "features.npy", GOLDEN / "head.keras"
SIZE, TILES = 399, 7
# Measured against plain float32: without oneDNN 0.0005 and 0.0000001, inputs and kernels of every
# convolution rounded to TF32, as GPUs do by default, 0.02 and 0.0003, to bfloat16 0.33 and 0.014.
FEATURE_TOLERANCE = 0.05  # in standard deviations of the features
SCORE_TOLERANCE = 0.002  # in probability

AGAIN = "Install cxrlib again, or take the file from its source with git."
LOCK = "Install the versions of requirements.lock"
# What it means that a step differs while all before it are as stored, and what to do.
STEPS = {
    "weights file": "The network's weights are not those of cxrlib. Runs trained here could not be "
    f"compared, and others' would not load. {AGAIN}",
    "film file": f"The film to examine with was changed. {AGAIN}",
    "head file": f"The head to examine with was changed. {AGAIN}",
    "check file": f"The check for chest radiographs is not that of this cxrlib. {AGAIN}",
    "grey values": "The same file is read as other pixels: another Pillow or NumPy, or a change "
    f"in cxrlib.data.images. {LOCK} (`make .venv/ready`).",
    "network": "The weights file is right, but the network built from it is not: another Keras, or "
    f"a change in cxrlib.model.backbone. {LOCK}.",
    "features": "The same network computes other numbers: another TensorFlow, a driver, or less "
    f"precision. {LOCK}; try CUDA_VISIBLE_DEVICES=-1 and TF_ENABLE_ONEDNN_OPTS=0 to find which.",
    "score": "The features are right, but the score is not: another Keras, or a change in "
    f"cxrlib.model.backbone. {LOCK}.",
    "check": "The check is right, but refuses a chest radiograph: another NumPy or Pillow, or a "
    f"change in cxrlib.data.frontal. {LOCK}.",
}


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

    Each step is compared with what is stored beside the film. The first one that differs is the
    last one looked at, since those after it follow from it. Takes seconds, no run and no network.

    Returns
    -------
    DataFrame, one row per step
        step; same (bool); found, a sentence with the numbers; advice, what a difference means and
        what to do, '' where there is none.
    """
    rows, looks = [], _look()
    for step, advice in STEPS.items():
        try:
            same, found = next(looks)
        except Exception as error:  # whatever a broken installation raises, the step is the news
            same, found = False, f"{type(error).__name__}: {error}"
        rows.append((step, same, found, "" if same else advice))
        if not same:
            break
    return pd.DataFrame(rows, columns=["step", "same", "found", "advice"])


def digest_values(values: np.ndarray) -> str:
    """Return the SHA-256 of an array's bytes."""
    return hashlib.sha256(values.tobytes()).hexdigest()


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


def _look() -> Iterator[tuple[bool, str]]:
    """Yield (same, found) for each of STEPS."""
    readme = (BUNDLED.parent / "README.md").read_text()
    yield _compare_digests(file_digest(BUNDLED), re.search(r"^ {4}(\w{64})$", readme, re.M)[1])
    golden = json.loads((GOLDEN / "golden.json").read_text())
    for file, name in ((FILM, "film"), (HEAD, "head"), (CHECK_FILE, "check")):
        yield _compare_digests(file_digest(file), golden[name])

    grey = read_image(FILM, SIZE)
    same, found = _compare_digests(digest_values(grey), golden["grey"])
    off = 255 * abs(tile_means(grey) - golden["grey_means"]).max()
    yield same, found + f"; means of {TILES} x {TILES} tiles are off by up to {off:.3f} of 255"
    backbone = load_backbone(image_size=SIZE)
    yield _compare_digests(backbone.digest, golden["network"])

    head = keras.models.load_model(HEAD, safe_mode=True)
    features, probability = apply_network(backbone, head, grey)
    same, found = _compare_digests(digest_values(features), golden["features"])
    stored = np.load(FEATURES).astype(float)
    off = abs(features - stored).max() / stored.std()
    found += f"; off by up to {off:.2g} standard deviations, {FEATURE_TOLERANCE} allowed"
    yield same or off <= FEATURE_TOLERANCE, found
    off = abs(probability - golden["probability"])
    yield off <= SCORE_TOLERANCE, f"{probability:.6f}, off by {off:.2g}, {SCORE_TOLERANCE} allowed"
    reason = find_reasons(grey[None])["reason"][0]
    yield not reason, reason or "a frontal chest radiograph, as it is"


def _compare_digests(found: str, stored: str) -> tuple[bool, str]:
    other = "" if found == stored else f" and not {stored[:12]}"
    return found == stored, f"SHA-256 {found[:12]}{other}"
