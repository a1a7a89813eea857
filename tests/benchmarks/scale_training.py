"""Show that training a head, and all that surrounds it, grows no faster than the films.

    python tests/benchmarks/scale_training.py [--films 1000 10000 112120] [--folder DIR] [--dense]

A study of small random pictures, as many as stated, two per patient and 5 % with the finding. Its
features are simulated: 5 x 5 x 1,280 in float16 on disk, with leading directions of falling
strength, and a signal. The steps of notebooks 01 to 05 run on it; pictures are scored by the run of
scale.py, whose network costs next to nothing. Each row has the seconds, the CPU seconds and the
most memory (VmHWM of Linux, so Linux only) of one step. The folder takes 7 GB of disk for 112,120
films.
"""

import argparse
import csv
import re
import shutil
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from scale import make_run
from scipy.special import expit

import cxrlib as cxr
from cxrlib.audit.leakage import measure_leakage
from cxrlib.audit.mislabels import rank_labels
from cxrlib.data.study import digest_films
from cxrlib.scoring.write import write_scores

GRID, CHANNELS, DIRECTIONS = 5, 1280, 300
FINDING, SHARE = "Cardiomegaly", 0.05


def make_study(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    with (folder / "labels.csv").open("w") as file:
        table = csv.writer(file)
        table.writerow(["filename", "label", "view", "patient"])
        for number in range(count):
            name = f"{number:08}.png"
            grey = rng.integers(0, 256, (16, 16), dtype=np.uint8)
            Image.fromarray(grey).save(folder / "images" / name)
            label = FINDING if rng.random() < SHARE else "No Finding"
            table.writerow([name, label, ("PA", "AP")[number % 2], f"P{number // 2}"])


class OnDisk:
    """An array on disk that is mapped only while a slice is read."""

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self.path, self.shape = path, shape

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, some):
        return np.array(np.load(self.path, mmap_mode="r")[some])


def make_features(path: Path, target: np.ndarray) -> "OnDisk":
    rng = np.random.default_rng(1)
    shape = (len(target), GRID, GRID, CHANNELS)
    falling = 60 / np.arange(1, DIRECTIONS + 1) ** 0.7
    axes = rng.normal(size=(DIRECTIONS, GRID * GRID * CHANNELS)).astype(np.float32)
    axes *= falling[:, None].astype(np.float32) / np.sqrt(axes.shape[1])
    features = np.lib.format.open_memmap(path, "w+", np.float16, shape)
    for start in range(0, len(target), 500):
        rows = slice(start, start + 500)
        hidden = rng.normal(size=(len(target[rows]), DIRECTIONS)).astype(np.float32)
        hidden[:, 5:60:6] += 0.6 * target[rows, None]
        noise = rng.normal(size=(len(hidden), axes.shape[1])).astype(np.float32)
        features[rows] = (hidden @ axes + noise / 2 + 1).reshape(-1, *shape[1:])
    features.flush()
    return OnDisk(path, shape)


@contextmanager
def step(films: int, name: str):
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start, cpu = time.perf_counter(), time.process_time()
    yield
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]
    print(f"{films:7} {name:18} {seconds:9.1f} {cpu:9.1f} {int(peak) / 1024:8.0f}", flush=True)


def run_series(folder: Path, count: int, dense: bool) -> None:
    with step(count, "(make pictures)"):
        make_study(folder / "study", count)
    with step(count, "read_study"):
        study = cxr.read_study(folder / "study")
    with step(count, "choose_films"):
        films = cxr.choose_films(study, FINDING)
    with step(count, "digest_films"):
        digest_films(films)
    train, test = (films[films["split"] == side] for side in ("train", "test"))
    with step(count, "(make features)"):
        features = make_features(folder / "features.npy", train["target"].to_numpy())
    with step(count, "load_backbone"):
        backbone = cxr.load_backbone()
    with step(count, "fit_head"):
        fitted = cxr.fit_head(features, train)
    if dense:
        with step(count, "fit_head dense"):
            cxr.fit_head(features, train, "dense")
    with step(count, "save_run"):
        run = cxr.save_run(folder / "run", study, films, FINDING, backbone, fitted)
    assert (folder / "run" / "run.json").stat().st_size < 50_000
    with step(count, "load_run"):
        run = cxr.load_run(folder / "run")
    drawn = np.random.default_rng(2).normal(2 * test["target"] - 3, 1)
    scores = test.assign(probability=expit(drawn))
    with step(count, "evaluate test"):
        metrics = run.metrics | {"test": cxr.evaluate(scores, run.threshold)}
    with step(count, "compare_auc"):
        other = drawn + np.random.default_rng(3).normal(size=len(drawn))
        cxr.compare_auc(test["target"], drawn, other, test["patient"])
    with step(count, "subgroups, plans"):
        cxr.tabulate_subgroups(metrics["test"])
        cxr.tabulate_net_benefit(scores)
        cxr.plan_test(scores, run.threshold)
    with step(count, "rank_labels"):
        rank_labels(run.split("train"))
    with step(count, "learning_curve"):
        cxr.learning_curve(features, train, fitted.facts["strength"], repeats=1)
    with step(count, "measure_leakage"):
        measure_leakage(features, train, fitted.facts["strength"], repeats=1)
    make_run(folder / "small")
    with step(count, "write_scores"):
        out = folder / "scores.csv"
        write_scores(cxr.load_run(folder / "small"), [folder / "study"], out, check=False)
    with step(count, "plots"):
        sides = {"train": run.split("train"), "test": scores}
        cxr.plot_findings(study.films)
        cxr.plot_patients(films)
        cxr.plot_reliability(sides)
        for plot in (cxr.plot_roc, cxr.plot_precision_recall):
            plot(sides, metrics)
        cxr.plot_scores(scores, run.threshold).figure.savefig(folder / "scores.png")
        plt.close("all")
    with step(count, "Explorer"):
        cxr.Explorer(scores, run.threshold)
    with step(count, "Browser"):
        cxr.Browser(study, run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--films", type=int, nargs="+", default=[1000, 10_000, 112_120])
    parser.add_argument("--folder", type=Path, help="to work in; default: the machine's own")
    parser.add_argument("--dense", action="store_true", help="fit a dense head as well")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{'films':>7} {'step':18} {'seconds':>9} {'CPU s':>9} {'MiB':>8}")
    for count in args.films:
        folder = Path(tempfile.mkdtemp(dir=args.folder))
        try:
            run_series(folder, count, args.dense)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
