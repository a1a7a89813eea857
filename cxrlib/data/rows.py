"""The rows of a study in one form, what each film's rows say together, and copies among films."""

import json
import os
import re
from pathlib import Path, PurePosixPath

import pandas as pd

from cxrlib.data.files import is_film
from cxrlib.data.filing import find_copies, list_files
from cxrlib.data.labels import NO_FINDING, VOCABULARY, ProblemLog, spelled_as, split_cells
from cxrlib.data.publishers import CLASSES, NAMES, find_publisher
from cxrlib.data.table import (
    BOX,
    ORIGINAL,
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

OWN = "labels.csv"
NO_CLASS = re.compile(r"images?|imgs?|train.*|test.*|val.*|all|data|cxr_png|chest_xray", re.I)
MASK = re.compile(r"(^|/)(\w*masks?)/", re.I)
STAND_IN = 1_000  # names of one file, from which it stands for films that are not at hand
FILM = ["patient", "view", "sex", "age", *ORIGINAL, "split"]


def read_source(folder: Path, labels: Path | None, said: list[str]) -> tuple[str, pd.DataFrame]:
    """Return whose table a folder has, and its rows: of `labels`, or else of what else is there.

    Raises
    ------
    StudyError
        `labels` cannot be used, or nothing in the folder is known.
    """
    tables, beside, seen = {}, [], []
    if labels:
        table, notes = read_table(labels, _known)
        said += notes
        columns = {plain(name) for name in table}
        if (publisher := find_publisher(columns)) is None:
            if missing := [name for name in ("filename", "label") if name not in columns]:
                raise StudyError(
                    f"{labels} lacks the column {' and '.join(missing)}; it has "
                    f"{', '.join(table.columns.drop('row'))}. Rename its columns, and separate "
                    "them by commas."
                )
            return OWN, table
        tables[publisher] = {labels.name: table}
    files = list_files(folder)
    for name in (n for n in files if re.search(r"\.(csv|tsv|csv\.gz|json)$", n, re.I)):
        try:
            if name.lower().endswith("json"):
                table, notes = _read_coco(folder / name), []
            else:
                table, notes = read_table(folder / name, _known)
        except (ValueError, KeyError, TypeError):  # no table
            continue
        publisher = find_publisher({plain(column) for column in table})
        if not publisher:
            beside.append(table)
            seen.append(f"{name} ({', '.join(table.columns.drop('row')[:6])})")
        elif not labels:
            said += [f"{name}: {note}" for note in notes]
            tables.setdefault(publisher, {})[name] = table
    if not tables:
        return CLASSES, _read_classes(folder, files, seen, said)
    publisher, own = next(iter(tables.items()))
    names = list(own)[-1:] if publisher.name == "NIH ChestX-ray14" else list(own)  # an edition
    if not labels:
        said.append(f"no labels.csv: {', '.join(names)} gives the labels")
    table = pd.concat([own[name] for name in names], ignore_index=True).fillna("")
    try:
        rows = publisher.read(_in_plain(table), [_in_plain(other) for other in beside], said)
    except StudyError as error:
        raise StudyError(f"{folder / names[0]}: {error}") from None
    rows.attrs = {}  # pandas copies them at every step
    said.append(f"read as {publisher.name}: docs/studies.md says what is assumed")
    return publisher.name, rows


def _known(names: set[str]) -> bool:
    return {"filename", "label"} <= names or find_publisher(names) is not None


def _in_plain(table: pd.DataFrame) -> pd.DataFrame:
    """Name columns in plain letters, and as in `NAMES`; `attrs` has them as they were written."""
    named = table.set_axis([plain(name) for name in table], axis=1)
    written = dict(zip(named, table, strict=True))
    for new, names in NAMES.items():
        if new not in named:
            old = next((name for name in names if name in named), new)
            named = named.rename(columns={old: new})
    named.attrs["written"] = written
    return named


def _read_coco(path: Path) -> pd.DataFrame:
    """Return TBX11K's JSON (COCO) as its CSV: a row per box, and per film without one."""
    content = json.loads(path.read_text())
    films = pd.DataFrame(content["images"])[["id", "file_name"]]
    boxes = pd.DataFrame(content["annotations"], columns=["image_id", "bbox"])
    rows = films.merge(boxes, "left", left_on="id", right_on="image_id")
    kind = rows["file_name"].str.split("/").str[-2].fillna("")
    columns = {"fname": rows["file_name"], "image_type": kind, "bbox": rows["bbox"].astype(str)}
    return pd.DataFrame(columns | {"row": 0})


def _read_classes(folder: Path, files: list[str], seen: list[str], said: list[str]) -> pd.DataFrame:
    """Return the rows of folders that are named after what their films show."""
    found = {}
    for name in (name for name in files if not MASK.search(name)):
        if by_name := re.search(r"(?:CHN|MCU)CXR_\d+_([01])\.\w+$", name):
            found[name] = "Tuberculosis" if by_name[1] == "1" else NO_FINDING
        elif is_film(folder / name):
            classes = [p for p in PurePosixPath(name).parts[:-1] if not NO_CLASS.fullmatch(p)]
            found[name] = classes[-1] if classes else ""
    classes = set(found.values())
    if "" in classes or not any(spelled_as(name, VOCABULARY) for name in classes):
        hint = f" Its tables are not known: {'; '.join(seen)}." if seen else ""
        raise StudyError(
            f"{folder / OWN} does not exist. A study is a folder with labels.csv and images/; "
            f"labels.csv needs the columns filename and label.{hint} Folders of films count as "
            "classes where one is named after a finding of NIH, or Normal."
        )
    said.append(f"no table: folders' or films' names give the labels {', '.join(sorted(classes))}")
    return pd.DataFrame({"row": 0, "filename": list(found), "label": list(found.values())})


def standard_rows(table: pd.DataFrame, own: bool, said: list[str]) -> tuple[pd.DataFrame, dict]:
    """Return rows with all columns, a finding each, and how the columns were called."""
    rows, unused, columns = name_columns(table.reset_index(drop=True))
    said += unused if own else []
    if "x" in rows:
        x, y, w, h = (read_number(rows.pop(name)) for name in "xywh")
        for name, side in zip(BOX, (x, y, x + w, y + h), strict=True):
            rows[name] = side.map("{:.10g}".format).replace("nan", "")
    blank = [n for n in ("view", "sex", "age", "split", "doubt", *ORIGINAL, *BOX) if n not in rows]
    whole = split_cells(rows.assign(**dict.fromkeys(blank, "")))
    if own and len(whole) > len(rows):
        said.append(
            f"cells that hold several findings are split: {len(rows)} rows become {len(whole)}"
        )
    return whole, columns


def read_facts(rows: pd.DataFrame, log: ProblemLog) -> None:
    """Set view, sex, age and original size in place: one known value a film, else unknown."""
    rows[ORIGINAL] = rows[ORIGINAL].apply(read_number)
    for name, read in (("view", read_view), ("sex", read_sex), ("age", read_age)):
        text, rows[name] = rows[name], read(rows[name])
        known = rows[name].notna() & rows[name].ne("")
        odd = text[~known & ~text.str.casefold().isin(UNKNOWN)]
        for value, indices in odd.groupby(odd, sort=False).groups.items():
            problem = f"{name} '{value}' ({len(indices)} rows) is not understood"
            log.add(indices[:1], problem, "see docs/studies.md for what is", "left unknown")
        of_film = rows[name].where(known).groupby(rows["filename"])
        differ = of_film.transform("nunique") > 1
        log.add(
            rows.index[differ],
            f"rows of one film disagree on {name}",
            "give all rows of the image one value",
            "left unknown",
        )
        value = of_film.transform("first").mask(differ)
        rows[name] = value if name == "age" else value.astype(object).fillna("")


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
            problem = f"same film, byte for byte, as '{first}'"
            one, other = head(people[first]), head(people[name])
            if one != other:
                heads[other] = one
                problem += f" of patient '{people[first]}', and the two count as one"
            bad[name] = problem + ending, fix
    log.add_films(rows, bad)
    rows["patient"] = rows["patient"].map(head)


def gather_films(rows: pd.DataFrame, headers, root: Path, folder: Path) -> pd.DataFrame:
    """Return a row per film of rows that are good, see `Study.films`; `split` as written."""
    films = rows.drop_duplicates("filename")[["filename", *FILM]].reset_index(drop=True)
    names = films["filename"]
    films.insert(1, "path", [os.path.join(root, name) for name in names])
    films.insert(2, "file", names if root == folder else "images/" + names)
    found = {name: ({}, {}) for name in names}
    for name, label, doubt in rows[["filename", "label", "doubt"]].itertuples(index=False):
        found[name][0][label] = None
        found[name][1].update(dict.fromkeys(doubt.split("|")))
    for place, column in enumerate(("labels", "doubt")):
        films[column] = [tuple(filter(None, found[name][place])) for name in names]
    films[["width", "height"]] = headers.loc[names, ["width", "height"]].to_numpy()
    return films
