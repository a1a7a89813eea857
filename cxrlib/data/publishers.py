"""Tables and folders as publishers give them, as rows such as `labels.csv` has.

Each is one record of `PUBLISHERS`: known by its columns, read by one function. What a function
assumes is appended to `said`, and docs/studies.md has it in a table.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from cxrlib.data.files import is_film
from cxrlib.data.filing import list_files
from cxrlib.data.labels import NO_FINDING, SAME, VOCABULARY, spelled_as
from cxrlib.data.table import BOX, StudyError, plain, read_number, read_table
from cxrlib.data.wide import NAMES, beside_of, read_chexpert, read_mimic, read_wide

NO_CLASS = re.compile(r"images?|imgs?|train.*|test.*|val.*|all|data|cxr_png|chest_xray", re.I)
MASK = re.compile(r"(^|/)(\w*masks?)/", re.I)


@dataclass(frozen=True)
class Publisher:
    """How one publisher's table is known and read: from (table, others beside it, said) to rows."""

    name: str
    columns: str  # in plain letters; its table has them all
    read: Callable


def find_publisher(columns: set[str]) -> Publisher | None:
    """Return whose table has these columns, in plain letters."""
    findings = {plain(name) for name in (*VOCABULARY, *SAME)}
    own = {"filename", "label"} <= columns
    found = [p for p in PUBLISHERS if p.columns and set(p.columns.split()) <= columns]
    if own or found:
        return None if own else found[0]
    return WIDE if columns & findings and columns & set(NAMES) else None


def read_publisher(
    publisher: Publisher, where: Path, table: pd.DataFrame, beside: list, said: list[str]
) -> pd.DataFrame:
    """Return the rows of a publisher's table, which stands at `where`."""
    try:
        rows = publisher.read(_in_plain(table), [_in_plain(other) for other in beside], said)
    except StudyError as error:
        raise StudyError(f"{where}: {error}") from None
    rows.attrs = {}  # pandas copies them at every step
    said.append(f"read as {publisher.name}: docs/studies.md says what is assumed")
    return rows


def read_folder(folder: Path, said: list[str]) -> tuple[str, pd.DataFrame]:
    """Return the publisher's name and the rows of a folder that has no `labels.csv`.

    Raises
    ------
    StudyError
        Nothing in the folder is known.
    """
    files = list_files(folder)
    tables, other, seen = {}, [], []
    for name in (n for n in files if re.search(r"\.(csv|tsv|csv\.gz|json)$", n, re.I)):
        try:
            table = _read_coco(folder / name) if name.lower().endswith("json") else None
            if table is None:
                table, notes = read_table(folder / name, lambda names: bool(find_publisher(names)))
                said += [f"{name}: {note}" for note in notes]
        except (StudyError, ValueError, UnicodeError):
            continue
        publisher = find_publisher({plain(column) for column in table})
        if publisher:
            tables.setdefault(publisher, {})[name] = table
        else:
            other.append(table)
            seen.append(f"{name} ({', '.join(table.columns.drop('row')[:6])})")
    if tables:
        publisher, own = next(iter(tables.items()))
        names = list(own)[-1:] if publisher.name == "NIH ChestX-ray14" else list(own)  # an edition
        said.append(f"no labels.csv: {', '.join(names)} gives the labels")
        table = pd.concat([own[name] for name in names], ignore_index=True).fillna("")
        return publisher.name, read_publisher(publisher, folder / names[0], table, other, said)
    rows = _read_classes([name for name in files if not MASK.search(name)], folder, said)
    if rows is not None:
        return CLASSES, rows
    hint = f" Its tables are not known: {'; '.join(seen)}." if seen else ""
    raise StudyError(
        f"{folder / 'labels.csv'} does not exist. A study is a folder with labels.csv and images/; "
        f"labels.csv needs the columns filename and label.{hint} Folders of films count as classes "
        f"where one is named after a finding of NIH, or Normal."
    )


