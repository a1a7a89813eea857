"""Write a run: the folder that training leaves behind."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from cxrlib import versions
from cxrlib.data.files import file_digest, whole_folder
from cxrlib.data.images import PREPROCESSING
from cxrlib.data.study import NO_FINDING, Study, digest_films
from cxrlib.metrics.report import evaluate
from cxrlib.metrics.thresholds import choose_threshold
from cxrlib.model._keras import is_finite
from cxrlib.model.backbone import Backbone, join
from cxrlib.model.embeddings import Embeddings
from cxrlib.model.facts import FORMAT, MODELS, RunError, digest_patients, is_fast
from cxrlib.model.fast import PARTS
from cxrlib.model.head import Fitted
from cxrlib.model.run import (
    ALL_OTHERS,
    DIGITS,
    IDENTITY,
    KNOWN_WEIGHTS,
    MADE_OF,
    UNSCORED,
    Run,
    decided_rows,
    told_by_digest,
    write_facts,
)


def save_run(
    folder: str | Path,
    study: Study,
    films: pd.DataFrame,
    finding: str,
    backbone: Backbone | Embeddings,
    fitted: Fitted,
    operating_point: str | float = "youden",
    seed: int = 0,
) -> Run:
    """Write a run whole, replacing an earlier one in the same folder.

    Parameters
    ----------
    folder : to write; it may not exist, be empty, or hold an earlier run
    study, films, finding : the study, and all its films as `choose_films` gave them
    backbone, fitted : the model; the embeddings, where `fitted` is a head on those
    operating_point : rule of `choose_threshold`, applied to held-out training films
    seed : of folds and intervals

    Raises
    ------
    RunError
        The folder holds something that is not a run, or a weight of the model is not finite.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> from tempfile import mkdtemp
    >>> study = cxr.read_study("medical")
    >>> films = cxr.choose_films(study, "Cardiomegaly")
    >>> train = films[films["split"] == "train"]
    >>> backbone = cxr.load_backbone("EfficientNetLite2", image_size=75, layer="stage1")
    >>> fitted = cxr.fit_head(cxr.extract_features(backbone, train["path"], grid=1), train)
    >>> run = cxr.save_run(mkdtemp(), study, films, "Cardiomegaly", backbone, fitted)
    >>> sorted(path.name for path in run.folder.iterdir())
    ['MODEL_CARD.md', 'head.keras', 'history.csv', 'predictions.csv', 'run.json']
    """
    folder = Path(folder)
    keep_foreign(folder)
    if not is_finite(fitted.model):
        raise RunError("the model has weights that are not finite numbers: check labels and images")
    train = films[films["split"] == "train"].assign(probability=fitted.probability)
    held_out = train.dropna(subset="probability").round({"probability": DIGITS})
    threshold = choose_threshold(held_out["target"], held_out["probability"], operating_point)
    metrics = evaluate(held_out, threshold, seed)
    chosen_on = f"training patients, {fitted.facts['held_out']}"
    facts = {
        "format": FORMAT,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        **_describe_films(study, films, finding),
        **_describe_model(folder, backbone, fitted),
        "seed": seed,
        "threshold": {"value": threshold, "rule": operating_point, "chosen_on": chosen_on},
        "prevalence": metrics["prevalence"],
        "versions": versions(),
        "metrics": {"train": metrics},
    }
    with whole_folder(folder) as part:
        fitted.model.save(part / MODELS[fitted.stage])
        if is_fast(facts):
            for name in PARTS:
                shutil.copy(Path(backbone.engine) / name, part)
        fitted.history.to_csv(part / "history.csv", index=False)
        decided_rows(held_out, threshold).to_csv(part / "predictions.csv", index=False)
        if len(unscored := train.drop(held_out.index)):  # of a fine-tuned network
            told_by_digest(unscored)[IDENTITY].to_csv(part / UNSCORED, index=False)
        facts["files"] = {path.name: file_digest(path) for path in sorted(part.iterdir())}
        write_facts(part, facts)
    alone = fitted.stage != "head" or isinstance(backbone, Embeddings)
    return Run(folder, facts, fitted.model if alone else join(backbone, fitted.model))


def keep_foreign(folder: Path) -> None:
    """Raise RunError where a folder holds something that is no run."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "run.json").exists():
        raise RunError(f"{folder} holds files, but no run.json: give an empty or a new folder")


def _describe_films(study: Study, films: pd.DataFrame, finding: str) -> dict:
    healthy = films.loc[films["target"] == 0, "labels"].map(lambda labels: NO_FINDING in labels)
    sides = films.groupby("split")["patient"].nunique()
    return {
        "study": study.folder.resolve().name,
        "simulated": (study.folder / "phantom.json").is_file(),
        "finding": study.name_of(finding),
        "negative": NO_FINDING if healthy.all() else ALL_OTHERS,
        "split": {
            "rule": study.split_rule,
            "patients": {side: int(sides.get(side, 0)) for side in ("train", "test")},
            "digest": digest_patients(films),
        },
        "data": {
            "digest": digest_films(films),
            "films": len(films),
            "rows_left_out": int((study.problems["outcome"] == "row left out").sum()),
        },
    }


def _describe_model(folder: Path, backbone: Backbone | Embeddings, fitted: Fitted) -> dict:
    made_of = {key: getattr(backbone, key) for key in MADE_OF}
    if backbone.weights not in KNOWN_WEIGHTS:
        # From the run's folder, so that a project can be moved and nothing tells of the machine.
        made_of["weights"] = os.path.relpath(backbone.weights, folder)
    if isinstance(backbone, Embeddings):
        of_kind = {"grid": 0, "embeddings": {"dimension": backbone.dimension}}
    else:
        head = fitted.model if fitted.stage == "head" else fitted.model.get_layer("head")
        fast = backbone.engine and fitted.stage == "head"
        of_kind = {"precision": "fast" if fast else "full", "grid": head.input_shape[1]}
    return {
        "stage": fitted.stage,
        "image_size": backbone.image_size,
        "preprocessing": PREPROCESSING,
        "backbone": made_of,
        **of_kind,
        "fit": fitted.facts,
    }
