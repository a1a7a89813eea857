"""From films to logits, quickly: the network as it is, or quantised to 8 bits for OpenVINO."""

import contextlib
import importlib
import io
import logging
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from cxrlib.data.images import read_batch, read_image
from cxrlib.model._keras import Forward, freeze, keras
from cxrlib.model.backbone import BATCH, read_ahead

FILES = ("engine.xml", "engine.bin")  # OpenVINO's: the graph, and its weights
CALIBRATION = 48  # films that give each activation its range
AUC_MOVED, DECISIONS_CHANGED = 0.005, 0.01  # an engine is kept below both


class EngineError(ValueError):
    """An engine that cannot be had, with the way out."""


def load_engine(folder: str | Path, shift: float) -> Forward:
    """Return the engine in a run's folder as a function, like `freeze`; not for several threads.

    `shift` is added to its logits: the one that `add_engine` returned.

    Raises
    ------
    EngineError
        OpenVINO is not installed.
    """
    openvino = import_openvino()
    # What is not in 8 bits OpenVINO would compute in bfloat16 where a processor has it.
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    # The share of the cores that a worker has is TensorFlow's to use, and this engine's; 0 is all.
    precise["INFERENCE_NUM_THREADS"] = int(os.environ.get("TF_NUM_INTRAOP_THREADS", 0))
    compiled = openvino.Core().compile_model(Path(folder) / FILES[0], "CPU", precise)
    return lambda films: compiled(films, share_outputs=False)[0] + np.float32(shift)


def add_engine(folder: str | Path, model: keras.Model, films: pd.DataFrame, cut: float) -> dict:
    """Quantise a model, measure the change on training films, and keep the files if it is small.

    Weights and activations of convolutions become 8-bit integers, with ranges from the films of
    some training patients and the shift of each channel's mean corrected (NNCF, Kozlov et al.,
    arXiv 2002.08679); the head stays in float32. What is left of the shift in the mean logit of
    the training films is recorded, to be added.

    Parameters
    ----------
    folder : where to put the engine's files
    model : from films (n, size, size, 1) to the logit (n, 1)
    films : DataFrame with path and target (0 or 1); training patients only
    cut : threshold of a decision, 0..1

    Returns
    -------
    dict, `engine` in `run.json`
        name, files, calibrated_on (films), shift (of the logit), and what `compare` returns

    Raises
    ------
    EngineError
        OpenVINO or NNCF is not installed.
    """
    folder, size = Path(folder), model.input_shape[1]
    some = films["path"].sample(min(CALIBRATION, len(films)), random_state=0).tolist()
    _quantise(model, [read_image(path, size)[None, ..., None] for path in some], folder)
    ways = freeze(model), load_engine(folder, shift=0)
    paths = films["path"].tolist()
    batches = [paths[i : i + BATCH] for i in range(0, len(paths), BATCH)]
    logits = [
        [way(pixels)[:, 0] for way in ways] for pixels in read_ahead(read_batch, batches, size)
    ]
    full, fast = np.concatenate(logits, axis=1)
    shift = float((full - fast).mean())
    measured = compare(films["target"].to_numpy(), expit(full), expit(fast + shift), cut)
    if not measured["accepted"]:
        for name in FILES:
            (folder / name).unlink()
    return {
        "name": "OpenVINO, 8 bits",
        "files": list(FILES) if measured["accepted"] else [],
        "calibrated_on": len(some),
        "shift": shift,
        **measured,
    }


def compare(target: np.ndarray, full: np.ndarray, fast: np.ndarray, cut: float) -> dict:
    """Return how far an engine's probabilities `fast` are from the model's, `full`; all are (n,).

    Returns
    -------
    dict
        films, auc (of the model), auc_moved, decisions_changed (a share), largest_move (of a
        probability), accepted (the AUC moved by less than 0.005 and fewer than 1 % of decisions
        changed), note
    """
    auc, other = roc_auc_score(target, full), roc_auc_score(target, fast)
    changed = float(((full >= cut) != (fast >= cut)).mean())
    return {
        "films": len(target),
        "auc": float(auc),
        "auc_moved": float(abs(other - auc)),
        "decisions_changed": changed,
        "largest_move": float(np.abs(fast - full).max()),
        "accepted": bool(abs(other - auc) < AUC_MOVED and changed < DECISIONS_CHANGED),
        "note": "measured on films that the model was fitted on: their AUC is near 1 and hardly "
        "moves, so read the changed decisions and the largest move of a probability beside it",
    }


def _quantise(model: keras.Model, films: list[np.ndarray], folder: Path) -> None:
    openvino, nncf = import_openvino(), _import("nncf")
    nncf.set_log_level(logging.ERROR)
    with tempfile.TemporaryDirectory() as work:
        exported = Path(work) / FILES[0]
        # NNCF draws its progress on stdout.
        with contextlib.redirect_stdout(io.StringIO()):
            model.export(str(exported), format="openvino", verbose=False)
            quantised = nncf.quantize(
                openvino.Core().read_model(exported),
                nncf.Dataset(films),
                subset_size=len(films),
                fast_bias_correction=False,  # slower, and nearer to the model
                ignored_scope=nncf.IgnoredScope(types=["MatMul"]),
            )
        openvino.save_model(quantised, folder / FILES[0], compress_to_fp16=False)


def require_engine() -> None:
    """Raise EngineError where what `add_engine` needs is not installed."""
    import_openvino()
    _import("nncf")


def import_openvino():
    """Return the module openvino.

    Raises
    ------
    EngineError
        It is not installed.
    """
    # It would report its use to Google Analytics without asking; it does without this module.
    sys.modules["openvino_telemetry"] = None
    return _import("openvino")


def _import(name: str):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EngineError(
            f"the fast engine needs {name} ({error}): pip install 'cxrlib[fast]', or do without"
        ) from error
