"""`run.json`: read and checked key by key, as docs/run.md describes it."""

import hashlib
import json
from functools import reduce
from math import isfinite
from operator import getitem
from pathlib import Path
from typing import Any

import pandas as pd

from cxrlib.data.files import file_digest
from cxrlib.data.images import PREPROCESSING
from cxrlib.model.card import model_card

FORMAT = 3  # that is written; 2 lists the patients of each side, and is read as well
MODELS = {"head": "head.keras", "finetuned": "model.keras"}  # file by stage
TABLES = ("history.csv", "predictions.csv")
COLUMNS = ["path", "status", "probability", "decision", "reason"]  # of scores
KEYS = {
    dict: "files backbone threshold metrics versions",
    str: "made study finding negative stage preprocessing data.digest split.rule "
    "backbone.name backbone.layer backbone.digest",
    int: "image_size grid seed backbone.seed",
    float: "threshold.value prevalence",
}
WORDS = {str: "a text", int: "a whole number", float: "a number from 0 to 1", dict: "an object"}


class RunError(ValueError):
    """A run that cannot be read, written or trusted, with the way out."""


def read_facts(folder: Path) -> dict:
    """Return what a run's `run.json` says, once its keys and the files it lists are checked."""
    path = folder / "run.json"
    if not path.is_file():
        raise RunError(f"{folder} holds no run.json: train first, or give a run's folder")
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is no JSON: {error}. Train again.") from error
    form = facts.get("format") if isinstance(facts, dict) else None
    if form not in (2, FORMAT):
        raise RunError(f"{path}: format {form!r:.40} is not known here. Train again.")
    try:
        for kind, names in KEYS.items():
            for name in names.split():
                value: Any = reduce(getitem, name.split("."), facts)
                fits, most = type(value) is kind, {int: 2**31, float: 1}.get(kind)
                if not fits or (most and not 0 <= value <= most):  # NaN is neither
                    raise ValueError(f"{name} is {value!r:.40}, not {WORDS[kind]}")
        if facts["stage"] not in MODELS:
            raise ValueError(f"stage is {facts['stage']!r:.40}, not one of {', '.join(MODELS)}")
        if not {type(n) for n in facts["split"]["patients"].values()} <= {int, list}:
            raise ValueError("split.patients has neither numbers nor lists")
        engine = facts.get("engine", {"files": [], "shift": 0})
        if not isfinite(engine["shift"]) or {type(name) for name in engine["files"]} - {str}:
            raise ValueError("engine has a shift that is no number, or a file without a name")
        size = facts.get("embeddings", {"dimension": 1})["dimension"]
        if type(size) is not int or size < 1:
            raise ValueError(f"embeddings.dimension is {size!r:.40}, not a number of 1 or more")
        model_card(facts)  # it wants all that is measured
    except KeyError as error:
        raise RunError(f"{path} lacks {error}. Train again.") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise RunError(f"{path} is not as it was written ({reason:.200}). Train again.") from error
    if facts["preprocessing"] != PREPROCESSING:
        raise RunError(f"{folder} was trained on films read otherwise than today. Train again.")
    for name in sorted({*TABLES, MODELS[facts["stage"]], *facts["files"]}):
        file, digest = folder / name, facts["files"].get(name)
        if file.parent != folder or not file.is_file() or file_digest(file) != digest:
            raise RunError(f"{file} is not the file that was saved. Train again.")
    return facts


def is_fast(facts: dict) -> bool:
    """Say whether a run's features are those of a backbone in 8 bits."""
    return facts.get("precision") == "fast"


def facts_of_images(folder: str | Path, facts: dict) -> dict:
    """Return the facts; RunError where the run takes embeddings, and so cannot read a film."""
    if "embeddings" in facts:
        raise RunError(
            f"{folder} scores embeddings of {facts['backbone']['name']}, not images: make them of "
            "the films, and give them to cxr.score_embeddings."
        )
    return facts


def digest_patients(films: pd.DataFrame) -> str:
    """Return the SHA-256 of who is on which side: of each film's file, patient and split."""
    rows = sorted(films[["file", "patient", "split"]].itertuples(index=False, name=None))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def are_sides_kept(split: dict, films: pd.DataFrame) -> bool:
    """Say whether patients are on the sides on which they were when the run was made."""
    if isinstance(trained := split["patients"]["train"], int):
        return split.get("digest") == digest_patients(films)
    return not films.loc[films["split"] == "test", "patient"].isin(trained).any()  # format 2
