"""The rows of a study in one form, what each film's rows say together, and copies among films."""

import os
from pathlib import Path

import pandas as pd

from cxrlib.data.filing import find_copies
from cxrlib.data.labels import ProblemLog, split_cells
from cxrlib.data.publishers import find_publisher, read_publisher
from cxrlib.data.table import (
    BOX,
    UNKNOWN,
    StudyError,
    name_columns,
    plain,
    read_age,
    read_number,
    read_sex,
    read_table,
    read_view,
)

STAND_IN = 1_000  # names of one file, from which it stands for films that are not at hand
ORIGINAL = ["original_width", "original_height"]
FILM = ["patient", "view", "sex", "age", *ORIGINAL, "split"]


def read_labels(path: Path, said: list[str]) -> tuple[str, pd.DataFrame]:
    def known(names: set[str]) -> bool:
        return {"filename", "label"} <= names or find_publisher(names) is not None

    table, assumed = read_table(path, known)
    said += assumed
    columns = {plain(name): name for name in table}
    if publisher := find_publisher(set(columns)):
        return publisher.name, read_publisher(publisher, path, table, [], said)
    missing = [name for name in ("filename", "label") if name not in columns]
    if missing:
        raise StudyError(
            f"{path} lacks the column {' and '.join(missing)}; it has "
            f"{', '.join(table.columns.drop('row'))}. Rename its columns, and separate them by "
            "commas."
        )
    return "labels.csv", table


def standard_rows(
    table: pd.DataFrame, own: bool, said: list[str]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return rows with all columns, a finding each, and how the columns were called."""
    doubt = table.get("doubt", pd.Series("", table.index)).reset_index(drop=True)
    rows, unused, columns = name_columns(table.reset_index(drop=True))
    said += unused if own else []
    rows = rows.assign(doubt=doubt)
    if "x" in rows:
        x, y, w, h = (read_number(rows.pop(name)) for name in "xywh")
        for name, side in zip(BOX, (x, y, x + w, y + h), strict=True):
            rows[name] = side.map("{:.10g}".format).replace("nan", "")
    blank = [n for n in ("view", "sex", "age", "split", *ORIGINAL, *BOX) if n not in rows]
    whole = split_cells(rows.assign(**dict.fromkeys(blank, "")))
    if own and len(whole) > len(rows):
        said.append(
            f"cells that hold several findings are split: {len(rows)} rows become {len(whole)}"
        )
    return whole, columns


def read_facts(rows: pd.DataFrame, log: ProblemLog) -> None:
    """Set view, sex, age and original size in place: one known value a film, else unknown."""
    for name in ORIGINAL:
        rows[name] = read_number(rows[name])
    for name, read in (("view", read_view), ("sex", read_sex), ("age", read_age)):
        text, rows[name] = rows[name], read(rows[name])
        known = rows[name].notna() & rows[name].ne("")
        odd = text[~known & ~text.str.casefold().isin(UNKNOWN)]
        for value, indices in odd.groupby(odd, sort=False).groups.items():
            problem = f"{name} '{value}' ({len(indices)} rows) is not understood"
            log.add(indices[:1], problem, "see docs/studies.md for what is", "left unknown")
        values = rows.loc[known].groupby("filename")[name]
        several = values.nunique().loc[lambda count: count > 1].index
        differ = rows["filename"].isin(several)
        log.add(
            rows.index[differ],
            f"rows of one film disagree on {name}",
            "give all rows of the image one value",
            "left unknown",
        )
        first = rows["filename"].map(values.first().drop(several))
        rows[name] = first.astype(float) if name == "age" else first.astype(object).fillna("")


def leave_out_copies(rows: pd.DataFrame, headers, root: Path, log: ProblemLog) -> None:
    """Keep one film of those that are equal byte for byte, and count their patients as one."""
    kept = rows.drop(index=sorted(log.dropped))
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
        differ = len({tuple(sorted(labels.get_group(name))) for name in (first, *others)}) > 1
        ending = ", and the labels differ" if differ else ""
        if differ:
            bad[first] = f"same film, byte for byte, as '{others[0]}'{ending}", fix
        for name in others:
            other = head(people[name]) != head(people[first])
            patients = f" of patient '{people[first]}', and the two count as one" if other else ""
            bad[name] = f"same film, byte for byte, as '{first}'{patients}{ending}", fix
            if other:
                heads[head(people[name])] = head(people[first])
    log.add_films(rows, bad)
    rows["patient"] = rows["patient"].map(head)


def gather_films(rows: pd.DataFrame, headers, root: Path, folder: Path) -> pd.DataFrame:
    first = rows.drop_duplicates("filename")
    films = first[["filename", *FILM]].reset_index(drop=True)
    names = films["filename"]
    films.insert(1, "path", [os.path.join(root, name) for name in names])
    films.insert(2, "file", names if root == folder else "images/" + names)
    found = {name: ({}, {}) for name in names}
    for name, label, doubt in rows[["filename", "label", "doubt"]].itertuples(index=False):
        found[name][0][label] = None
        found[name][1].update(dict.fromkeys(doubt.split("|")))
    for column, place in (("labels", 0), ("doubt", 1)):
        films[column] = [tuple(filter(None, found[name][place])) for name in names]
    films[["width", "height"]] = headers.loc[names, ["width", "height"]].to_numpy()
    return films
