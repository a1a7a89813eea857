"""OpenVINO, where the extra `fast` is installed: networks in 8 bits, compiled for this machine."""

import importlib
import sys
from pathlib import Path

import numpy as np

from cxrlib.model._keras import THREADS, Forward, freeze, keras

PARTS = ("features.xml", "features.bin")  # OpenVINO's graph and weights of a backbone in 8 bits


class EngineError(ValueError):
    """An engine that cannot be had, with the way out."""


def compile_engine(graph: Path) -> Forward:
    """Return a function of films, (n, size, size, 1), of OpenVINO's graph and the `.bin` beside it.

    EngineError where OpenVINO is not installed, or cannot read the files.
    """
    # What is not in 8 bits OpenVINO would compute in bfloat16 where a processor has it.
    precise: dict = {"INFERENCE_PRECISION_HINT": "f32"}
    # As many threads in each process, as of TensorFlow; pinned, all workers' would share few cores.
    precise |= {"INFERENCE_NUM_THREADS": THREADS, "ENABLE_CPU_PINNING": False}
    try:
        compiled = import_openvino().Core().compile_model(graph, "CPU", precise)
    except RuntimeError as error:  # its last line says what is wrong
        reason = str(error).strip().rpartition("\n")[2]
        raise EngineError(
            f"{graph.parent}: the engine does not load ({reason:.200}). Make it anew."
        ) from error
    return lambda films: compiled(np.asarray(films, np.float32), share_outputs=False)[0]


def join_engine(folder: Path, model: keras.Model) -> Forward:
    """Return films to logits: a backbone's engine, then grid and head of `join`'s model."""
    engine = compile_engine(folder / PARTS[0])
    head = freeze(keras.Model(model.get_layer("grid").input, model.output))
    return lambda films: head(engine(films))


def import_openvino():
    """Return the module openvino; raise EngineError where it is not installed."""
    # It would report its use to Google Analytics without asking; it does without this module.
    sys.modules["openvino_telemetry"] = None
    return import_or_tell("openvino")


def import_or_tell(name: str):
    """Return a module of the extra `fast`; raise EngineError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EngineError(
            f"the fast engine needs {name} ({error}): pip install '.[fast]' in a clone or "
            "archive of cxrlib, or do without"
        ) from error
