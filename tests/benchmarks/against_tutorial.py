"""Measure cxrlib's default run against the usual tutorial recipe, on the same patients.

    python tests/benchmarks/against_tutorial.py [--study FOLDER] [--finding NAME] [--out FILE.json]

The study is --study, else CXR_DATA, else the bundled one; `--epochs 1` is a quick trial. Progress
goes to stderr, the table to stdout; nothing else should run on the machine meanwhile.

Each side trains in a fresh process, cxrlib first and with an empty feature cache, so what the file
system still holds in memory can only help the recipe. Seconds count from the start of the process
to the trained model, in cxrlib's case to the saved run. Test patients are scored after that, once.
The recipe starts from the weights bundled with cxrlib, where tutorials take ImageNet's.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib import versions
from cxrlib.backbone import BUNDLED, extract_features, keras, load_backbone
from cxrlib.metrics import RESAMPLES, auc, resample_patients
from cxrlib.run import save_run
from cxrlib.score import score_test
from cxrlib.study import choose_films, read_study
from cxrlib.train import fit_head

EPOCHS = 20
SIDE = 256  # of the recipe's films, in pixels
AUGMENTATION = {
    "rotation_range": 40,
    "width_shift_range": 0.2,
    "height_shift_range": 0.2,
    "shear_range": 0.2,
    "zoom_range": 0.2,
}
STAGES = "start and import,read study,load backbone,features,head,save,train,all".split(",")
TEST = ["path", "patient", "target", "probability"]


class Stopwatch:
    """Seconds by stage since `started`, a time of the clock that all processes share."""

    def __init__(self, started: float):
        self.last = started
        self.seconds = {}

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage], self.last = now - self.last, now
        print(f"{stage}: {self.seconds[stage]:.1f} s", file=sys.stderr)


def train_cxrlib(started: float, args: argparse.Namespace) -> dict:
    watch = Stopwatch(started)
    watch.lap("start and import")
    study = read_study(args.study)
    films = choose_films(study, args.finding)
    train = films[films["split"] == "train"]
    watch.lap("read study")
    backbone = load_backbone()
    watch.lap("load backbone")
    with tempfile.TemporaryDirectory() as folder:
        features = extract_features(backbone, train["path"], cache=Path(folder, "features"))
        watch.lap("features")
        fitted = fit_head(features, train, seed=args.seed)
        watch.lap("head")
        out = Path(folder, "run")
        run = save_run(out, study, films, args.finding, backbone, fitted, seed=args.seed)
        watch.lap("save")
        test = score_test(run, study).predictions.query("split == 'test'")
    return {"train": count(train), "seconds": watch.seconds, "test": test[TEST]}


def train_tutorial(started: float, args: argparse.Namespace) -> dict:
    watch = Stopwatch(started)
    watch.lap("start and import")
    films = choose_films(read_study(args.study), args.finding)
    train = films[films["split"] == "train"]
    # As many negatives as positives, drawn at random.
    by_class = train.groupby("target")
    train = by_class.sample(by_class.size().min(), random_state=args.seed)
    watch.lap("read study")
    keras.utils.set_random_seed(args.seed)
    model = build_tutorial()
    watch.lap("load backbone")
    with redirect_stdout(sys.stderr):
        batches = flow(train, AUGMENTATION, batch_size=1, seed=args.seed)
        model.fit(batches, epochs=args.epochs, verbose=2)
        watch.lap("train")
        test = films[films["split"] == "test"]
        probability = model.predict(flow(test, {}, shuffle=False), verbose=0)[:, 0]
    test = test.assign(path="images/" + test["filename"], probability=probability)
    return {"train": count(train), "seconds": watch.seconds, "test": test[TEST]}


def build_tutorial() -> keras.Model:
    base = keras.applications.InceptionV3(False, weights=None, input_shape=(SIDE, SIDE, 3))
    base.load_weights(BUNDLED)
    base.trainable = False
    x = keras.layers.Flatten()(base.get_layer("mixed7").output)
    x = keras.layers.Dense(1024, activation="relu")(x)
    x = keras.layers.Dropout(0.2)(x)
    x = keras.layers.Dense(1, activation="sigmoid")(x)
    model = keras.Model(base.input, x)
    model.compile(optimizer="adam", loss="binary_crossentropy")
    return model


def flow(films: pd.DataFrame, augmentation: dict, **options):
    """Return batches of films as tutorials make them."""
    # Keras 3 keeps this class under tf.keras alone; on top it would load before cxrlib quiets TF.
    from tensorflow.keras.preprocessing.image import ImageDataGenerator

    columns = {"x_col": "path", "y_col": "target", "class_mode": "raw"}
    generator = ImageDataGenerator(rescale=1 / 255, **augmentation)
    return generator.flow_from_dataframe(films, target_size=(SIDE, SIDE), **columns, **options)


def count(films: pd.DataFrame) -> dict[str, int]:
    patients, positives = films["patient"].nunique(), int(films["target"].sum())
    return {"films": len(films), "patients": patients, "positives": positives}


def in_fresh_process(train, args: argparse.Namespace) -> dict:
    print(f"-- {train.__name__}", file=sys.stderr)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(train, time.monotonic(), args).result()


def compare_auc(cxrlib: pd.DataFrame, tutorial: pd.DataFrame, seed: int) -> dict[str, dict]:
    """Return the AUC of each side and their difference, with 95 % intervals over patients."""
    both = cxrlib.merge(tutorial, how="outer", on=TEST[:-1], suffixes=("_cxrlib", "_tutorial"))
    if both.isna().any(axis=None):
        raise ValueError("the two sides did not score the same test films, or one score is NaN")
    # The films as they are first, then the resamples: the same ones for both sides.
    weights = np.vstack([np.ones(len(both)), resample_patients(both["patient"], RESAMPLES, seed)])
    target = both["target"].to_numpy()
    areas = {
        side: auc(target, both[f"probability_{side}"].to_numpy(), weights)
        for side in ("cxrlib", "tutorial")
    }
    areas["difference"] = areas["cxrlib"] - areas["tutorial"]
    result = {}
    for name, (value, *resampled) in areas.items():
        low, high = np.nanpercentile(resampled, [2.5, 97.5])
        result[name] = {"value": float(value), "low": float(low), "high": float(high)}
    return result


def tabulate(facts: dict) -> str:
    columns = {}
    for side, measured in facts["sides"].items():
        seconds = pd.Series(measured["seconds"]).reindex(STAGES).map("{:.1f}".format)
        columns[side] = {
            **{f"training {name}": number for name, number in measured["train"].items()},
            **seconds.replace("nan", "").add_prefix("seconds, "),
            "test AUC": interval(facts["auc"][side]),
            "distinct test scores": measured["distinct_scores"],  # 1: collapsed to a constant
        }
    return pd.DataFrame(columns).to_string()


def interval(metric: dict) -> str:
    return f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"


def main():
    args = parse_arguments()
    sides = {
        "cxrlib": in_fresh_process(train_cxrlib, args),
        "tutorial": in_fresh_process(train_tutorial, args),
    }
    tests = {side: measured.pop("test") for side, measured in sides.items()}
    for side, measured in sides.items():
        measured["seconds"]["all"] = sum(measured["seconds"].values())
        measured["distinct_scores"] = tests[side]["probability"].nunique()
    facts = {
        "study": Path(args.study).resolve().name,
        "finding": args.finding,
        "epochs": args.epochs,
        "seed": args.seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(),
        "sides": sides,
        "ratio": sides["tutorial"]["seconds"]["all"] / sides["cxrlib"]["seconds"]["all"],
        "test": count(tests["cxrlib"]),
        "auc": compare_auc(**tests, seed=args.seed),
    }
    test = facts["test"]
    print(f"{args.finding} in {facts['study']}, seed {args.seed}, {facts['machine']}")
    print(", ".join(f"{name} {number}" for name, number in facts["versions"].items()))
    print(f"\n{tabulate(facts)}\n")
    print(f"The tutorial recipe takes {facts['ratio']:.1f} times as long.")
    print(f"Test AUC, cxrlib less tutorial: {interval(facts['auc']['difference'])}")
    print(
        f"On {test['films']} films of {test['patients']} test patients, {test['positives']} of the "
        f"films positive; 95 % intervals by {RESAMPLES} resamples of patients, the same for both."
    )
    if args.epochs != EPOCHS:
        print(f"A TRIAL: the recipe ran for {args.epochs} of its {EPOCHS} epochs.")
    if args.out:
        part = args.out.with_name(f"{args.out.name}.part")
        part.write_text(json.dumps(facts, indent=1))
        os.replace(part, args.out)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    medical = Path(__file__).parents[2] / "medical"
    parser.add_argument("--study", default=os.environ.get("CXR_DATA") or medical)
    parser.add_argument("--finding", default="Cardiomegaly")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    args = parser.parse_args()
    if args.out and not args.out.absolute().parent.is_dir():
        parser.error(f"--out {args.out}: give a file in a folder that exists")
    return args


if __name__ == "__main__":
    main()
