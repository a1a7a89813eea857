"""A run is a folder: what training leaves behind and every later step reads."""

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from cxrlib.data.files import file_digest, take_back, whole_folder
from cxrlib.data.images import short_digest
from cxrlib.data.study import NO_FINDING, Study, choose_films
from cxrlib.model._keras import OUT_OF_MEMORY, Forward, freeze, is_finite, keras
from cxrlib.model.backbone import Backbone, BackboneError, join, load_backbone
from cxrlib.model.card import SIMULATED, model_card
from cxrlib.model.facts import MODELS, RunError, facts_of_images, is_fast, read_facts
from cxrlib.model.fast import join_engine

MADE_OF = ("name", "weights", "layer", "seed", "digest")  # of a backbone, in `run.json`
KNOWN_WEIGHTS = (None, "bundled", "imagenet")
ALL_OTHERS = "all other films"  # as `choose_films(..., against="others")` gives them
DIGITS = 6  # decimals of a probability that is written; what follows differs between processors
PREDICTION_COLUMNS = "path,patient,view,sex,age,split,target,probability,decision,digest".split(",")
IDENTITY = ["path", "patient", "digest"]
UNSCORED = "training.csv"  # such of training films without a held-out score


@dataclass(frozen=True)
class Run:
    """A trained classifier with all that is known of it; docs/run.md describes its files.

    Attributes
    ----------
    folder : Path
    facts : dict, the content of `run.json`
    model : keras.Model, from films (n, image_size, image_size, 1) in 0..1 to the logit (n, 1)
    engine : a faster way to those logits, with a `name`, where `cxrlib.deploy.engine.load_fast`
        loaded the run; else None
    finding, against, caution : str
    image_size : int, pixels
    threshold, prevalence : float in 0..1
    metrics : dict
    predictions, unscored : DataFrame, one row per film
    trained_on : frozenset of str

    Examples
    --------
    >>> import cxrlib as cxr
    >>> run = cxr.load_run("medical/models/cardiomegaly")
    >>> run.finding, run.image_size, len(run.split("test"))
    ('Cardiomegaly', 399, 65)
    """

    folder: Path
    facts: dict
    model: keras.Model
    engine: Forward | None = None

    @property
    def finding(self) -> str:
        """The finding that it tells from films without it, as the study spells it."""
        return self.facts["finding"]

    @property
    def against(self) -> str:
        """What the finding was held against, as `choose_films` takes it."""
        return "others" if self.facts["negative"] == ALL_OTHERS else NO_FINDING

    @property
    def image_size(self) -> int:
        """Side of the square films that it takes; RunError where it takes embeddings."""
        return facts_of_images(self.folder, self.facts)["image_size"]

    @property
    def metrics(self) -> dict[str, dict]:
        """What `evaluate` measured: 'train' (held-out training films), 'test' once scored."""
        return self.facts["metrics"]

    @property
    def threshold(self) -> float:
        """The probability from which on the decision is 'positive'."""
        return self.facts["threshold"]["value"]

    @property
    def prevalence(self) -> float:
        """Share of the training films that have the finding; probabilities hold at it."""
        return self.facts["prevalence"]

    @property
    def caution(self) -> str:
        """What a reader of any score must know, or ''."""
        return SIMULATED if self.facts.get("simulated") else ""

    @property
    def predictions(self) -> pd.DataFrame:
        """`predictions.csv`, as docs/run.md describes it: test films, and training films as scored
        by models that did not see their patient."""
        text = dict.fromkeys(("path", "patient", "view", "sex", "digest"), str)
        empty = {"keep_default_na": False, "na_values": {"age": ""}}
        return pd.read_csv(self.folder / "predictions.csv", dtype=text, **empty)

    @property
    def unscored(self) -> pd.DataFrame:
        """Path, patient and digest of training films without a held-out score."""
        path = self.folder / UNSCORED
        films = pd.read_csv(path, dtype=str) if path.exists() else pd.DataFrame()
        return films.reindex(columns=IDENTITY)

    @cached_property
    def trained_on(self) -> frozenset[str]:
        """Short digests of the training films; runs of version 0.1 have none."""
        films = pd.concat([self.split("train"), self.unscored])
        return frozenset(films["digest"].dropna()) - {""}

    def split(self, side: str, study: Study | None = None) -> pd.DataFrame:
        """Return the rows of `predictions` of one side, 'train' or 'test'.

        With the study that the run was trained on, all its films of that side, as `choose_films`
        gives them, with probability (NaN where there is none) and decision.
        """
        scored = self.predictions.loc[lambda rows: rows["split"] == side]
        if study is None:
            return scored.reset_index(drop=True)
        films = choose_films(study, self.finding, self.against)
        scores = scored.set_index("path")[["probability", "decision"]]
        return films[films["split"] == side].join(scores, on="file").reset_index(drop=True)

    def predict(self, films: np.ndarray) -> np.ndarray:
        """Return the probability of the finding, (n,) in 0..1, of float32 films (n, size, size, 1).

        By the engine if there is one; what measures or explains the run uses the model.
        """
        # One by one: in a batch the last digits would depend on the other films.
        forward = self.engine or self._frozen
        return expit(np.concatenate([forward(film[None])[:, 0] for film in films]))

    @cached_property
    def _frozen(self) -> Forward:
        return join_engine(self.folder, self.model) if is_fast(self.facts) else freeze(self.model)