def _in_plain(table: pd.DataFrame) -> pd.DataFrame:
    named = table.set_axis([plain(name) for name in table], axis=1)
    named.attrs["written"] = dict(zip(named, table, strict=True))
    return named


def _read_nih(table, beside, said):
    names = {"originalimagewidth": "originalwidth", "height": "originalheight"}
    names |= {"imageindex": "filename", "findinglabels": "label"}
    rows = table.rename(columns=names)
    boxes = beside_of(beside, "imageindex", "findinglabel", "bboxx")
    if boxes is None:
        return rows
    rows = rows.drop(columns=["y", "x"], errors="ignore").assign(label=rows["label"].str.split("|"))
    boxes = boxes.rename(columns={"imageindex": "filename", "findinglabel": "label", "bboxx": "x"})
    boxes["label"] = boxes["label"].replace("Infiltrate", "Infiltration")
    rows = rows.explode("label").merge(boxes.drop(columns="row"), "left", ["filename", "label"])
    said.append(
        f"{rows['x'].notna().sum()} of {len(boxes)} boxes belong to a film and finding of the table"
    )
    return rows.fillna("")


def _read_rsna(table, beside, said):
    rows = table.rename(columns={"patientid": "filename"}).assign(patient=table["patientid"])
    rows["label"] = table["target"].map({"1": "Pneumonia", "0": NO_FINDING}).fillna("")
    classes = beside_of(beside, "patientid", "class")
    if classes is None:
        said.append(
            f"Target 0 is read as '{NO_FINDING}', though such films may show another disease: "
            "stage_2_detailed_class_info.csv, put beside the labels, tells them apart"
        )
    else:
        ill = classes.loc[classes["class"].str.contains("Not Normal"), "patientid"]
        rows["label"] = rows["label"].mask(
            rows["filename"].isin(ill) & rows["label"].eq(NO_FINDING), "Not normal"
        )
    return rows


def _read_vindr(table, beside, said):
    rows = table.rename(columns={"imageid": "filename", "classname": "label"})
    readers = rows.groupby("filename")["radid"].transform("nunique")
    most = 2 * rows.groupby(["filename", "label"])["radid"].transform("nunique") > readers
    healthy = rows["label"].map(lambda name: plain(name) == "nofinding")
    few = rows[~most & ~healthy].groupby("filename")["label"]
    doubt = few.agg(lambda names: "|".join(dict.fromkeys(names)))
    rest = rows[~rows["filename"].isin(rows.loc[most, "filename"])].drop_duplicates("filename")
    rest = rest.assign(label="", **dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), ""))
    said.append(
        f"{len(doubt)} films have a finding that half of their readers or fewer saw: they are left "
        f"out of a question about it. {len(rest)} films have no label that most readers gave"
    )
    rows = pd.concat([rows[most], rest], ignore_index=True)
    return rows.assign(doubt=rows["filename"].map(doubt).fillna(""))


def _read_siim(table, beside, said):
    rows = table[["row", "imageid"]].rename(columns={"imageid": "filename"})
    empty = table["encodedpixels"].isin(["-1", ""])
    rows["label"] = np.where(empty, NO_FINDING, "Pneumothorax")
    boxes = [_box_of_runs(text) for text in table["encodedpixels"].mask(empty, "")]
    rows[BOX] = pd.DataFrame(boxes, rows.index, BOX)
    return rows


def _box_of_runs(text: str, side: int = 1024) -> list[str]:
    """Return the box round runs down the columns, each counted from the end of the last."""
    runs = np.array(text.split(), int)
    if not len(runs):
        return [""] * 4
    ends = np.cumsum(runs)[1::2]
    starts = ends - runs[1::2]
    rows = np.concatenate([starts, ends - 1]) % side
    columns = starts.min() // side, (ends.max() - 1) // side
    box = columns[0], rows.min(), columns[1] + 1, rows.max() + 1
    return [str(number) for number in box]


