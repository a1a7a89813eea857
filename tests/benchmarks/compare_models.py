"""Compare ways to train a classifier on the same patients, in one table.

    python tests/benchmarks/compare_models.py --out FOLDER [--study FOLDER] [--finding NAME]

The study is --study, else CXR_DATA, else the bundled one; `--epochs 1` is a quick trial. Progress
goes to stderr, the table to stdout. Each way trains in a fresh process on the same training
patients and scores the same test patients once; its scores and seconds are kept in --out, and a
call that was interrupted goes on with the ways that are missing there.

Seconds count from the start of the process to the trained model, in cxrlib's case to the saved
run, with an empty feature cache. Wall seconds grow with what else the machine does; CPU seconds of
all cores hardly. The recipe starts from the weights bundled with cxrlib, where tutorials take
ImageNet's.
"""

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

from cxrlib import versions
from cxrlib.data.study import choose_films, digest_films, read_study
from cxrlib.metrics.bootstrap import compare_auc
from cxrlib.metrics.report import format_interval
from cxrlib.model._keras import keras
from cxrlib.model.backbone import extract_features, load_backbone
from cxrlib.model.finetune import fine_tune
from cxrlib.model.head import fit_head
from cxrlib.model.network import BUNDLED
from cxrlib.model.predict import score_test
from cxrlib.model.save import save_run

EPOCHS = 20
SIDE = 256  # of the recipe's films, in pixels
AUGMENTATION = {
    "rotation_range": 40,
    "width_shift_range": 0.2,
    "height_shift_range": 0.2,
    "shear_range": 0.2,
    "zoom_range": 0.2,
}
REFERENCE = "frozen"
WAYS = {
    REFERENCE: "frozen InceptionV3, 5 x 5 grid, linear head (the default)",
    "average": "the same, features averaged over the whole film",
    "random": "the same with random weights",
    "densenet": "frozen DenseNet121 with random weights, 5 x 5 grid, linear head",
    "finetuned": "the default, then fine-tuned above mixed6 for at most 8 epochs",
    "recipe": "tutorial recipe: frozen up to mixed7, 256 pixels, dense layer of 1,024, balanced "
    "sample, single-image batches, augmentation",
}
COLUMNS = ["path", "patient", "target", "split", "probability"]


def train(way: str, started: float, args: argparse.Namespace) -> tuple[pd.DataFrame, dict]:
    """Train one way; return scores of held-out training films and of test films, and seconds."""
    study = read_study(args.study)
    films = choose_films(study, args.finding)
    if way == "recipe":
        return train_recipe(films, started, args)
    training = films[films["split"] == "train"].reset_index(drop=True)
    knobs = {"random": {"weights": None}}
    knobs["densenet"] = {"name": "DenseNet121", "weights": None, "layer": "top"}
    backbone = load_backbone(**knobs.get(way, {}), seed=args.seed)
    grid = 1 if way == "average" else 5
    with tempfile.TemporaryDirectory() as folder:
        features = extract_features(backbone, training["path"], grid)
        fitted = fit_head(features, training, seed=args.seed)
        if way == "finetuned":
            fitted = fine_tune(
                backbone, features, training, fitted, Path(folder, "epochs"), seed=args.seed
            )
        run = save_run(
            Path(folder, "run"), study, films, args.finding, backbone, fitted, seed=args.seed
        )
        seconds = measure(started)
        return score_test(run, study).predictions[COLUMNS], seconds


def train_recipe(films: pd.DataFrame, started: float, args) -> tuple[pd.DataFrame, dict]:
    training, model = begin_recipe(films, args.seed)
    with redirect_stdout(sys.stderr):
        batches = flow(training, AUGMENTATION, batch_size=1, seed=args.seed)
        model.fit(batches, epochs=args.epochs, verbose=2)
        seconds = measure(started)
        test = films[films["split"] == "test"]
        probability = model.predict(flow(test, {}, shuffle=False), verbose=0)[:, 0]
    test = test.assign(path="images/" + test["filename"], probability=probability)
    return test[COLUMNS], seconds


def begin_recipe(films: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, keras.Model]:
    """Return the films that the recipe trains on, and its model before the first step."""
    training = films[films["split"] == "train"]
    # As many negatives as positives, drawn at random.
    by_class = training.groupby("target")
    training = by_class.sample(by_class.size().min(), random_state=seed)
    keras.utils.set_random_seed(seed)
    base = keras.applications.InceptionV3(False, weights=None, input_shape=(SIDE, SIDE, 3))
    base.load_weights(BUNDLED)
    base.trainable = False
    x = keras.layers.Flatten()(base.get_layer("mixed7").output)
    x = keras.layers.Dense(1024, activation="relu")(x)
    x = keras.layers.Dropout(0.2)(x)
    x = keras.layers.Dense(1, activation="sigmoid")(x)
    model = keras.Model(base.input, x)
    model.compile(optimizer="adam", loss="binary_crossentropy")
    return training, model


