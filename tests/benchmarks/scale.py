"""Show that memory does not grow with the number of films scored.

    python tests/benchmarks/scale.py [--films 1000 10000 100000]

A run that costs next to nothing (MobileNet with random weights, cut after its first block, 32
pixels), fitted on the bundled study, scores small pictures under as many names, by `write_scores`,
each number in a process of its own. Printed is the most memory that process held (VmHWM of Linux,
so Linux only), TensorFlow and the run included. Images per second are those of reading, calling
the model and writing parts, since the model itself does nearly nothing; a real one is far slower.
"""

import argparse
import multiprocessing
import os
import re
import tempfile
import time
from pathlib import Path

from PIL import Image

from cxrlib.data.study import choose_films, read_study
from cxrlib.model.backbone import extract_features, load_backbone
from cxrlib.model.head import fit_head
from cxrlib.model.run import load_run
from cxrlib.model.save import save_run
from cxrlib.scoring.write import write_scores

ROOT = Path(__file__).parents[2]
SIZE = 32


def make_run(folder: Path) -> None:
    study = read_study(ROOT / "medical")
    films = choose_films(study, "Cardiomegaly")
    train = films[films["split"] == "train"]
    backbone = load_backbone("MobileNet", None, SIZE, "conv_pw_1_relu")
    features = extract_features(backbone, train["path"], grid=4)
    save_run(folder, study, films, "Cardiomegaly", backbone, fit_head(features, train))


def make_films(folder: Path, count: int) -> None:
    """Name ten pictures again and again, in one folder: its list of names is the worst case."""
    pictures = sorted((ROOT / "medical" / "images").iterdir())[:10]
    small = folder / "small"
    small.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        Image.open(picture).resize((SIZE, SIZE)).save(small / f"{number}.png")
    (folder / "films").mkdir()
    for number in range(count):
        os.link(small / f"{number % 10}.png", folder / "films" / f"{number:07}.png")


def measure(run: Path, films: Path, out: Path) -> tuple[float, float]:
    """Return the peak of memory in MiB and the seconds that scoring took."""
    classifier, start = load_run(run), time.perf_counter()
    counts = write_scores(classifier, [films], out)
    seconds = time.perf_counter() - start
    assert counts["ok"] == counts.total(), counts
    peak = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]
    return int(peak) / 1024, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--films", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--out", default="scores.csv", help="name of the table, .csv or .parquet")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_run(folder / "run")
        for count in args.films:
            place = folder / str(count)
            make_films(place, count)
            with multiprocessing.get_context("spawn").Pool(1) as process:
                given = folder / "run", place / "films", place / args.out
                peak, seconds = process.apply(measure, given)
            print(
                f"{count:,} films: peak memory {peak:.0f} MiB, {seconds:.0f} seconds, "
                f"{count / seconds:.0f} images per second",
                flush=True,
            )


if __name__ == "__main__":
    main()
