"""Damage thousands of films and kill tens of processes: what breaks? `make campaign` runs it.

Ends with status 1 unless all is read or told in a sentence, and all that was killed is resumed.
"""

import argparse
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import features
from tqdm.auto import tqdm

from damage import SECRET, damage, make_originals
from kills import ENDLESS, FILMS, KINDS, LOST, RESUMED, Attacks, serving
from reading import CLEAR, READ, SECONDS, WAYS, WRONG, judge, read_all

KEPT = Path(__file__).parents[2] / "build" / "campaign"  # what went wrong
PACKAGES = "numpy pillow pydicom pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg tensorflow keras"
CODECS = ("jpg", "zlib", "libtiff")
BAD = (WRONG, ENDLESS, LOST)


class Table:
    """What became of what was tried, by kind, and each thing that went wrong."""

    def __init__(self):
        self.counts: dict[str, Counter] = {}
        self.faults: list[str] = []

    def add(self, kind: str, result: str, name: str, why: str) -> None:
        self.counts.setdefault(kind, Counter())[result] += 1
        if result in BAD:
            self.faults.append(f"{kind}: {name}: {result}: {why}")
            tqdm.write(self.faults[-1], file=sys.stderr)

    @property
    def bad(self) -> int:
        return sum(count[result] for count in self.counts.values() for result in BAD)

    def __str__(self) -> str:
        columns = {"tried": None, "read or resumed": (READ, RESUMED), "clear": (CLEAR,)}
        columns |= {result: (result,) for result in BAD}
        rows = [["kind", *columns], ["---", *["---:"] * len(columns)]]
        for kind, count in [*self.counts.items(), ("all", sum(self.counts.values(), Counter()))]:
            numbers = (
                sum(map(count.get, of, [0] * 2)) if of else count.total() for of in columns.values()
            )
            rows.append([kind, *(f"{n:,}" for n in numbers)])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def damage_films(table: Table, folder: Path, files: int, seed: int, ways=WAYS, seconds=SECONDS):
    """Read `files` damaged films; those that are not read or told well stay in `folder`."""
    folder.mkdir(parents=True)
    originals = make_originals(folder)
    for path in sorted(folder.iterdir()):
        result, why = judge(path, WAYS, SECRET)
        if result != READ:
            sys.exit(f"{path} is {result} before it is damaged: {why}")
        path.unlink()
    kinds: dict[Path, str] = {}

    def damaged() -> Iterator[Path]:
        for number in range(files):
            rng = np.random.default_rng([seed, number])
            kind = [*originals][number % len(originals)]
            name = sorted(originals[kind])[rng.integers(len(originals[kind]))]
            path = folder / f"{number:06}-{name}"
            path.write_bytes(damage(name, originals[kind][name], rng))
            kinds[path] = kind
            yield path

    for kind in originals:
        table.counts[kind] = Counter()
    results = read_all(damaged(), SECRET, ways, seconds)
    for path, result, why in tqdm(
        results, total=files, desc="damaged films", unit="file", mininterval=2
    ):
        table.add(kinds.pop(path), result, path.name, why)
        if result not in BAD:
            path.unlink()


def kill_processes(table: Table, folder: Path, kills: int, seed: int, kinds: list[str]) -> None:
    """Kill `kills` processes, of one kind after the other; what was lost stays in `folder`."""
    attacks = Attacks(folder, seed)
    with serving(folder / "served", FILMS[:60]):
        for number in tqdm(range(kills), desc="kills", unit="kill"):
            kind = kinds[number % len(kinds)]
            result, why = attacks.attack(kind, number)
            table.add(f"killed while {kind}", result, f"kill {number}", why)


def describe(options) -> str:
    codecs = [f"{name} {features.version(name)}" for name in CODECS]
    packages = [f"{name} {version(name)}" for name in PACKAGES.split()]
    return f"Seed {options.seed}. {', '.join([*packages, *codecs])}."


def main(arguments: list[str] | None = None, folder: Path = KEPT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    option = parser.add_argument
    option("--files", type=int, default=4000, help="damaged films (default: 4000)")
    option("--kills", type=int, default=56, help="killed processes (default: 56)")
    option("--seed", type=int, default=0, help="of all that is random (default: 0)")
    option("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="of work that is killed")
    options = parser.parse_args(arguments)
    table, start, ended = Table(), time.monotonic(), "Complete"
    shutil.rmtree(folder, ignore_errors=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.files:
            damage_films(table, folder / "films", options.files, options.seed)
        if options.kills:
            place = folder / "kills"
            kill_processes(table, place, options.kills, options.seed, options.kinds)
    except KeyboardInterrupt:
        ended = "Interrupted"
    print(table, *table.faults, sep="\n")
    print(f"{ended} after {time.monotonic() - start:.0f} s. {describe(options)}")
    if table.bad:
        print(f"{table.bad} went wrong; what is left of them lies in {folder}.")
    return int(bool(table.bad) or ended == "Interrupted")


if __name__ == "__main__":
    sys.exit(main())
