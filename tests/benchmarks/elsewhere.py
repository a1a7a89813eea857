"""Train on one view of a study and measure on the other, both ways, for docs/elsewhere.md.

    CXR_DATA=folder python tests/benchmarks/elsewhere.py OUT

OUT gets two studies (links to the images), two runs, the scores and the tables.
"""

import argparse
import os
import warnings
from pathlib import Path

import pandas as pd

import cxrlib as cxr
from cxrlib.audit import elsewhere
from cxrlib.model.folds import TrainError

FINDING = "Cardiomegaly"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for what it makes")
    parser.add_argument("--image-size", type=int, default=399)
    args = parser.parse_args()
    studies = {view: cut(Path(os.environ["CXR_DATA"]), args.out, view) for view in ("PA", "AP")}
    backbone = cxr.load_backbone(image_size=args.image_size)
    for home, away in (("PA", "AP"), ("AP", "PA")):
        run = train(args.out, studies[home], backbone, f"run-{home}")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            scores = cxr.score_study(run, studies[away])
        scores.to_csv(args.out / f"scores-{home}-{away}.csv", index=False)
        print(f"\n## Trained on {home}, measured on {away}\n")
        print(*[warning.message for warning in said], sep="\n")
        print(scores["status"].value_counts().to_string())
        show(elsewhere.compare_case_mix(run, scores, studies[home]))
        show(elsewhere.compare_with_home(run, scores))
        try:
            show(elsewhere.measure_shortcuts(scores))
        except TrainError as error:
            print(error)
        bought, left_out = elsewhere.measure_recalibration(run, scores)
        show(bought)
        print("left out:", left_out)


def cut(source: Path, out: Path, view: str) -> cxr.Study:
    """Write the study of one view's films, and read it."""
    folder = out / view.lower()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "images").exists():
        (folder / "images").symlink_to((source / "images").resolve())
    labels = pd.read_csv(source / "labels.csv", dtype=str, keep_default_na=False)
    labels[labels["view"] == view].to_csv(folder / "labels.csv", index=False)
    return cxr.read_study(folder)


def train(out: Path, study: cxr.Study, backbone, name: str) -> cxr.Run:
    films = cxr.choose_films(study, FINDING)
    side = films[films["split"] == "train"]
    features = cxr.extract_features(backbone, side["path"], 5, out / "features")
    fitted = cxr.fit_head(features, side)
    run = cxr.save_run(out / name, study, films, FINDING, backbone, fitted)
    return cxr.score_test(run, study)


def show(table: pd.DataFrame) -> None:
    print()
    print(table.round(3).to_string())


if __name__ == "__main__":
    main()
