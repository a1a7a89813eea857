"""The rows of a study in one form, what each film's rows say together, and copies among films."""

import os
from pathlib import Path

import pandas as pd

from cxrlib.data.files import file_digest
from cxrlib.data.filing import find_copies
from cxrlib.data.labels import ABSENT, NO_FINDING, OUT, PRESENT, ProblemLog, spelled_as, split_cells
from cxrlib.data.patients import stem
from cxrlib.data.table import (
    BOX,
    ORIGINAL,
    UNKNOWN,
    StudyError,
    name_columns,
    name_view,
    plain,
    read_age,
    read_number,
    read_sex,
    read_table,
)

TOLD = "value present presence ispresent positive ispositive target status".split()
STAND_IN = 1_000  # names of one file, from which it stands for films that are not at hand
FILM = ["patient", "view", "sex", "age", *ORIGINAL, "split"]


def standard_rows(table: pd.DataFrame, own: Path | None) -> tuple[pd.DataFrame, dict, list[str]]:
    """Return rows with all columns, a finding each, their old names, and notes on an `own` file."""
    rows, said, columns = name_columns(table.reset_index(drop=True))
    for name in (n for n in table if own and plain(n) in TOLD):
        values, label = table[name].str.casefold().set_axis(rows.index), rows["label"]
        denied = {x for x in set(label[values.isin(ABSENT)]) if not spelled_as(x, [NO_FINDING])}
        if denied and set(values) <= PRESENT | ABSENT | {""}:
            raise StudyError(
                f"{own}: the column '{name}' says of each row whether the finding is there. Delete "
                f"the rows that say no; an image without a finding needs one row '{NO_FINDING}'."
            )
    if "x" in rows:
        given = rows[list("xywh")].ne("").any(axis=1)
        x, y, w, h = (read_number(rows.pop(name)) for name in "xywh")
        for name, side in zip(BOX, (x, y, x + w, y + h), strict=True):
            rows[name] = side.map("{:.10g}".format).where(given, "")
    blank = [n for n in ("view", "sex", "age", "split", "doubt", *ORIGINAL, *BOX) if n not in rows]
    whole = split_cells(rows.assign(**dict.fromkeys(blank, "")))
    if own and len(whole) > len(rows):
        said.append(
            f"cells that hold several findings are split: {len(rows)} rows become {len(whole)}"
        )
    return whole, columns, said if own else []


def add_entries(rows: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Return rows with age and sex of NIH's own tables in `folder`, where those have the image."""
    for path in sorted(folder.glob("Data_Entry_2017*.csv")):  # the later edition, v2020, comes last
        known, _, _ = name_columns(read_table(path, lambda names: "imageindex" in names)[0])
        if missing := [name for name in ("filename", "age", "sex") if name not in known]:
            raise StudyError(
                f"{path} lacks the column {', '.join(missing)}. Give NIH's Data_Entry_2017.csv."
            )
        known = known.set_index(known["filename"].map(stem))  # PNG there, and JPEG elsewhere
        known = known[~known.index.duplicated()][["age", "sex"]].reindex(rows["filename"].map(stem))
        if known.isna().all(axis=None):
            own = folder / "labels.csv"
            raise StudyError(f"{path} has no image of {own}, compared by file name.")
        known = known.where(known != "").set_axis(rows.index)
        rows = rows.assign(**known.fillna(rows[["age", "sex"]]))
    return rows


def read_fields(rows: pd.DataFrame, log: ProblemLog) -> pd.DataFrame:
    """Return rows with one known view, sex, age and original size per film, or none."""
    rows = rows.assign(**rows[ORIGINAL].apply(read_number))
    for name, read in (
        ("view", lambda words: words.map(name_view)),
        ("sex", read_sex),
        ("age", read_age),
        ("split", lambda words: words),
    ):
        text = rows[name]
        words = pd.Series(text.unique(), dtype=str)
        rows[name] = text.map(dict(zip(words, read(words), strict=True)))
        known = rows[name].notna() & rows[name].ne("")
        odd = text[~known & ~text.str.casefold().isin(UNKNOWN)]
        for value, indices in odd.groupby(odd, sort=False).groups.items():
            problem = f"{name} '{value}' ({len(indices)} rows) is not understood"
            log.add(indices[:1], problem, "see docs/studies.md for what is", "left unknown")
        of_film = rows[name].where(known).groupby(rows["filename"])
        differ = of_film.transform("nunique") > 1
        problem = f"rows of one film disagree on {name}"
        log.add(rows.index[differ], problem, "give all rows of the image one value", "left unknown")
        value = of_film.transform("first").mask(differ)
        rows[name] = value if name == "age" else value.astype(object).fillna("")
    return rows


def leave_out_copies(rows: pd.DataFrame, headers, root: Path, log: ProblemLog) -> pd.DataFrame:
    """Count the patients of equal films as one, and keep one film of those equal byte for byte.

    DICOM films with equal pixels have headers that differ, and are kept.
    """
    kept = log.kept(rows)
    people = dict(zip(kept["filename"], kept["patient"], strict=True))
    labels = kept.groupby("filename")["label"]
    heads: dict[str, str] = {}

    def head(patient: str) -> str:
        while patient in heads:
            patient = heads[patient]
        return patient

    bad, fix = {}, "keep one, with the right patient and labels"
    for first, *others in find_copies(headers.loc[list(people)], root):
        if len(others) >= STAND_IN:
            log.note(f"one file stands for '{first}' and {len(others)} films more: all are kept")
            continue
        alike = len({file_digest(root / name) for name in (first, *others)}) == 1
        how, outcome = ("byte for byte", OUT) if alike else ("pixel for pixel", "kept")
        differ = len({tuple(sorted(labels.get_group(name))) for name in (first, *others)}) > 1
        ending = ", and the labels differ" if differ else ""
        if differ:
            bad[first] = f"same film, {how}, as '{others[0]}'{ending}", fix, outcome
        for name in others:
            problem = f"same film, {how}, as '{first}'"
            one, other = head(people[first]), head(people[name])
            if one != other:
                heads[other] = one
                problem += f" of patient '{people[first]}', and the two count as one"
            bad[name] = problem + ending, fix, outcome
    log.add_films(rows, bad)
    return rows.assign(patient=rows["patient"].map(head))


def gather_films(rows: pd.DataFrame, headers, root: Path, folder: Path) -> pd.DataFrame:
    """Return a row per film of rows that are good, see `Study.films`; `split` as written."""
    films = rows.drop_duplicates("filename")[["filename", *FILM]].reset_index(drop=True)
    names = films["filename"].tolist()
    films.insert(1, "path", [os.path.join(root, name) for name in names])
    films.insert(2, "file", films["filename"] if root == folder else "images/" + films["filename"])
    for column, given in (("labels", "label"), ("doubt", "doubt")):
        joined = (rows[given] + "|").groupby(rows["filename"]).sum()
        films[column] = [tuple(filter(None, dict.fromkeys(t.split("|")))) for t in joined[names]]
    films[["width", "height"]] = headers.loc[names, ["width", "height"]].to_numpy()
    return films
