"""How long `read_study` takes on NIH's whole table, and how much memory: seconds and peak MiB.

    python tests/benchmarks/read_study.py Data_Entry_2017_v2020.csv.gz

The 112,120 names of the table are hard links of twelve small JPEGs, one per archive of NIH; with
--png of twelve PNGs of 1024 x 1024 pixels, as NIH's are. With --distinct each name is a file of its
own, so that none is a link and all sizes are compared; with JPEG that takes 0.5 GB of disk.
"""

import argparse
import gzip
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cxrlib.data.study import choose_films, read_study

FOLDER = 10_000  # films in each of NIH's archives


def make_study(table: Path, folder: Path, distinct: bool, side: int, kind: str) -> None:
    """Write the table and a file for each of its names, of `side` pixels squared."""
    opened = gzip.open if table.suffix == ".gz" else open
    with opened(table, "rb") as source, open(folder / "Data_Entry_2017_v2020.csv", "wb") as copy:
        shutil.copyfileobj(source, copy)
    rng = np.random.default_rng(0)
    for number, name in enumerate(pd.read_csv(table)["Image Index"]):
        path = folder / f"images_{number // FOLDER + 1:03}" / "images" / name
        if number % FOLDER == 0:  # a file has at most 65,000 links
            path.parent.mkdir(parents=True)
            first = path
            Image.fromarray(rng.integers(0, 256, (side, side), np.uint8)).save(path, kind)
        elif distinct:  # what follows an image's end is not read
            path.write_bytes(first.read_bytes() + number.to_bytes(4))
        else:
            os.link(first, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", type=Path, help="NIH's Data_Entry_2017*.csv, or .csv.gz")
    parser.add_argument("--distinct", action="store_true", help="a file for each name, no links")
    parser.add_argument("--png", action="store_true", help="PNG of 1024 pixels in place of JPEG")
    args = parser.parse_args()
    form = (1024, "PNG") if args.png else (64, "JPEG")
    with tempfile.TemporaryDirectory() as folder:
        make_study(args.table, Path(folder), args.distinct, *form)
        start, began = time.monotonic(), time.process_time()
        study = read_study(folder)
        seconds, cpu = time.monotonic() - start, time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    films = choose_films(study, "Cardiomegaly", against="others")
    print(f"{len(study.films)} films, {study.films['patient'].nunique()} patients")
    print(f"Cardiomegaly: {films['target'].sum()} films against {(1 - films['target']).sum()}")
    print(
        f"{seconds:.1f} s, {cpu:.1f} s of them on the processor, {peak:.0f} MiB at most, "
        f"{os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main()
