"""Measure how quick the film browser is on a table as long as ChestX-ray14, and what it keeps.

    python tests/benchmarks/browse.py [--study FOLDER] [--films 112000] [--pictures 2000] [--page]

The table repeats the study's films under names and paths of their own (links to its folder), so
that no cache of the browser answers for a film not yet shown; the file system's does. Scores are
drawn at random. Measured is what the kernel does: from the table in memory to the answers for the
first picture and the first page of thumbnails, then from one film to the next, thumbnails of a new
page included. Memory is the resident size of the process, less what it was with the table alone: a
cache that grew with each film would show between the two counts of pictures.

With --page the same table is browsed in JupyterLab by a headless Chromium instead, and the times
are those that a reader waits: from the cell's start, or the key, to the film drawn on the page. In
the first row of figures each key waits for the page to be at rest, in the second none does, and a
film that is jumped to has neither been read ahead nor shown.
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from cxrlib import Browser
from cxrlib.data.study import Study, read_study
from cxrlib.model.run import Run, load_run
from lab import open_chromium, open_notebook, serve_lab

ROOT = Path(__file__).parents[2]
PAGE, BATCH = 20, 5  # thumbnails of a page, and in one question, as browser.js has them
WARM = 200  # pictures after which bounded caches of pictures are full
# Seconds until a film other than the one before is drawn.
DRAWN = """const drawn = async (before) => {
    const start = performance.now();
    while (performance.now() < start + 30000) {
        const canvas = document.querySelector("[aria-label='Radiograph browser'] canvas");
        const film = canvas?.dataset.film;
        if (film && film !== before) return (performance.now() - start) / 1000;
        await new Promise(requestAnimationFrame);
    }
    throw new Error("no film was drawn within 30 seconds");
};"""
NEXT = f"""async ([key, rest]) => {{ {DRAWN}
    await new Promise((done) => setTimeout(done, rest));
    const canvas = document.querySelector("[aria-label='Radiograph browser'] canvas");
    const before = canvas.dataset.film;
    canvas.dispatchEvent(new KeyboardEvent("keydown", {{ key, bubbles: true }}));
    return drawn(before);
}}"""


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
        for column in ("filename", "file", "patient"):
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


def long_study(folder: str, study: str, films: int) -> tuple[Study, Run]:
    """Return a study of `films` films in `folder`, and a run that scored them at random."""
    long = repeat(read_study(study), films, Path(folder))
    rng = np.random.default_rng(0)
    scores = {
        "path": long.films["file"],
        "target": rng.integers(0, 2, films),
        "probability": rng.random(films),
    }
    pd.DataFrame(scores).to_csv(Path(folder) / "predictions.csv", index=False)
    run = load_run(ROOT / "medical" / "models" / "cardiomegaly")
    return long, replace(run, folder=Path(folder))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", default=os.environ.get("CXR_DATA") or ROOT / "medical")
    parser.add_argument("--films", type=int, default=112_000)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--page", action="store_true", help="drive it in a real page")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.page:
            measure_page(Path(folder), os.path.abspath(args.study), args.films, args.pictures)
        else:
            measure(*long_study(folder, args.study, args.films), args.pictures)


def measure_page(folder: Path, study: str, films: int, pictures: int) -> None:
    (folder / "films").mkdir()
    cells = [
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from browse import Browser, long_study\n"
        f"study, run = long_study({str(folder / 'films')!r}, {study!r}, {films})\nprint('ready')",
        "browser = Browser(study, run); browser",
    ]
    with open_chromium() as chromium, serve_lab(folder, {"browse.ipynb": cells}) as address:
        page = chromium.new_page(viewport={"width": 1300, "height": 1000})
        open_notebook(page, address("lab/tree/browse.ipynb"))
        page.locator(".jp-CodeCell").first.click()
        page.keyboard.press("Shift+Enter")
        page.get_by_text("ready", exact=True).wait_for(timeout=300_000)
        page.wait_for_timeout(2000)
        page.evaluate(f"() => {{ {DRAWN} window.first = drawn(''); }}")
        page.keyboard.press("Shift+Enter")
        first = page.evaluate("window.first")
        page.wait_for_timeout(2000)
        rest = [page.evaluate(NEXT, ["ArrowRight", 400]) for _ in range(pictures)]
        held = [page.evaluate(NEXT, ["ArrowRight", 0]) for _ in range(pictures)]
        jumps = [page.evaluate(NEXT, [key, 400]) for key in ["End", "Home"] * 2]
    print(f"{films:,} films in JupyterLab, {pictures} pictures; seconds as a reader waits")
    print(f"first picture {first:.2f}")
    for name, seconds in (("page at rest", rest), ("keys at once", held)):
        print(
            f"next picture, {name}: median {np.median(seconds):.3f}, 99 of 100 below "
            f"{np.quantile(seconds, 0.99):.3f}, worst {max(seconds):.3f}"
        )
    print(f"to the last film and back: {', '.join(f'{s:.3f}' for s in jumps)}")


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
