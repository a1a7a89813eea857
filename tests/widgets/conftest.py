"""A run as the widgets read it, without its model."""

import json
from types import SimpleNamespace

import pandas as pd
import pytest


@pytest.fixture(scope="session")
def scored(medical):
    """What Browser and Explorer read of a run: the bundled one, without its model."""
    folder = medical / "models" / "cardiomegaly"
    facts = json.loads((folder / "run.json").read_text())
    text = dict.fromkeys(("patient", "view", "sex"), str)
    predictions = pd.read_csv(folder / "predictions.csv", dtype=text)
    known = {"threshold": facts["threshold"]["value"]}
    known |= {name: facts[name] for name in ("finding", "metrics")}
    return SimpleNamespace(predictions=predictions, **known)