def flow(films: pd.DataFrame, augmentation: dict, **options):
    """Return batches of films as tutorials make them."""
    # Keras 3 keeps this class under tf.keras alone; on top it would load before cxrlib quiets TF.
    from tensorflow.keras.preprocessing.image import ImageDataGenerator

    columns = {"x_col": "path", "y_col": "target", "class_mode": "raw"}
    generator = ImageDataGenerator(rescale=1 / 255, **augmentation)
    return generator.flow_from_dataframe(films, target_size=(SIDE, SIDE), **columns, **options)


def measure(started: float) -> dict[str, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"wall": time.monotonic() - started, "cpu": used.ru_utime + used.ru_stime}


def keep(way: str, args: argparse.Namespace, facts: dict) -> None:
    """Train a way in a fresh process and write what came of it, its facts last."""
    print(f"-- {way}: {WAYS[way]}", file=sys.stderr)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        scores, seconds = pool.submit(train, way, time.monotonic(), args).result()
    scores.to_csv(args.out / f"{way}.csv", index=False)
    part = args.out / f"{way}.part"
    part.write_text(json.dumps(facts | {"seconds": seconds}, indent=1))
    os.replace(part, args.out / f"{way}.json")


def is_kept(way: str, args: argparse.Namespace, facts: dict) -> bool:
    file = args.out / f"{way}.json"
    if not file.exists():
        return False
    kept = json.loads(file.read_text())
    different = [name for name in facts if kept.get(name) != facts[name]]
    if different:
        sys.exit(f"{file} was made with another {', '.join(different)}: give an empty --out")
    return True


def tabulate(ways: list[str], out: Path) -> pd.DataFrame:
    """Return one row a way: seconds, AUC and its difference from the default, on each side."""
    scores = {way: read_scores(out / f"{way}.csv") for way in ways}
    rows = {}
    for way in ways:
        seconds = json.loads((out / f"{way}.json").read_text())["seconds"]
        row = {"seconds, wall": f"{seconds['wall']:.0f}", "seconds, CPU": f"{seconds['cpu']:.0f}"}
        for split, name in (("train", "cross-validated"), ("test", "test")):
            reference, own = (
                scores[w][scores[w]["split"] == split].reset_index(drop=True)
                for w in (REFERENCE, way)
            )
            row[f"AUC, {name}"] = row[f"less the default, {name}"] = ""
            if len(own) < len(reference):  # the recipe and fine-tuning have no cross-validation
                continue
            if not own[["path", "target"]].equals(reference[["path", "target"]]):
                raise ValueError(f"{way} did not score the films that {REFERENCE} scored")
            measured = compare_auc(
                own["target"].to_numpy(),
                own["probability"].to_numpy(),
                reference["probability"].to_numpy(),
                own["patient"].to_numpy(),
            )
            row[f"AUC, {name}"] = format_interval(measured["first"], 3)
            if way != REFERENCE:
                value, low, high = (f"{bound:+.3f}" for bound in measured["difference"].values())
                row[f"less the default, {name}"] = f"{value} ({low} to {high})"
        rows[WAYS[way]] = row
    return pd.DataFrame(rows).T.rename_axis("way")


def read_scores(path: Path) -> pd.DataFrame:
    scores = pd.read_csv(path, dtype={"patient": str}).sort_values("path", ignore_index=True)
    if scores["probability"].isna().any():
        raise ValueError(f"{path} holds a film without a score")
    return scores


def main():
    args = parse_arguments()
    films = choose_films(read_study(args.study), args.finding)
    facts = {
        "films": digest_films(films),
        "finding": args.finding,
        "epochs": args.epochs,
        "seed": args.seed,
        "versions": versions(),
    }
    for way in args.ways:
        if not is_kept(way, args, facts):
            keep(way, args, facts)
    table = tabulate(args.ways, args.out)
    test = films[films["split"] == "test"]
    print(f"{args.finding}, seed {args.seed}, {platform.machine()}, {os.cpu_count()} cores")
    print(", ".join(f"{name} {number}" for name, number in facts["versions"].items()) + "\n")
    rows = [[table.index.name, *table], ["---"] * (table.shape[1] + 1), *table.itertuples()]
    print("\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows))
    print(
        f"\nTest: {len(test)} films of {test['patient'].nunique()} patients, "
        f"{test['target'].sum()} with the finding. Differences are paired, in the same resamples "
        "of patients; 95 % intervals."
    )
    for way in args.ways:
        if len(read_scores(args.out / f"{way}.csv")["probability"].unique()) == 1:
            print(f"{way} collapsed: it gives all films the same score.")
    if "recipe" in args.ways and args.epochs != EPOCHS:
        print(f"A TRIAL: the recipe ran for {args.epochs} of its {EPOCHS} epochs.")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    medical = Path(__file__).parents[2] / "medical"
    parser.add_argument("--study", default=os.environ.get("CXR_DATA") or medical)
    parser.add_argument("--finding", default="Cardiomegaly")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the recipe")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for scores and seconds")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    args = parser.parse_args()
    if REFERENCE not in args.ways:
        parser.error(f"--ways needs '{REFERENCE}', which the others are compared with")
    args.out.mkdir(parents=True, exist_ok=True)
    return args


if __name__ == "__main__":
    main()
