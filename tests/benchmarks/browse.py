"""Measure how quick the film browser is on a table as long as ChestX-ray14, and what it keeps.

    python tests/benchmarks/browse.py [--study FOLDER] [--films 112000] [--pictures 2000]

The table repeats the study's films under names and paths of their own (links to its folder), so
that no cache of the browser answers for a film not yet shown; the file system's does. Scores are
drawn at random. Measured is what the kernel does: from the table in memory to the answers for the
first picture and the first page of thumbnails, then from one film to the next, thumbnails of a new
page included. What the page adds, transport and drawing, is not in it. Memory is the resident size
of the process, less what it was with the table alone: a cache that grew with each film would show
between the two counts of pictures.
"""

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

from cxrlib.run import Run, load_run
from cxrlib.study import Study, read_study
from cxrlib.widgets import Browser

ROOT = Path(__file__).parents[2]
PAGE, BATCH = 20, 5  # thumbnails of a page, and in one question, as browser.js has them
WARM = 200  # pictures after which bounded caches of pictures are full


def repeat(study: Study, count: int, links: Path) -> Study:
    """Return a study of `count` films: those of `study`, each copy with a path of its own."""
    copies = -(-count // len(study.films))
    for copy in range(copies):
        (links / str(copy)).symlink_to((study.folder / "images").resolve())
    tables = {}
    for name in ("films", "findings"):
        table = getattr(study, name)
        many = pd.concat([table] * copies, ignore_index=True)
        copy = pd.Series(np.repeat(np.arange(copies), len(table)).astype(str))
        if name == "films":
            many["path"] = f"{links}/" + copy + "/" + many["filename"]
        for column in ("filename", "patient"):
            many[column] = copy + "-" + many[column]
        tables[name] = many
    films = tables["films"].iloc[:count]
    findings = tables["findings"][tables["findings"]["filename"].isin(films["filename"])]
    return replace(study, films=films, findings=findings)


def ask(browser: Browser, kind: str, at: list[int]) -> None:
    """Put the front end's question, and check that each film was read."""
    answers = []
    browser.send = lambda content, buffers: answers.append((content, buffers))
    browser._answer(browser, {"kind": kind, "at": at, "version": browser.version}, [])
    ((content, buffers),) = answers
    assert not content["reasons"] and all(buffers), content["reasons"]


def ask_page(browser: Browser, first: int) -> None:
    for start in range(first, min(first + PAGE, browser.count), BATCH):
        ask(browser, "thumbnails", list(range(start, min(start + BATCH, browser.count))))


def resident() -> float:
    """Return the memory of this process in MiB."""
    return psutil.Process().memory_info().rss / 2**20


def since(start: float) -> float:
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", default=os.environ.get("CXR_DATA") or ROOT / "medical")
    parser.add_argument("--films", type=int, default=112_000)
    parser.add_argument("--pictures", type=int, default=2000)
    args = parser.parse_args()
    small = read_study(args.study)
    with tempfile.TemporaryDirectory() as folder:
        study = repeat(small, args.films, Path(folder))
        rng = np.random.default_rng(0)
        scores = {
            "path": "images/" + study.films["filename"],
            "target": rng.integers(0, 2, len(study.films)),
            "probability": rng.random(len(study.films)),
        }
        pd.DataFrame(scores).to_csv(Path(folder) / "predictions.csv", index=False)
        run = load_run(ROOT / "medical" / "models" / "cardiomegaly")
        measure(study, replace(run, folder=Path(folder)), args.pictures)


def measure(study: Study, run: Run, pictures: int) -> None:
    before, start = resident(), time.perf_counter()
    browser = Browser(study, run)
    made = since(start)
    ask(browser, "picture", [0])
    first = since(start)
    ask_page(browser, 0)
    page = since(start)

    seconds, sizes = [], {}
    for position in range(1, pictures + 1):
        start = time.perf_counter()
        browser.position = position
        ask(browser, "picture", [position])
        if position % PAGE == 0:
            ask_page(browser, position)
        seconds.append(since(start))
        sizes[position] = resident() - before

    start = time.perf_counter()
    browser.outcome, browser.order = "false positive", "highest probability first"
    ask(browser, "picture", [0])
    filtered = since(start)

    side = study.films[["width", "height"]].max(axis=1).median()
    print(f"{len(study.films):,} films, longer side {side:.0f} pixels (median)")
    print(f"seconds to the widget {made:.2f}, first picture {first:.2f}, its page {page:.2f}")
    print(
        f"seconds to the next picture: median {np.median(seconds):.3f}, 99 of 100 below "
        f"{np.quantile(seconds, 0.99):.3f}, worst {max(seconds):.3f} (with a new page)"
    )
    print(f"seconds to the first of {browser.count:,} false positives, sorted: {filtered:.2f}")
    for count in sorted({min(WARM, pictures), pictures}):
        highest = max(size for position, size in sizes.items() if position <= count)
        print(f"peak memory over the first {count:,} pictures: {highest:+.0f} MiB")


if __name__ == "__main__":
    main()