def decide(probability, threshold: float) -> np.ndarray:
    """Return 'positive' where a probability, as written with `DIGITS` decimals, is not below it."""
    return np.where(np.asarray(probability) >= threshold, "positive", "negative")


def load_run(folder: str | Path, fallback: str | Path | None = None) -> Run:
    """Read a run and check that its parts belong together.

    Where `folder` is not there, `fallback` is loaded with a warning, if its name is the same. So
    `runs/cardiomegaly` may stand for `medical/models/cardiomegaly` until it is trained.

    Raises
    ------
    RunError
        No run there, a file changed since it was written, or a backbone, weights or reading of
        images other than those it was trained with.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> run = cxr.load_run("medical/models/cardiomegaly")
    >>> round(run.metrics["test"]["auc"]["value"], 2)
    0.95
    """
    folder = Path(folder)
    take_back(folder)
    if fallback and not folder.exists() and folder.name == Path(fallback).name:
        warnings.warn(f"there is no {folder} yet, so {fallback} is loaded", stacklevel=2)
        folder = Path(fallback)
    facts = read_facts(folder)
    path, size = folder / MODELS[facts["stage"]], facts["image_size"]
    given = facts.get("embeddings")
    wanted = (given["dimension"],) if given else (size, size, 1)
    try:
        model = keras.models.load_model(path, safe_mode=True)
        if facts["stage"] == "head" and not given:
            model = join(load_run_backbone(folder, facts), model)
        shapes = model.input_shape, model.output_shape
        if shapes != ((None, *wanted), (None, 1)) or not is_finite(model):
            raise ValueError(f"weights that are no numbers, or other shapes: {shapes}")
    except OUT_OF_MEMORY as error:
        raise RunError(f"{folder}: too little memory to load it. End other programs.") from error
    except (BackboneError, RunError):
        raise
    except Exception as error:  # Keras, h5py and zipfile raise a dozen kinds
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RunError(
            f"{path} holds no model of this run ({reason:.200}). Train again."
        ) from error
    return Run(folder, facts, model)


def load_run_backbone(folder: str | Path, facts: dict) -> Backbone:
    """Load the backbone that a run was trained on, before any fine-tuning.

    BackboneError or RunError where its weights cannot be had, or are not those it was trained on.
    """
    wanted = facts_of_images(folder, facts)["backbone"]
    name, weights, layer, seed, digest = (wanted[key] for key in MADE_OF)
    weights = weights if weights in KNOWN_WEIGHTS else Path(folder) / weights
    backbone = load_backbone(name, weights, facts["image_size"], layer, seed)
    if backbone.digest != digest:
        raise RunError(
            f"{folder} was trained on other weights than '{weights}' gives now "
            f"(digest {digest[:12]}, now {backbone.digest[:12]}). Train again."
        )
    return replace(backbone, engine=Path(folder)) if is_fast(facts) else backbone


def rewrite_run(run: Run, facts: dict, fill: Callable[[Path], list[str]]) -> Run:
    """Add `facts` and files to a run's folder, whole or not at all; return the run as it is now.

    `fill` is given a copy of the folder to change, and returns the names of the files it wrote.
    """
    with whole_folder(run.folder) as part:
        shutil.copytree(run.folder, part, dirs_exist_ok=True)
        files = run.facts["files"] | {name: file_digest(part / name) for name in fill(part)}
        files = {name: digest for name, digest in files.items() if (part / name).exists()}
        facts = run.facts | facts | {"files": files}
        write_facts(part, facts)
    return replace(run, facts=facts)


def decided_rows(films: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Return films with a probability as the rows of `predictions.csv`."""
    decision = decide(films["probability"], threshold)
    return told_by_digest(films).assign(decision=decision)[PREDICTION_COLUMNS]


def told_by_digest(films: pd.DataFrame) -> pd.DataFrame:
    """Return films with their path as seen from the study's folder, and their short digest."""
    return films.assign(path=films["file"], digest=[short_digest(path) for path in films["path"]])


def write_facts(folder: Path, facts: dict) -> None:
    (folder / "MODEL_CARD.md").write_text(model_card(facts))
    (folder / "run.json").write_text(json.dumps(facts, indent=1))
