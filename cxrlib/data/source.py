"""Whose table a folder has, and its rows; or those of folders that are named after findings."""

import json
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

import pandas as pd

from cxrlib.data.files import is_film, regular_file
from cxrlib.data.filing import list_files
from cxrlib.data.labels import NO_FINDING, VOCABULARY, spelled_as
from cxrlib.data.publishers import CLASSES, OWN, PUBLISHERS, WIDE, Publisher, find_publisher
from cxrlib.data.table import KNOWN, StudyError, plain, read_table

NAMES = re.compile(r"labels\.(csv|tsv|txt)(\.gz)?", re.I)
EDITIONS = ("NIH ChestX-ray14", "RSNA Pneumonia")  # the later, which counts, sorts after the first
NO_CLASS = re.compile(r"images?|imgs?|train.*|test.*|val.*|all|data|cxr_png|chest_xray", re.I)
MASK = re.compile(r"(^|/)[\w -]*masks?/", re.I)


def find_labels(folder: Path) -> Path | None:
    """Return the study's own table, if any; a labels.txt without columns is a list of classes."""
    for path in (p for p in sorted(folder.glob("*")) if NAMES.fullmatch(p.name)):
        if path.suffix.casefold() != ".txt":
            return path
        with open(regular_file(path), "rb") as file:
            if re.search(rb"[,;\t|]", file.read(2**16)):
                return path
    return None


def read_source(folder: Path, labels: Path | None) -> tuple[str, pd.DataFrame, list[str]]:
    """Return whose table a folder has, its rows, of `labels` or what else is there, and notes."""
    tables, beside, unknown, broken = defaultdict[Publisher, dict](dict), [], [], []
    said: list[str] = []
    if labels:
        table, said = read_table(labels, find_publisher)
        columns = {plain(name) for name in table}
        publisher = find_publisher(columns)
        if publisher is OWN:
            return OWN.name, table, said
        if not publisher:
            missing = [name for name in ("filename", "label") if not columns & {*KNOWN[name]}]
            raise StudyError(
                f"{labels} lacks the column {' and '.join(missing)}; it has "
                f"{', '.join(table.columns.drop('row'))}. Rename its columns, and separate them by "
                "commas; or give a column per finding, with 0 and 1, one of them a finding of NIH."
            )
        tables[publisher] = {labels.name: table}
    files = list_files(folder)
    for name in (n for n in files if re.search(r"\.(csv|tsv|csv\.gz|json|xlsx)$", n, re.I)):
        path = folder / name
        try:
            coco = name.lower().endswith("json")
            table, notes = _read_coco(path) if coco else read_table(path, find_publisher)
        except StudyError as error:
            broken.append(str(error))
            continue
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # no table
            continue
        publisher = find_publisher({plain(column) for column in table})
        if publisher in (None, OWN):
            beside.append(_in_plain(table))
            unknown.append(f"{name} ({', '.join(table.columns.drop('row')[:6])})")
        elif not labels:
            said += [f"{name}: {note}" for note in notes]
            tables[publisher][name] = table
    if not tables:
        if not (rows := _read_classes(folder, files)).empty:
            classes = ", ".join(sorted(set(rows["label"])))
            said.append(f"no table: folders' or films' names give the labels {classes}")
            return CLASSES, rows, said
        if broken:
            raise StudyError(f"{folder / OWN.name} does not exist, and {broken[0]}")
        hint = f" Its tables are not known: {'; '.join(unknown)}." if unknown else ""
        raise StudyError(
            f"{folder / OWN.name} does not exist. A study is a folder with labels.csv and images/; "
            f"labels.csv needs the columns filename and label.{hint} Folders of films count as "
            "classes where one is named after a finding of NIH, or Normal."
        )
    publisher = next(p for p in (*PUBLISHERS, WIDE) if p in tables)
    own, films = {}, set[str]()
    found = sorted(tables[publisher].items(), reverse=publisher.name in EDITIONS)
    for name, table in sorted(found, key=lambda item: -len(item[1])):  # a sample comes last
        named = _in_plain(table)
        of_film = set(named[next(c for c in ("filename", "studyid", "patientid") if c in named)])
        if films.isdisjoint(of_film):
            own[name] = table
        films |= of_film
    if not labels:
        said.append(f"no labels.csv: {', '.join(own)} gives the labels")
    if spare := [name for found in tables.values() for name in found if name not in own]:
        said.append(f"{', '.join(spare)} is not used: it labels the same films, or in another form")
    table = pd.concat(own.values(), ignore_index=True).fillna("")
    try:
        rows, notes = publisher.read(_in_plain(table), beside)
        if rows.empty:
            raise StudyError(
                f"read as {publisher.name}, it has no film with a label. Are the tables beside it "
                "of other films?"
            )
    except StudyError as error:
        raise StudyError(f"{folder / next(iter(own))}: {error}") from None
    rows.attrs = {}  # pandas copies them at every step
    notes.append(f"read as {publisher.name}: docs/studies.md says what is assumed")
    return publisher.name, rows, said + notes


def _in_plain(table: pd.DataFrame) -> pd.DataFrame:
    """Name columns in plain letters, some as in `KNOWN`; `attrs` has them as they were written."""
    named = table.set_axis([plain(name) for name in table], axis=1)
    written = dict(zip(named, table, strict=True))
    for new in ("filename", "label", "x"):
        if old := next((name for name in KNOWN[new] if name in named), None):
            named = named.rename(columns={old: new})
    named.attrs["written"] = written
    return named


def _read_coco(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """Return TBX11K's JSON (COCO) as its CSV: a row per box, and per film without one."""
    content = json.loads(regular_file(path).read_text())
    films = pd.DataFrame(content["images"])[["id", "file_name"]]
    boxes = pd.DataFrame(content["annotations"], columns=["image_id", "bbox"])
    rows = films.merge(boxes, "left", left_on="id", right_on="image_id")
    kind = rows["file_name"].str.split("/").str[-2].fillna("")
    columns = {"fname": rows["file_name"], "image_type": kind, "bbox": rows["bbox"].astype(str)}
    return pd.DataFrame(columns | {"row": 0}), []


def _read_classes(folder: Path, files: list[str]) -> pd.DataFrame:
    """Return the rows of folders, or names, that say what their films show; none where none do."""
    found = {}
    for name in (n for n in files if not MASK.search(n) and is_film(folder / n)):
        if by_name := re.search(r"(?:CHN|MCU)CXR_\d+_([01])\.\w+$", name):
            found[name] = "Tuberculosis" if by_name[1] == "1" else NO_FINDING
        else:
            above = [p for p in PurePosixPath(name).parts[:-1] if not NO_CLASS.fullmatch(p)]
            found[name] = above[-1] if above else ""
    classes = set(found.values())
    if "" in classes or not any(spelled_as(name, VOCABULARY) for name in classes):
        found = {}
    return pd.DataFrame({"row": 0, "filename": list(found), "label": list(found.values())})
