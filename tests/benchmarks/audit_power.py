"""How strong must a fault be before the audit names it, and how often does it cry wolf?

Tables of simulated scores, two films per patient, calibrated and equally good in two groups; then
with one planted fault of growing strength. Prints the share of each verdict in percent.
"""

import argparse

import numpy as np
import pandas as pd
from scipy.special import expit
from tqdm.auto import tqdm

from cxrlib.audit.questions import NOT_SHOWN, SHOWN, UNTOLD, ask_all

CLAIMS = ("ranks", "calibrated", "helps", "groups", "metadata", "apart", "labels")
FAULTS = {
    "none": [0],
    "logits too extreme, times": [1.25, 1.5, 2],
    "site b ranked worse, share of its scores shuffled": [0.25, 0.5, 1],
    "a column tells the label, share of films": [0.6, 0.75, 0.9],
}
LOOKED_AT = {
    "none": ("ranks", "calibrated", "helps", "groups", "metadata"),
    "logits too extreme, times": ("calibrated",),
    "site b ranked worse, share of its scores shuffled": ("groups",),
    "a column tells the label, share of films": ("metadata",),
}


def simulate(patients: int, fault: str, strength: float, rng: np.random.Generator) -> pd.DataFrame:
    """Return a table as `read_predictions` gives it; the AUC of a clean one is about 0.88."""
    score = np.repeat(rng.normal(-0.5, 1.6, patients), 2) + rng.normal(0, 1.6, 2 * patients)
    target = (rng.random(len(score)) < expit(score)).astype(int)
    site = np.repeat(rng.choice(["a", "b"], patients), 2)
    ward = rng.choice(["x", "y"], len(score))
    if fault.startswith("logits"):
        score = score * strength
    elif fault.startswith("site"):
        moved = np.flatnonzero((site == "b") & (rng.random(len(score)) < strength))
        score[moved] = score[rng.permutation(moved)]
    elif fault.startswith("a column"):
        told = rng.random(len(score)) < strength
        ward = np.where(told == (target == 1), "x", "y")
    blank = dict.fromkeys(("split", "fold", "view", "sex"), "")
    return pd.DataFrame(
        {
            "id": np.arange(len(score)).astype(str),
            "patient": np.repeat([f"p{n}" for n in range(patients)], 2),
            "target": target,
            "probability": expit(score),
            "site": site,
            "ward": ward,
            "age": np.nan,
            **blank,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--patients", type=int, nargs="+", default=[50, 200, 800])
    parser.add_argument("--times", type=int, default=100, help="tables per row (default: 100)")
    options = parser.parse_args()
    cases = [(f, s, n) for f, some in FAULTS.items() for s in some for n in options.patients]
    rng = np.random.default_rng(0)
    print("| fault | strength | patients | claim | shown | not shown | cannot be told |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: |", flush=True)
    for fault, strength, patients in tqdm(cases):
        verdicts = []
        for _ in range(options.times):
            table = simulate(patients, fault, strength, rng)
            answers = ask_all(table, table, 0.5, None)
            verdicts.append([answer.verdict for answer in answers])
        found = pd.DataFrame(verdicts, columns=CLAIMS)
        for claim in LOOKED_AT[fault]:
            share = [found[claim].eq(verdict).mean() for verdict in (SHOWN, NOT_SHOWN, UNTOLD)]
            cells = (fault, f"{strength:g}", patients, claim, *(f"{x:.0%}" for x in share))
            print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
