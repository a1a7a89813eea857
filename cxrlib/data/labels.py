"""What may be wrong with the labels and boxes of a study's rows, with a way out for each."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from cxrlib.data.table import BOX, MEANT, WORDS, StudyError, plain, read_number

NO_FINDING = "No Finding"
VOCABULARY = list(WORDS["findings"])  # 'No Finding' comes first
NIH_FINDINGS = VOCABULARY[1:]
# Other diseases, though their names resemble one of NIH's.
OTHERS = "empyema pneumonitis hemothorax haemothorax hydrothorax hydropneumothorax pneumatocele"
SEPARATORS = re.compile(r"\s*[|;,\t\n]\s*|(?<=['\"])\s+(?=['\"])")
NOTHING = {"", "nan", "na", "n/a", "<na>", "null", "unknown", "-"}  # 'None' is no finding
OUT = "row left out"
PRESENT = {"1", "1.0", "yes", "y", "true", "x", "+", "ja"}
ABSENT, DOUBT = {"0", "0.0", "no", "n", "false", "nein"}, {"-1", "-1.0", "uncertain", "unknown"}


class ProblemLog:
    """What is wrong with which row; a dropped row is left out of the study."""

    def __init__(self, rows: pd.DataFrame, said: Iterable[str]):
        places = rows[["row", "filename"]].itertuples(index=False, name=None)
        self.places = dict(zip(rows.index, places, strict=True))
        self.entries: list[tuple] = []
        self.dropped: set[int] = set()
        for sentence in said:
            self.note(sentence)

    def add(self, indices: Iterable[int], problem: str, fix: str, outcome: str = OUT) -> None:
        """Say what is wrong with each row of `indices`."""
        if outcome == OUT:
            self.dropped.update(indices)
        self.entries += [(*self.places[index], problem, fix, outcome) for index in indices]

    def add_films(self, rows: pd.DataFrame, bad: dict[str, tuple]) -> None:
        """Say what `add` takes of all rows of films, by name."""
        for index, name in rows.loc[rows["filename"].isin(bad), "filename"].items():
            self.add([index], *bad[name])

    def kept(self, rows: pd.DataFrame) -> pd.DataFrame:
        return rows.drop(index=sorted(self.dropped))

    def note(self, problem: str, fix: str = "none needed if it is meant so") -> None:
        """Say what was assumed of the table as a whole; it stands at line 1."""
        self.entries.append((1, "", problem, fix, "kept"))

    def table(self) -> pd.DataFrame:
        columns = ["row", "filename", "problem", "fix", "outcome"]
        return pd.DataFrame(sorted(set(self.entries)), columns=columns)


def spelled_as(label: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that means the same: but for case, blanks, hyphens, plurals."""

    def ways(name: str) -> set[str]:
        return {plain(name), plain(MEANT["findings"].get(plain(name), name))}

    wanted = ways(label)
    return next((name for name in names if ways(name) & wanted), None)


