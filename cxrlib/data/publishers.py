"""Tables as publishers give them, as rows such as `labels.csv` has.

Each is one record of `PUBLISHERS`: known by its columns, read by one function from (table, tables
beside it) with columns in plain letters, several findings in a cell joined by '|'. Behind the rows
it returns sentences on what it assumes; docs/studies.md has them in a table.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from cxrlib.data.labels import ABSENT, DOUBT, NO_FINDING, NOTHING, PRESENT, VOCABULARY, spelled_as
from cxrlib.data.table import BOX, KNOWN, StudyError, plain, read_number


class Publisher(NamedTuple):
    """How one publisher's table is known and read."""

    name: str
    columns: str  # in plain letters; its table has them all
    read: Callable


def find_publisher(columns: set[str]) -> Publisher | None:
    """Return whose table has these columns, in plain letters; `OWN` if it is the study's own."""
    if {"filename", "label"} <= columns:
        return OWN
    found = next((p for p in PUBLISHERS if set(p.columns.split()) <= columns), None)
    if found or not columns & {*KNOWN["filename"]}:
        return found
    if columns & {*KNOWN["label"]}:
        return OWN
    return WIDE if any(spelled_as(name, VOCABULARY) for name in columns) else None


def _beside(tables: list[pd.DataFrame], *columns: str) -> pd.DataFrame | None:
    """Return these columns of the first table that has them all."""
    found = (table for table in tables if set(columns) <= set(table))
    table = next(found, None)
    return None if table is None else table[list(columns)]


def _read_nih(table, beside):
    rows, said = table.rename(columns={"height": "originalheight"}), []
    if others := [n for n in table.columns.drop("row") if {*table[n]} <= {"YES", "NO"}]:
        said.append(f"labels of other readers are not used: {', '.join(others)}")
    boxes = _beside(beside, "filename", "label", *"xywh")
    if boxes is not None:
        rows = rows.drop(columns=["y", "x"], errors="ignore")  # of the pixels' spacing
        rows = rows.assign(label=rows["label"].str.split("|")).explode("label")
        boxes = boxes.replace({"label": {"Infiltrate": "Infiltration"}})
        rows = rows.merge(boxes, "left", ["filename", "label"])
        found = rows["x"].notna().sum()
        said.append(f"{found} of {len(boxes)} boxes belong to a film and finding of the table")
    return rows.fillna(""), said


def _read_rsna(table, beside):
    label = table["target"].str.removesuffix(".0").map({"1": "Pneumonia", "0": NO_FINDING})
    rows = table.assign(filename=table["patientid"], label=label)
    said = ["patientId is one per film: which films are of one patient is not known"]
    classes = _beside(beside, "patientid", "class")
    if classes is None:
        said.append(
            f"Target 0 is read as '{NO_FINDING}', though such films may show another disease: "
            "stage_2_detailed_class_info.csv, put beside the labels, tells them apart"
        )
    else:
        ill = classes.loc[classes["class"].str.contains("Not Normal"), "patientid"]
        rows.loc[rows["patientid"].isin(ill) & rows["label"].eq(NO_FINDING), "label"] = "Not normal"
    headers = _beside(beside, "patientid", "patientsex", "patientage", "viewposition")
    if headers is not None:
        count = len({*rows["patientid"]} & {*headers["patientid"]})
        said.append(f"sex, age and view of {count} films are those of a table of DICOM headers")
        rows = rows.merge(headers.drop_duplicates("patientid"), "left", "patientid")
    return rows.fillna(""), said


def _read_vindr(table, beside):
    if "radid" not in table:  # as in the test part, whose readers agreed on one answer
        table = table.assign(radid="")
    readers = table.groupby("filename")["radid"].transform("nunique")
    most = 2 * table.groupby(["filename", "label"])["radid"].transform("nunique") > readers
    healthy = table["label"].map(lambda name: plain(name) == "nofinding")
    few = table[~most & ~healthy].groupby("filename")["label"]
    doubt = few.agg(lambda names: "|".join(dict.fromkeys(names)))
    rest = table[~table["filename"].isin(table.loc[most, "filename"])].drop_duplicates("filename")
    said = (
        f"{len(doubt)} films have a finding that half of their readers or fewer saw: they are left "
        f"out of a question about it. {len(rest)} films have no label that most readers gave"
    )
    rest = rest.assign(label="", **dict.fromkeys(BOX, ""))
    rows = pd.concat([table[most], rest], ignore_index=True)
    rows = rows.drop_duplicates(["filename", "label", *BOX], ignore_index=True)
    return rows.fillna("").assign(doubt=[doubt.get(n, "") for n in rows["filename"]]), [said]


def _read_votes(table, beside):
    rows = table.melt(["row", "filename", "radid"], var_name="label")
    rows = rows[rows.pop("value").isin(PRESENT)].replace({"label": table.attrs["written"]})
    return _read_vindr(rows, beside)


def _read_siim(table, beside):
    runs = table["encodedpixels"].replace("-1", "")
    rows = table[["row", "filename"]].assign(label=np.where(runs == "", NO_FINDING, "Pneumothorax"))
    rows[BOX] = [_box_of_runs(text) if text else [""] * 4 for text in runs]
    return rows, []


def _box_of_runs(text: str, side: int = 1024) -> list[str]:
    """Return the box round runs down the columns, each counted from the end of the last."""
    runs = np.array(text.split(), int)
    ends = np.cumsum(runs)[1::2]
    starts = ends - runs[1::2]
    rows = np.concatenate([starts, ends - 1]) % side
    columns = starts.min() // side, (ends.max() - 1) // side
    return [str(number) for number in (columns[0], rows.min(), columns[1] + 1, rows.max() + 1)]


