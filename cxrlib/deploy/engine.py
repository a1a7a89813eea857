"""From films to logits, quickly: the network as it is, or quantised to 8 bits for OpenVINO."""

import contextlib
import hashlib
import io
import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from cxrlib.data.files import take_back, whole_folder
from cxrlib.data.images import film_digest, read_image
from cxrlib.data.study import Study
from cxrlib.model._keras import Forward, freeze, keras
from cxrlib.model.backbone import Backbone
from cxrlib.model.facts import is_fast, read_facts
from cxrlib.model.fast import PARTS, EngineError, compile_engine, import_openvino, import_or_tell
from cxrlib.model.predict import choose_run_films
from cxrlib.model.run import Run, RunError, load_run, rewrite_run

FILES = ("engine.xml", "engine.bin")  # OpenVINO's: the graph, and its weights
CALIBRATION = 48  # films that give each activation its range
AUC_MOVED, DECISIONS_CHANGED = 0.005, 0.01  # an engine is kept below both


@dataclass(frozen=True)
class Engine:
    """A run's network in 8 bits: from films (n, size, size, 1) to logits (n, 1), in one thread."""

    name: str  # of what computes it, with its version
    logits: Forward
    shift: float  # added to each logit
    load: Callable[[str | Path], Run]  # how another process gets the run with its engine

    def __call__(self, films: np.ndarray) -> np.ndarray:
        return self.logits(films) + np.float32(self.shift)


def load_fast(folder: str | Path) -> Run:
    """Read a run, as `load_run`, that predicts by its engine: probabilities differ a little.

    What measures or explains the run still uses the model. RunError or EngineError where no engine
    was added, or OpenVINO is not installed.
    """
    take_back(folder := Path(folder))
    measured = (facts := read_facts(folder)).get("engine")
    if not (measured and measured["accepted"] and {*FILES} <= facts["files"].keys()):
        reason = "its engine was not accepted" if measured else "none was added"
        raise RunError(
            f"{folder} has no fast engine: {reason}. Load it by load_run, or add one by "
            "`cxr engine RUN STUDY`."
        )
    logits = compile_engine(folder / FILES[0])  # before the network is built: it may be missing
    name = f"OpenVINO {version('openvino')}, 8 bits"
    return replace(load_run(folder), engine=Engine(name, logits, measured["shift"], load_fast))


def add_engine(run: Run, study: Study) -> Run:
    """Quantise a run's model, measure the change on its training films, and keep it if it is small.

    Weights and activations of convolutions become 8-bit integers, with ranges from some training
    films and the shift of each channel's mean corrected (NNCF, Kozlov et al., arXiv 2002.08679).
    The head stays in float32. What is left of the shift of the mean logit is added to each logit
    later. `engine` in `run.json` tells of it whether it is kept or not (docs/run.md). `study` is
    the one that the run was trained on; `load_fast` gives the run with its engine. RunError or
    EngineError at another study, or where OpenVINO or NNCF is not installed.
    """
    if is_fast(run.facts):
        raise EngineError(f"{run.folder} was trained in 8 bits, and scores so without an engine")
    films = choose_run_films(run, study).query("split == 'train'")
    some = films["path"].sample(min(CALIBRATION, len(films)), random_state=0)
    with tempfile.TemporaryDirectory() as work:
        _quantise(run.model, some, Path(work))
        ways = freeze(run.model), compile_engine(Path(work) / FILES[0])
        pixels = (read_image(path, run.image_size)[None, ..., None] for path in films["path"])
        full, fast = np.array([[way(film)[0, 0] for way in ways] for film in pixels]).T
        shift = float((full - fast).mean())
        target = films["target"].to_numpy()
        measured = compare(target, expit(full), expit(fast + shift), run.threshold)
        kept = list(FILES) if measured["accepted"] else []

        def fill(folder):
            for name in FILES:
                (folder / name).unlink(missing_ok=True)
            for name in kept:
                shutil.copy(Path(work) / name, folder)
            return kept

        facts = {"name": "OpenVINO, 8 bits", "files": kept, "calibrated_on": len(some)}
        facts |= {"shift": shift, **measured}
        return rewrite_run(replace(run, engine=None), {"engine": facts}, fill)


def quantise_backbone(backbone: Backbone, paths: Sequence[str | Path], cache: Path) -> Backbone:
    """Return a backbone whose features are computed in 8 bits, several times as fast.

    Convolutions become 8-bit integers, as in `add_engine`. The head is fitted to these features
    alone, and the run takes the engine along: `precision` in its `run.json` is 'fast', and whoever
    scores with it needs the extra `fast`. `paths` are training films; the folder `cache`, such as
    that of the features, keeps the engine by backbone and films. EngineError where OpenVINO or NNCF
    is not installed; FileNotFoundError or ImageError at a film that cannot be read.
    """
    paths, rng = list(paths), np.random.default_rng(0)
    some = [paths[i] for i in rng.choice(len(paths), min(CALIBRATION, len(paths)), replace=False)]
    key = hashlib.sha256(" ".join([backbone.digest, *map(film_digest, some)]).encode()).hexdigest()
    folder = Path(cache) / f"{key[:16]}-engine"
    if not all((folder / name).is_file() for name in PARTS):
        with whole_folder(folder) as part:
            _quantise(backbone.model, some, part, PARTS[0])
    return replace(backbone, engine=folder)


def compare(target: np.ndarray, full: np.ndarray, fast: np.ndarray, cut: float) -> dict:
    """Return how far an engine's probabilities `fast` are from the model's, `full`; all are (n,).

    It is accepted where the AUC moved by less than 0.005 and fewer than 1 % of decisions changed.
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


def _quantise(model: keras.Model, paths: Sequence, folder: Path, name: str = FILES[0]) -> None:
    openvino, nncf = import_openvino(), import_or_tell("nncf")
    nncf.set_log_level(logging.ERROR)
    films = [read_image(path, model.input_shape[1])[None, ..., None] for path in paths]
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
                # A backbone has none of these.
                ignored_scope=nncf.IgnoredScope(types=["MatMul"], validate=False),
            )
        openvino.save_model(quantised, folder / name, compress_to_fp16=False)
