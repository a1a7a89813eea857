"""Runs against each other, by scores that are worked out by hand."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cxrlib.metrics.bootstrap import compare_auc
from cxrlib.model.compare import compare_runs
from cxrlib.model.facts import RunError
from cxrlib.model.run import Run


class Model:
    input_shape = (None, 3)


@pytest.fixture
def runs(tmp_path):
    """The bundled run, and one whose scores are worse, of fewer films and in another order."""
    bundled = Path("medical/models/cardiomegaly")
    facts = json.loads((bundled / "run.json").read_text())
    found = []
    for name in ("better", "worse"):
        folder = tmp_path / name
        folder.mkdir()
        run = Run(bundled, facts, Model(), lambda films: np.zeros((1, 1)))
        scores = run.predictions
        if name == "worse":
            noise = np.random.default_rng(0).uniform(-0.4, 0.4, len(scores))
            scores["probability"] = (scores["probability"] + noise).clip(0, 1)
            scores.loc[scores["split"] == "test", "probability"] = 0.5  # nobody reads these
            scores = scores[5:].sample(frac=1, random_state=0)
        scores.to_csv(folder / "predictions.csv", index=False)
        found.append(replace(run, folder=folder))
    return found


def test_the_same_patients_are_compared(runs):
    better, worse = (run.split("train").set_index("path") for run in runs)
    table = compare_runs(runs)
    assert table["run"].tolist() == ["better", "worse"]
    assert (table["films"] == len(worse)).all() and len(worse) < len(better)
    better = better.loc[sorted(worse.index)]
    scores = [part.loc[better.index, "probability"] for part in (worse, better)]
    expected = compare_auc(better["target"], *scores, better["patient"])
    found = table.iloc[1]
    assert found["auc"] == expected["first"]["value"] < table.iloc[0]["auc"]
    assert found["gain"] == expected["difference"]["value"]
    assert found["gain_low"] < found["gain"] < found["gain_high"] < 0
    assert table.iloc[0][["gain", "gain_low", "gain_high"]].tolist() == [0, 0, 0]
    assert (table["seconds"] > 0).all()


def test_runs_that_cannot_be_compared_are_named(runs):
    better, worse = runs
    with pytest.raises(RunError, match="1 runs of 'Cardiomegaly' against 'No Finding': give two"):
        compare_runs([better])
    other = replace(worse, facts=worse.facts | {"finding": "Edema"})
    with pytest.raises(RunError, match="'Cardiomegaly' .*'Edema'"):
        compare_runs([better, other])
    scores = worse.predictions
    scores.assign(path="x" + scores["path"]).to_csv(worse.folder / "predictions.csv", index=False)
    with pytest.raises(RunError, match="better, worse share held-out scores of 0 films"):
        compare_runs(runs)
    scores.assign(target=1 - scores["target"]).to_csv(worse.folder / "predictions.csv", index=False)
    with pytest.raises(RunError, match="better and worse disagree on the target of images/"):
        compare_runs(runs)
