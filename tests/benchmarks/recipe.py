"""Measure CPU seconds from images to a saved run, beside those of the usual recipe.

    CXR_DATA=folder python tests/benchmarks/recipe.py [--finding NAME] [--films 40]

Each way has a process of its own, and its seconds count from the start of that process, imports
included, with nothing cached. The ways of cxrlib are measured whole, step by step, at the settings
of notebook 02. The recipe is that of `compare_models.py`: InceptionV3 frozen up to mixed7, a dense
layer of 1,024, a balanced sample, batches of one image, 20 epochs. NOT MEASURED WHOLE: steps on
--films of its films are, after as many others in which TensorFlow compiles. Those count once, these
are counted for all films and epochs. The test patients are not scored.
"""

import argparse
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from multiprocessing import get_context
from pathlib import Path

import pandas as pd

WAYS = {
    "InceptionV3, 8 bits": ("InceptionV3", True),
    "EfficientNetLite2, 8 bits": ("EfficientNetLite2", True),
    "InceptionV3, in full": ("InceptionV3", False),
    "EfficientNetLite2, in full": ("EfficientNetLite2", False),
}


class Clock:
    """Seconds of this process since the last call, by the clock and of processors, by step."""

    def __init__(self):
        self.spent, self.last = {}, (0.0, 0.0)

    def __call__(self, step: str) -> None:
        user, system, _, _, _ = os.times()
        born = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
        now = user + system, up - born / os.sysconf("SC_CLK_TCK")
        self.spent[step] = [now[0] - self.last[0], now[1] - self.last[1]]
        self.last = now


def train(name: str, fast: bool, study: str, finding: str) -> tuple[dict, float]:
    """Train a run as notebook 02 does; return seconds by step, and the cross-validated AUC."""
    clock = Clock()
    import cxrlib as cxr
    from cxrlib.deploy.engine import quantise_backbone

    clock("Python and TensorFlow start")
    study = cxr.read_study(study)
    films = cxr.choose_films(study, finding)
    training = films[films["split"] == "train"]
    clock("study")
    backbone = cxr.load_backbone(name)
    clock("network")
    with tempfile.TemporaryDirectory() as folder:
        if fast:
            backbone = quantise_backbone(backbone, training["path"], Path(folder))
            clock("8 bits")
        features = cxr.extract_features(backbone, training["path"])
        clock("features")
        fitted = cxr.fit_head(features, training)
        clock("head, nested cross-validation")
        run = cxr.save_run(f"{folder}/run", study, films, finding, backbone, fitted)
        clock("saved run with intervals")
    return clock.spent, run.metrics["train"]["auc"]["value"]


def train_recipe(study: str, finding: str, count: int) -> tuple[dict, None]:
    clock = Clock()
    import sys

    import compare_models as recipe

    films = recipe.choose_films(recipe.read_study(study), finding)
    training, model = recipe.begin_recipe(films, seed=0)
    with redirect_stdout(sys.stderr):
        batches = recipe.flow(training, recipe.AUGMENTATION, batch_size=1, seed=0)
        names = ["start, model and first films", measured := f"{count} films"]
        tell = recipe.keras.callbacks.LambdaCallback(on_epoch_end=lambda i, _: clock(names[i]))
        model.fit(batches, steps_per_epoch=count, epochs=2, verbose=0, callbacks=[tell])
    steps = len(training) * recipe.EPOCHS
    every = f"{len(training)} films, {recipe.EPOCHS} epochs, from those {count}"
    clock.spent[every] = [x * steps / count for x in clock.spent.pop(measured)]
    return clock.spent, None


def measure(way, *arguments) -> tuple[pd.DataFrame, float | None]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        spent, auc = pool.submit(way, *arguments).result()
    table = pd.DataFrame(spent, index=["CPU seconds", "by the clock"]).T
    table.loc["in all"] = table.sum()
    return table, auc


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    medical = Path(__file__).parents[2] / "medical"
    parser.add_argument("--study", default=os.environ.get("CXR_DATA") or medical)
    parser.add_argument("--finding", default="Cardiomegaly")
    parser.add_argument("--films", type=int, default=40, help="of the recipe that are measured")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS)[:2])
    args = parser.parse_args()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    print(f"{args.finding}; {os.cpu_count()} cores, {cpu['model name']}, model {cpu['model']}")
    recipe, _ = measure(train_recipe, args.study, args.finding, args.films)
    print(f"\nthe usual recipe\n{recipe.round(1).to_string()}")
    for way in args.ways:
        table, auc = measure(train, *WAYS[way], args.study, args.finding)
        ratio, _ = recipe.loc["in all"] / table.loc["in all"]
        print(f"\n{way}, cross-validated AUC {auc:.3f}\n{table.round(1).to_string()}")
        print(f"the recipe takes {ratio:.0f} times the CPU seconds")


if __name__ == "__main__":
    main()
