"""Do the intervals of learning curves hold the truth, and do planned tests get the width wanted?

Simulated features whose expected AUC at any number of patients is known from many training sets,
and simulated scores of patients with several films. Prints what docs/planning.md shows.
"""

import argparse

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tqdm.auto import tqdm

from cxrlib.metrics.planning import plan_test
from cxrlib.model.learning import learning_curve

DIMENSIONS = 60


def draw(patients: int, rng: np.random.Generator, signal: float = 0.35):
    """Features, two films per patient who resemble each other, of which twelve tell the label."""
    patient = np.repeat(np.arange(patients), 2)
    target = (np.arange(patients) % 5 < 2).astype(int)[patient]
    x = rng.normal(size=(patients, DIMENSIONS))[patient] + rng.normal(
        size=(len(patient), DIMENSIONS)
    )
    x[:, :12] += signal * 2**0.5 * (2 * target[:, None] - 1)
    table = {"patient": patient.astype(str), "target": target, "split": "train", "filename": "film"}
    return x[:, None, None, :].astype(np.float32), pd.DataFrame(table)


def expected_auc(patients: int, times: int) -> float:
    """Return the mean AUC of heads of so many patients, on many others."""
    rng, areas = np.random.default_rng(patients), []
    x, films = draw(4000, rng)
    for _ in range(times):
        own, of = draw(patients, rng)
        scale = np.sqrt(own.reshape(len(own), -1).var(0))
        model = LogisticRegression(C=1e-2, class_weight="balanced")
        model.fit(own.reshape(len(own), -1) / scale, of["target"])
        score = model.decision_function(x.reshape(len(x), -1) / scale)
        areas.append(roc_auc_score(films["target"], score))
    return float(np.mean(areas))


def cover_curves(patients: int, times: int) -> dict[str, float]:
    truth = {"now": expected_auc(patients, 200), "twice": expected_auc(2 * patients, 200)}
    truth["gain"] = truth["twice"] - truth["now"]
    rows = []
    for seed in tqdm(range(times)):
        films = draw(patients, np.random.default_rng([1, seed]))
        _, curve = learning_curve(*films, strength=1e-2, repeats=5, seed=seed)
        rows.append(curve[curve["metric"] == "AUC"].set_index("kind").loc[list(truth)])
    result = {"patients": patients}
    for kind, value in truth.items():
        each = pd.DataFrame([row.loc[kind] for row in rows])
        inside = each["low"].le(value) & each["high"].ge(value)
        result |= {kind: value, f"{kind} found": each["value"].mean()}
        result |= {f"{kind} covered": inside.mean(), f"{kind} sd": each["value"].std()}
    return result


def scores(patients: int, rng: np.random.Generator) -> pd.DataFrame:
    """Calibrated scores of patients with one to three films."""
    patient = np.repeat(np.arange(patients), rng.integers(1, 4, patients))
    logit = rng.normal(-0.5, 1.3, patients)[patient] + rng.normal(0, 1, len(patient))
    same = rng.random(patients)[patient]  # labels of a patient hang together
    target = np.where(rng.random(len(patient)) < 0.7, same, rng.random(len(patient))) < expit(logit)
    return pd.DataFrame(
        {"patient": patient, "target": target.astype(int), "probability": expit(logit)}
    )


def widths(pilot: int, times: int) -> pd.DataFrame:
    """Plan from a pilot test; return the mean width of tests of the planned size, by metric."""
    rng, rows = np.random.default_rng(0), []
    for _ in tqdm(range(times)):
        plan = plan_test(scores(pilot, rng), 0.4)
        for name, planned in plan["patients"].items():
            then = plan_test(scores(int(planned), rng), 0.4)
            rows.append({"metric": name, "wanted": plan.loc[name, "wanted"], "patients": planned})
            rows[-1] |= {"width": then.loc[name, "width"]}
    grouped = pd.DataFrame(rows).groupby("metric", sort=False)
    return grouped.agg({"wanted": "first", "patients": ["mean", "std"], "width": ["mean", "std"]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, nargs="+", default=[100, 250])
    parser.add_argument("--times", type=int, default=60)
    options = parser.parse_args()
    print(pd.DataFrame([cover_curves(n, options.times) for n in options.patients]).T.round(3))
    for pilot in (60, 250):
        print(f"\npilot of {pilot} patients\n{widths(pilot, options.times // 4).round(2)}")


if __name__ == "__main__":
    main()
