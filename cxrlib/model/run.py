"""A run is a folder: what training leaves behind and every later step reads."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from cxrlib import versions
from cxrlib.data.files import whole_folder
from cxrlib.data.images import PREPROCESSING, file_digest
from cxrlib.data.study import NO_FINDING, Study, digest_films
from cxrlib.metrics.report import evaluate
from cxrlib.metrics.thresholds import choose_threshold
from cxrlib.model._keras import Forward, freeze, keras
from cxrlib.model.backbone import Backbone, join, load_backbone
from cxrlib.model.card import model_card
from cxrlib.model.head import Fitted

NEEDED = {"files", "preprocessing", "stage", "image_size", "backbone", "threshold"}
KNOWN_WEIGHTS = (None, "bundled", "imagenet")
ALL_OTHERS = "all other films"  # as `choose_films(..., against="others")` gives them
DIGITS = 6  # decimals of a probability that is written; what follows differs between processors
COLUMNS = "path,patient,view,sex,age,split,target,probability,decision".split(",")


class RunError(ValueError):
    """A run that cannot be read, written or trusted, with the way out."""


@dataclass(frozen=True)
class Run:
    """A trained classifier with all that is known of it.

    Attributes
    ----------
    folder : Path
    facts : dict, the content of `run.json`
    model : keras.Model, from films (n, image_size, image_size, 1) in 0..1 to the logit (n, 1)
    engine : a faster way to those logits, with a `name`, where `cxrlib.deploy.engine.load_fast`
        loaded the run; else None
    """

    folder: Path
    facts: dict
    model: keras.Model
    engine: Forward | None = None

    @property
    def finding(self) -> str:
        return self.facts["finding"]

    @property
    def image_size(self) -> int:
        return self.facts["image_size"]

    @property
    def metrics(self) -> dict[str, dict]:
        """What `evaluate` measured: 'train' (held-out training films), 'test' once scored."""
        return self.facts["metrics"]

    @property
    def threshold(self) -> float:
        return self.facts["threshold"]["value"]

    @property
    def prevalence(self) -> float:
        """Share of the training films that have the finding; probabilities hold at it."""
        return self.facts["prevalence"]

    def predict(self, films: np.ndarray) -> np.ndarray:
        """Return the probability of the finding, (n,) in 0..1, of float32 films (n, size, size, 1).

        By the engine if there is one; what measures or explains the run uses the model. Films are
        computed one by one: in a batch the last digits would depend on the other films.
        """
        forward = self.engine or self._frozen
        return expit(np.concatenate([forward(film[None])[:, 0] for film in films]))

    @cached_property
    def _frozen(self) -> Forward:
        return freeze(self.model)

    @property
    def predictions(self) -> pd.DataFrame:
        """`predictions.csv`: path in the study, patient, view, sex, age (years), split, target,
        probability (0..1) and decision; training films as scored by models that did not see their
        patient."""
        text = dict.fromkeys(("path", "patient", "view", "sex"), str)
        empty = {"keep_default_na": False, "na_values": {"age": ""}}
        return pd.read_csv(self.folder / "predictions.csv", dtype=text, **empty)

    def split(self, side: str) -> pd.DataFrame:
        """Return the rows of `predictions` of one side, 'train' or 'test'."""
        films = self.predictions
        return films[films["split"] == side].reset_index(drop=True)


def save_run(
    folder: str | Path,
    study: Study,
    films: pd.DataFrame,
    finding: str,
    backbone: Backbone,
    fitted: Fitted,
    operating_point: str | float = "youden",
    seed: int = 0,
) -> Run:
    """Write a run whole, replacing an earlier one in the same folder.

    Parameters
    ----------
    folder : to write; it may not exist, be empty, or hold an earlier run
    study, films, finding : the study, and all its films as `choose_films` gave them
    backbone, fitted : the model
    operating_point : rule of `choose_threshold`, applied to held-out training films
    seed : of folds and intervals

    Raises
    ------
    RunError
        The folder holds something that is no run.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "run.json").exists():
        raise RunError(f"{folder} holds files, but no run.json: give an empty or a new folder")
    train = films[films["split"] == "train"]
    probability = np.round(fitted.probability.astype(float), DIGITS)
    held_out = train.assign(probability=probability).dropna(subset="probability")
    threshold = choose_threshold(held_out["target"], held_out["probability"], operating_point)
    held_out["decision"] = _decide(held_out["probability"], threshold)
    held_out["path"] = held_out["file"]
    metrics = {"train": evaluate(held_out, threshold, seed)}
    healthy = films.loc[films["target"] == 0, "labels"].map(lambda labels: NO_FINDING in labels)

    model_file = "head.keras" if fitted.stage == "head" else "model.keras"
    head = fitted.model if fitted.stage == "head" else fitted.model.get_layer("head")
    facts = {
        "format": 2,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "study": study.folder.resolve().name,
        "finding": study.name_of(finding),
        "negative": NO_FINDING if healthy.all() else ALL_OTHERS,
        "stage": fitted.stage,
        "image_size": backbone.image_size,
        "preprocessing": PREPROCESSING,
        "backbone": {
            "name": backbone.name,
            "weights": _weights_name(backbone.weights, folder),
            "layer": backbone.layer,
            "seed": backbone.seed,
            "digest": backbone.digest,
        },
        "grid": head.input_shape[1],
        "fit": fitted.facts,
        "seed": seed,
        "threshold": {
            "value": threshold,
            "rule": operating_point,
            "chosen_on": f"training patients, {fitted.facts['held_out']}",
        },
        "prevalence": metrics["train"]["prevalence"],
        "split": {
            "rule": study.split_rule,
            "patients": {
                side: sorted(films.loc[films["split"] == side, "patient"].unique())
                for side in ("train", "test")
            },
        },
        "data": {
            "digest": digest_films(films),
            "films": len(films),
            "rows_left_out": int((study.problems["outcome"] == "row left out").sum()),
        },
        "versions": versions(),
        "metrics": metrics,
    }
    model = join(backbone, fitted.model) if fitted.stage == "head" else fitted.model
    with whole_folder(folder) as part:
        fitted.model.save(part / model_file)
        fitted.history.to_csv(part / "history.csv", index=False)
        held_out[COLUMNS].to_csv(part / "predictions.csv", index=False)
        facts["files"] = {path.name: file_digest(path) for path in sorted(part.iterdir())}
        _write_facts(part, facts)
    return Run(folder, facts, model)


