"""What may be wrong with the rows of a study's `labels.csv`, with a way out for each."""

import difflib
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from cxrlib.data.images import ImageError, image_size, read_image, view_of

NO_FINDING = "No Finding"
# The names of ChestX-ray14 (Wang et al., CVPR 2017), its box list's 'Infiltrate' among them.
NIH_FINDINGS = (
    "Atelectasis,Cardiomegaly,Consolidation,Edema,Effusion,Emphysema,Fibrosis,Hernia,Infiltrate,"
    "Infiltration,Mass,Nodule,Pleural_Thickening,Pneumonia,Pneumothorax"
).split(",")
BOX = ["xmin", "ymin", "xmax", "ymax"]
BOX_TEXT = [f"{name}_text" for name in BOX]  # as written, while the table is checked


class StudyError(ValueError):
    """A study that cannot be used, with what is wrong and the way out."""


class ProblemLog:
    """What is wrong with which row; a dropped row is left out of the study."""

    def __init__(self, rows: pd.DataFrame):
        self.filenames = rows["filename"]
        self.entries: list[tuple] = []
        self.dropped: set[int] = set()

    def add(self, index: int, problem: str, fix: str, outcome: str = "row left out") -> None:
        if outcome == "row left out":
            self.dropped.add(index)
        # Line 1 of the file holds the column names.
        self.entries.append((index + 2, self.filenames[index], problem, fix, outcome))

    def table(self) -> pd.DataFrame:
        columns = ["row", "filename", "problem", "fix", "outcome"]
        return pd.DataFrame(sorted(self.entries), columns=columns)


def check_rows(
    folder: Path, rows: pd.DataFrame, decode: bool
) -> tuple[dict[str, tuple[int, int]], ProblemLog]:
    """Check a study's rows; in place, give labels their usual spelling and boxes their numbers.

    Returns
    -------
    sizes : (width, height) in pixels of each image that can be read, by file name
    log : ProblemLog
    """
    log = ProblemLog(rows)
    _check_names(rows, log)
    sizes = _check_files(folder, rows, log, decode)
    _check_labels(rows, log)
    _check_patients(rows, log)
    _check_boxes(rows, sizes, log)
    return sizes, log


def _check_names(rows: pd.DataFrame, log: ProblemLog) -> None:
    for index, name in rows["filename"].items():
        path = PurePosixPath(name.replace("\\", "/"))
        if not name:
            log.add(index, "no file name", "name the image file")
        elif path.is_absolute() or ".." in path.parts or ":" in name:
            log.add(index, "name leaves images/", "put the file into images/ and use its bare name")
    for index in rows.index[rows.duplicated()]:
        log.add(index, "same row as one above", "delete it")


def _check_files(
    folder: Path, rows: pd.DataFrame, log: ProblemLog, decode: bool
) -> dict[str, tuple[int, int]]:
    """Return (width, height) by file name for the images that can be read."""
    sizes = {}
    by_name = rows.drop(index=sorted(log.dropped)).groupby("filename", sort=False).groups
    present = {p.stem.casefold(): p.name for p in (folder / "images").glob("*")}
    for name, indices in by_name.items():
        path = folder / "images" / name
        try:
            sizes[name] = image_size(path)
            if (rows.loc[indices, "view"] == "").all():
                rows.loc[indices, "view"] = view_of(path)
            if decode:
                read_image(path)
        except FileNotFoundError:
            near = present.get(path.stem.casefold())
            fix = f"is it {near}?" if near else "add the file or delete the row"
            for index in indices:
                log.add(index, "file missing in images/", fix)
        except ImageError as error:
            for index in indices:
                log.add(index, f"unreadable: {error.reason}", "replace the file or delete the row")
    return sizes


def spelled_as(label: str, names) -> str | None:
    """Return the one of `names` that differs from `label` in case, spaces or hyphens at most."""

    def plain(text):
        return "".join(text.casefold().split()).replace("_", "").replace("-", "")

    return next((name for name in names if plain(name) == plain(label)), None)


def _check_labels(rows: pd.DataFrame, log: ProblemLog) -> None:
    vocabulary = [NO_FINDING, *NIH_FINDINGS]
    # A misspelt finding still contradicts 'No Finding'.
    usable = rows.index.difference(sorted(log.dropped))
    for label, indices in rows.groupby("label", sort=False).groups.items():
        if label in vocabulary:
            continue
        same = spelled_as(label, vocabulary)
        near = difflib.get_close_matches(label.title(), vocabulary, n=1, cutoff=0.8)
        if not label:
            for index in indices:
                log.add(index, "no label", f"name the finding, or '{NO_FINDING}'")
        elif same:
            rows.loc[indices, "label"] = same
        elif near:
            for index in indices:
                log.add(index, f"unknown finding '{label}'", f"did you mean '{near[0]}'?")
        else:
            log.add(
                indices[0],
                f"'{label}' ({len(indices)} rows) is not one of NIH's findings",
                "none needed if it is your own finding",
                "kept",
            )
    healthy = rows.loc[usable, "label"].eq(NO_FINDING).groupby(rows.loc[usable, "filename"])
    mixed = healthy.transform("any") & ~healthy.transform("all")
    for index in usable[mixed]:
        log.add(index, f"'{NO_FINDING}' beside a finding", "delete the rows that are wrong")


def _check_patients(rows: pd.DataFrame, log: ProblemLog) -> None:
    for index in rows.index[rows["patient"] == ""]:
        log.add(index, "no patient_id", "fill it in: the split belongs to the patient")
    stems = rows["filename"].map(lambda name: PurePosixPath(name).stem)
    if len(rows) > 1 and (rows["patient"] == stems).all():
        log.add(
            rows.index[0],
            "no patient_id, and no '_' in a file name: each film counts as a patient",
            "add a column patient_id where a patient has several films",
            "kept",
        )
    patients = rows.drop(index=sorted(log.dropped)).groupby("filename")["patient"]
    for index in patients.transform("nunique").loc[lambda count: count > 1].index:
        log.add(index, "one image, two patients", "give all rows of the image one patient_id")


def _check_boxes(rows: pd.DataFrame, sizes: dict, log: ProblemLog) -> None:
    text = rows[BOX_TEXT].set_axis(BOX, axis=1)
    boxes = text.apply(pd.to_numeric, errors="coerce")
    rows[BOX] = boxes
    for index in rows.index[text.ne("").any(axis=1)].difference(sorted(log.dropped)):
        xmin, ymin, xmax, ymax = boxes.loc[index]
        width, height = sizes[rows.loc[index, "filename"]]
        if np.isnan([xmin, ymin, xmax, ymax]).any():
            problem, fix = "box has a missing or non-numeric side", "give all four, or none"
        elif xmin >= xmax or ymin >= ymax:
            problem, fix = "box is empty", "xmin < xmax and ymin < ymax, in pixels"
        elif xmin < 0 or ymin < 0 or xmax > width or ymax > height:
            problem = f"box leaves the image of {width} x {height} pixels"
            fix = "give it in pixels of the image file"
        else:
            continue
        rows.loc[index, BOX] = np.nan
        log.add(index, problem, fix, "box left out")