def split_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Give each finding of a cell a row of its own: 'A|B', 'A; B', 'A, B' or "['A', 'B']"."""

    def split(cell: str) -> list[str]:
        given = SEPARATORS.split(re.sub(r"^[\[({](.*)[\])}]$", r"\1", cell))
        names = dict.fromkeys(name.strip("'\" ") for name in given)
        return [name for name in names if name.casefold() not in NOTHING] or [""]

    parts = {cell: split(cell) for cell in rows["label"].unique()}
    return rows.assign(label=rows["label"].map(parts)).explode("label", ignore_index=True)


def check_labels(rows: pd.DataFrame, log: ProblemLog, where: Path, own: bool) -> pd.DataFrame:
    """Return rows with labels in their usual spelling, and `doubt`: findings a film may have.

    In an `own` table a row without a label is a mistake, and 'possible Mass' leaves Mass in doubt;
    in others it is a film without a finding that is named, and 'Nodule/Mass' a finding. A
    StudyError says of the table at `where` that the labels are numbers.
    """
    labels = {label.casefold() for label in rows["label"]} - {""}
    words = {label for label in labels if not re.fullmatch(r"-?\d+([.,]\d+)?", label)}
    if labels and words <= PRESENT | ABSENT:
        raise StudyError(
            f"{where}: the labels are {' and '.join(sorted(labels))}, which name no finding. Write "
            f"the finding's name instead of 1, and '{NO_FINDING}' instead of 0; or name the column "
            "after the finding."
        )
    usable = rows.index.difference(sorted(log.dropped))  # misspelt findings contradict, too
    names, meant, doubts = list(VOCABULARY), {}, {}
    for label, indices in rows.groupby("label", sort=False).groups.items():
        same = label if label in VOCABULARY else spelled_as(label, names)
        near = difflib.get_close_matches(label.title(), VOCABULARY, n=1, cutoff=0.88)
        near = [] if plain(label) in OTHERS.split() else near
        if label.endswith("?"):
            same, near = None, [spelled_as(label, names) or label.rstrip(" ?")]
        told = re.findall(r"[^\W_]+", label) if own else ()
        parts = {name for word in told if (name := spelled_as(word, NIH_FINDINGS))}
        if not label:
            log.add(indices if own else (), "no label", f"name the finding, or '{NO_FINDING}'")
        elif same:
            meant[label] = same
            if plain(label) != plain(same):
                log.note(f"'{label}' ({len(indices)} rows) is read as '{same}'")
        elif near:
            log.add(indices, f"unknown finding '{label}'", f"did you mean '{near[0]}'?")
        else:
            names.append(label)
            problem = f"'{label}' ({len(indices)} rows) is not one of NIH's findings"
            if parts:
                problem += f"; its films are left out of questions about {', '.join(sorted(parts))}"
            log.add(indices[:1], problem, "none needed if it is your own finding", "kept")
        if not same and (near or parts):
            doubts[label] = "|" + "|".join(near or sorted(parts))
    doubt = rows["label"].map(lambda label: doubts.get(label, "")).groupby(rows["filename"])
    label = rows["label"].map(lambda label: meant.get(label, label))
    rows = rows.assign(label=label, doubt=rows["doubt"] + doubt.transform("sum"))
    healthy = rows.loc[usable, "label"].eq(NO_FINDING).groupby(rows.loc[usable, "filename"])
    mixed = healthy.transform("any") & ~healthy.transform("all")
    log.add(usable[mixed], f"'{NO_FINDING}' beside a finding", "delete the rows that are wrong")
    return rows


def check_boxes(rows: pd.DataFrame, headers: pd.DataFrame, log: ProblemLog) -> pd.DataFrame:
    """Return rows with boxes of numbers, NaN where there is none or it cannot be one."""
    boxes, healthy = rows[BOX].apply(read_number), rows["label"].eq(NO_FINDING)
    some = rows[BOX].ne("").any(axis=1) & ~rows.index.isin(log.dropped)
    sizes = headers[["width", "height"]].astype(float).reindex(rows["filename"])
    sizes = sizes.set_axis(rows.index)
    (xmin, ymin, xmax, ymax), given = (boxes[n] for n in BOX), boxes.notna().all(axis=1)
    full = (xmax - xmin >= 1) & (ymax - ymin >= 1)
    inside = (xmin >= 0) & (ymin >= 0) & (xmax <= sizes["width"]) & (ymax <= sizes["height"])
    leaves = "give it in pixels of the image file"
    for bad, problem, fix in (
        (~given, "box has a missing or non-numeric side", "give all four, or none"),
        (given & healthy, f"box beside '{NO_FINDING}'", "delete one of them"),
        (given & ~full, "box is empty", "give corners in pixels, not as shares of the image"),
        (given & full & ~inside, "box leaves the image of {:.0f} x {:.0f} pixels", leaves),
    ):
        for index in rows.index[some & bad]:
            log.add([index], problem.format(*sizes.loc[index]), fix, "box left out")
    return rows.assign(**boxes.where(given & full & inside & some & ~healthy))