def load_run(folder: str | Path) -> Run:
    """Read a run and check that its parts belong together.

    Raises
    ------
    RunError
        No run there, a file changed since it was written, or a backbone, weights or reading of
        images other than those it was trained with.
    """
    folder = Path(folder)
    try:
        facts = json.loads((folder / "run.json").read_text())
    except FileNotFoundError:
        raise RunError(f"{folder} holds no run.json: train first, or give a run's folder") from None
    except ValueError as error:
        raise RunError(f"{folder / 'run.json'} is no JSON: {error}. Train again.") from error
    form = facts.get("format") if isinstance(facts, dict) else None
    if form != 2:
        raise RunError(f"{folder / 'run.json'}: format {form} is not known here. Train again.")
    if missing := NEEDED - facts.keys():
        raise RunError(f"{folder / 'run.json'} lacks '{min(missing)}'. Train again.")
    for name, digest in facts["files"].items():
        if not (folder / name).exists() or file_digest(folder / name) != digest:
            raise RunError(f"{folder / name} is not the file that was saved. Train again.")
    if facts["preprocessing"] != PREPROCESSING:
        raise RunError(f"{folder} was trained on films read otherwise than today. Train again.")
    if facts["stage"] == "finetuned":
        model = keras.models.load_model(folder / "model.keras", safe_mode=True)
        return Run(folder, facts, model)
    backbone = load_run_backbone(folder, facts)
    head = keras.models.load_model(folder / "head.keras", safe_mode=True)
    return Run(folder, facts, join(backbone, head))


def load_run_backbone(folder: str | Path, facts: dict) -> Backbone:
    """Load the backbone that a run was trained on, before any fine-tuning.

    Raises
    ------
    BackboneError, RunError
        Its weights cannot be had, or are not those it was trained on.
    """
    folder = Path(folder)
    wanted = facts["backbone"]
    weights = wanted["weights"]
    if weights not in KNOWN_WEIGHTS:
        weights = folder / weights
    backbone = load_backbone(
        wanted["name"], weights, facts["image_size"], wanted["layer"], wanted["seed"]
    )
    if backbone.digest != wanted["digest"]:
        raise RunError(
            f"{folder} was trained on other weights than '{weights}' gives now "
            f"(digest {wanted['digest'][:12]}, now {backbone.digest[:12]}). Train again."
        )
    return backbone


def record_test(run: Run, predictions: pd.DataFrame, metrics: dict) -> Run:
    """Add the test patients' scores and metrics to a run's files; return the run as it is now."""
    kept = run.predictions.query("split == 'train'")
    scored = predictions.assign(
        path=predictions["file"],
        decision=_decide(predictions["probability"], run.threshold),
    )

    def fill(folder):
        pd.concat([kept, scored])[COLUMNS].to_csv(folder / "predictions.csv", index=False)
        return ["predictions.csv"]

    return rewrite_run(run, {"metrics": run.facts["metrics"] | {"test": metrics}}, fill)


def rewrite_run(run: Run, facts: dict, fill: Callable[[Path], list[str]]) -> Run:
    """Add `facts` and files to a run's folder, whole or not at all; return the run as it is now.

    `fill` is given a copy of the folder to change, and returns the names of the files it wrote.
    """
    with whole_folder(run.folder) as part:
        shutil.copytree(run.folder, part, dirs_exist_ok=True)
        files = run.facts["files"] | {name: file_digest(part / name) for name in fill(part)}
        files = {name: digest for name, digest in files.items() if (part / name).exists()}
        facts = run.facts | facts | {"files": files}
        _write_facts(part, facts)
    return replace(run, facts=facts)


def _decide(probability, threshold: float) -> np.ndarray:
    return np.where(np.asarray(probability) >= threshold, "positive", "negative")


def _weights_name(weights: str | None, folder: Path) -> str | None:
    # A path is given from the run's folder, so that a project can be moved and says nothing of
    # the machine it was made on.
    return weights if weights in KNOWN_WEIGHTS else os.path.relpath(weights, folder)


def _write_facts(folder: Path, facts: dict) -> None:
    (folder / "MODEL_CARD.md").write_text(model_card(facts))
    (folder / "run.json").write_text(json.dumps(facts, indent=1))