def _read_padchest(table, beside):
    odd = table["projection"].isin(["COSTAL", "EXCLUDE"])
    odd |= table["label"].str.contains("'exclude'|'suboptimal study'")
    label = table["label"].str.replace(r"'unchanged'\s*,?", "", regex=True)
    rows = table.assign(label=label)[~odd]
    if {"studydatedicom", "patientbirth"} <= set(rows):
        year, birth = (read_number(rows[n].str[:4]) for n in ("studydatedicom", "patientbirth"))
        rows["age"] = (year - birth).map("{:g}".format)
    said = f"{odd.sum()} films of ribs, or marked 'exclude' or 'suboptimal study', left out"
    return rows, [said]


def _read_covid(table, beside):
    ray = table["modality"].str.casefold().isin(["x-ray", "xray", ""])
    known = ~table["finding"].str.casefold().isin(["unknown", "todo", ""])
    said = f"{(~ray).sum()} rows of CT and {(ray & ~known).sum()} without a finding left out"
    return table.assign(label=table["finding"].str.replace("/", "|"))[ray & known], [said]


def _read_tbx(table, beside):
    names = {"healthy": NO_FINDING, "health": NO_FINDING, "tb": "Tuberculosis"}
    label = table["imagetype"].str.casefold().map(names).fillna("Sick but not tuberculosis")
    numbers = table.get("bbox", pd.Series("", table.index)).str.findall(r"-?\d+(?:\.\d+)?")
    rows = table.drop(columns="bbox", errors="ignore").assign(label=label)
    rows = rows.rename(columns={"source": "split"})
    rows[list("xywh")] = [box if len(box) == 4 else [""] * 4 for box in numbers]
    return rows, []


def _read_wide(table, beside):
    given = {"row", "studyid", *(name for names in KNOWN.values() for name in names)}
    values = table.drop(columns=given, errors="ignore").apply(
        lambda column: column.str.casefold().str.replace(",", ".")
    )
    written, kinds = table.attrs["written"], PRESENT | ABSENT | DOUBT | NOTHING
    known = [name for name in values if spelled_as(name, VOCABULARY)]
    for name in known:
        if odd := set(values[name]) - kinds:
            raise StudyError(
                f"the column '{written[name]}' holds '{min(odd)}': write 1, 0, -1 (uncertain) or "
                "nothing in a column that is named after a finding"
            )
    own = [n for n in values if set(values[n]) <= kinds and set(values[n]) & (PRESENT | DOUBT)]
    names = list(dict.fromkeys(known + own))
    values = values[names].rename(columns=written)
    present, doubt, absent = (values.isin(kind) for kind in (PRESENT, DOUBT, ABSENT))
    healthy, uncertain = spelled_as(NO_FINDING, values), doubt.any(axis=1).sum()
    said = [
        f"{uncertain} films have an uncertain finding (-1): they are left out of a "
        "question about it. A blank counts as not present"
    ]
    if healthy is None:
        present[NO_FINDING] = absent.all(axis=1)
        said.append(f"{present[NO_FINDING].sum()} films with 0 for each finding: '{NO_FINDING}'")
    elif "Support Devices" in values:
        both = present[healthy] & present["Support Devices"]
        present["Support Devices"] &= ~both
        doubt["Support Devices"] |= both
        said.append(
            f"{both.sum()} films have '{healthy}' and Support Devices, which are no disease: "
            f"they count as '{NO_FINDING}', and are left out of a question about devices"
        )
    marked = {"label": present, "doubt": doubt}
    marked = {new: marks.astype(bool).dot(marks.columns + "|") for new, marks in marked.items()}
    return table.drop(columns=names).assign(**marked), said


def _read_chexpert(table, beside):
    lateral = table["frontallateral"].str.casefold().str.startswith("lat")
    view = table.get("appa", pd.Series("", table.index)).mask(lateral, "lateral")
    rows = table.drop(columns=["frontallateral", "appa"], errors="ignore").assign(view=view)
    return _read_wide(rows, beside)


def _read_mimic(table, beside):
    if "filename" in table:
        return _read_wide(table, beside)
    films = _beside(beside, "filename", "studyid", "viewposition")
    if films is None:
        raise StudyError(
            "MIMIC-CXR's labels are of studies, not of films: put mimic-cxr-2.0.0-metadata.csv "
            "beside them, which names the films of each study and their views"
        )
    sides = _beside(beside, "filename", "split")
    if sides is not None:
        films = films.merge(sides, "left").fillna("")
    films, labels = (t.replace({"studyid": r"\.0$"}, "", regex=True) for t in (films, table))
    rows = labels.merge(films, "inner", "studyid")
    rows.attrs = table.attrs
    return _read_wide(rows, beside)


CLASSES = "folders that are classes"
OWN = Publisher("labels.csv", "filename label", lambda table, beside: (table, []))
WIDE = Publisher("a column per finding", "", _read_wide)
PUBLISHERS = (
    Publisher("NIH ChestX-ray14", "imageindex findinglabels", _read_nih),
    Publisher("CheXpert", "path frontallateral", _read_chexpert),
    Publisher("MIMIC-CXR-JPG", "subjectid studyid cardiomegaly", _read_mimic),
    Publisher("RSNA Pneumonia", "patientid target x y width height", _read_rsna),
    Publisher("VinDr-CXR", "imageid classname xmin", _read_vindr),
    Publisher("VinDr-CXR, image labels", "imageid radid nofinding", _read_votes),
    Publisher("SIIM Pneumothorax", "imageid encodedpixels", _read_siim),
    Publisher("PadChest", "imageid imagedir projection labels", _read_padchest),
    Publisher("COVID-19 image data", "patientid finding modality filename", _read_covid),
    Publisher("TBX11K", "fname imagetype", _read_tbx),
)