def _read_padchest(table, beside, said):
    rows = table.rename(columns={"imageid": "filename", "labels": "label"})
    odd = rows["projection"].isin(["COSTAL", "EXCLUDE"]) | rows["label"].str.contains(
        "'exclude'|'suboptimal study'"
    )
    rows["label"] = rows["label"].str.replace(r"'unchanged'\s*,?", "", regex=True)
    if {"studydatedicom", "patientbirth"} <= set(rows):
        year, birth = (read_number(rows[n].str[:4]) for n in ("studydatedicom", "patientbirth"))
        rows["age"] = (year - birth).map("{:g}".format)
    said.append(f"{odd.sum()} films of ribs, or marked 'exclude' or 'suboptimal study', left out")
    return rows[~odd]


def _read_covid(table, beside, said):
    ray = table["modality"].str.casefold().isin(["x-ray", "xray", ""])
    known = ~table["finding"].str.casefold().isin(["unknown", "todo", ""])
    said.append(f"{(~ray).sum()} rows of CT and {(ray & ~known).sum()} without a finding left out")
    rows = table[ray & known]
    return rows.assign(label=rows["finding"].str.replace("/", "|"))


def _read_tbx(table, beside, said):
    rows = table.rename(columns={"fname": "filename"})
    names = {"healthy": NO_FINDING, "health": NO_FINDING, "tb": "Tuberculosis"}
    rows["label"] = rows["imagetype"].str.casefold().map(names).fillna("Sick but not tuberculosis")
    numbers = rows.get("bbox", pd.Series("", rows.index)).str.findall(r"-?\d+(?:\.\d+)?")
    rows[["x", "y", "w", "h"]] = [box if len(box) == 4 else [""] * 4 for box in numbers]
    return rows.drop(columns="bbox", errors="ignore")


def _read_coco(path: Path) -> pd.DataFrame | None:
    """Return TBX11K's JSON (COCO) as its CSV: a row per box, and per film without one."""
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        return None
    films = pd.DataFrame(content["images"])[["id", "file_name"]]
    boxes = pd.DataFrame(content["annotations"], columns=["image_id", "bbox"])
    rows = films.merge(boxes, "left", left_on="id", right_on="image_id")
    kind = rows["file_name"].str.split("/").str[-2].fillna("")
    return pd.DataFrame(
        {"fname": rows["file_name"], "image_type": kind, "bbox": rows["bbox"].astype(str), "row": 0}
    )


def _read_classes(files: list[str], folder: Path, said: list[str]) -> pd.DataFrame | None:
    """Return the rows of folders that are named after what their films show."""
    found = {}
    for name in files:
        if by_name := re.search(r"(?:CHN|MCU)CXR_\d+_([01])\.\w+$", name):
            found[name] = "Tuberculosis" if by_name[1] == "1" else NO_FINDING
        elif is_film(folder / name):
            classes = [p for p in PurePosixPath(name).parts[:-1] if not NO_CLASS.fullmatch(p)]
            found[name] = classes[-1] if classes else ""
    classes = set(found.values())
    if "" in classes or not any(spelled_as(name, VOCABULARY) for name in classes):
        return None
    said.append(f"no table: folders' or films' names give the labels {', '.join(sorted(classes))}")
    return pd.DataFrame({"row": 0, "filename": list(found), "label": list(found.values())})


CLASSES = "folders that are classes"
WIDE = Publisher("a column per finding", "", read_wide)
PUBLISHERS = (
    Publisher("NIH ChestX-ray14", "imageindex findinglabels", _read_nih),
    Publisher("CheXpert", "path frontallateral", read_chexpert),
    Publisher("MIMIC-CXR-JPG", "subjectid studyid cardiomegaly", read_mimic),
    Publisher("RSNA Pneumonia", "patientid target x y width height", _read_rsna),
    Publisher("VinDr-CXR", "imageid classname radid", _read_vindr),
    Publisher("SIIM Pneumothorax", "imageid encodedpixels", _read_siim),
    Publisher("PadChest", "imageid imagedir projection labels", _read_padchest),
    Publisher("COVID-19 image data", "patientid finding modality filename", _read_covid),
    Publisher("TBX11K", "fname imagetype", _read_tbx),
)
