"""A study is a folder with `labels.csv` and `images/`: read it, check it, split it by patient."""

import difflib
import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from cxrlib.images import ImageError, image_size, read_image

NO_FINDING = "No Finding"
# The names of ChestX-ray14 (Wang et al., CVPR 2017), its box list's 'Infiltrate' among them.
NIH_FINDINGS = (
    "Atelectasis,Cardiomegaly,Consolidation,Edema,Effusion,Emphysema,Fibrosis,Hernia,Infiltrate,"
    "Infiltration,Mass,Nodule,Pleural_Thickening,Pneumonia,Pneumothorax"
).split(",")
BOX = ["xmin", "ymin", "xmax", "ymax"]
BOX_TEXT = [f"{name}_text" for name in BOX]  # as written, while the table is checked
# Fixed, so that a patient keeps a side for ever, whatever the study, the finding or the seed.
SPLIT_SALT = "cxrlib"
TEST_SHARE = 0.25


class StudyError(ValueError):
    """A study that cannot be used, with what is wrong and the way out."""


@dataclass(frozen=True)
class Study:
    """A study as read by `read_study`.

    Attributes
    ----------
    folder : Path
    findings : DataFrame, one row a finding
        The usable rows of `labels.csv`, with `patient`; boxes in pixels of the image file,
        NaN where there is none.
    films : DataFrame, one row an image
        filename, path, patient, view ('' if unknown), width, height (pixels of the image file),
        labels (tuple of str), split ('train' or 'test').
    problems : DataFrame, one row a problem
        row (line of `labels.csv`), filename, problem, fix, outcome.
    """

    folder: Path
    findings: pd.DataFrame
    films: pd.DataFrame
    problems: pd.DataFrame


def split_of(patient: str) -> str:
    """Return 'train' or 'test' for a patient's id: a salted hash decides, and nothing else.

    A quarter of all ids falls to test. SHA-256 of salt and id, read as a fraction of its range.
    """
    digest = hashlib.sha256(f"{SPLIT_SALT}:{patient}".encode()).digest()
    return "test" if int.from_bytes(digest[:8]) / 2**64 < TEST_SHARE else "train"


def read_study(folder: str | Path, decode: bool = False) -> Study:
    """Read and check a study.

    Rows that cannot be trusted are left out and listed in `problems`, with a warning.

    Parameters
    ----------
    folder : the study's folder
    decode : decode every image fully, so that files cut short are found too; else only headers
        are read.

    Raises
    ------
    StudyError
        No `labels.csv`, required columns missing, or no usable row.
    """
    folder = Path(folder)
    rows = _read_table(folder / "labels.csv")
    log = _ProblemLog(rows)
    _check_names(folder, rows, log)
    sizes = _check_files(folder, rows, log, decode)
    _check_labels(rows, log)
    _check_patients(rows, log)
    _check_boxes(rows, sizes, log)
    rows = rows.drop(index=sorted(log.dropped), columns=BOX_TEXT)
    if rows.empty:
        raise StudyError(
            f"{folder / 'labels.csv'}: not one row can be used. The first problem: "
            f"{log.table().iloc[0].to_dict()}"
        )
    if log.dropped:
        warnings.warn(
            f"{folder / 'labels.csv'}: {len(log.dropped)} of {len(rows) + len(log.dropped)} rows "
            "are left out; `study.problems` says why",
            stacklevel=2,
        )
    films = rows.groupby("filename", sort=False).agg(
        patient=("patient", "first"),
        view=("view", "first"),
        labels=("label", lambda x: tuple(dict.fromkeys(x))),
    )
    films[["width", "height"]] = [sizes[name] for name in films.index]
    films = films.reset_index()
    films.insert(1, "path", [str(folder / "images" / name) for name in films["filename"]])
    films["split"] = films["patient"].map(split_of)
    return Study(folder, rows.reset_index(drop=True), films, log.table())


def choose_films(study: Study, finding: str) -> pd.DataFrame:
    """Return the films of one question: those with the finding against those with 'No Finding'.

    Returns
    -------
    DataFrame, one row an image
        As `study.films`, with `target`: 1 where the finding is among the labels, else 0. Films
        with other findings only are not part of the question.

    Raises
    ------
    StudyError
        The finding is unknown to the study, or one of the two sides has no film.
    """
    known = study.findings["label"].value_counts().drop(NO_FINDING, errors="ignore")
    name = _spelled_as(finding, known.index)
    if name is None:
        near = difflib.get_close_matches(finding, known.index, n=1)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        listed = ", ".join(f"{label} ({count})" for label, count in known.items()) or "no finding"
        raise StudyError(
            f"finding '{finding}': {study.folder} has no film with it. {hint}It has {listed}."
        )
    films = study.films
    positive = films["labels"].map(lambda labels: name in labels)
    negative = films["labels"].map(lambda labels: NO_FINDING in labels)
    if not negative.any():
        raise StudyError(
            f"{study.folder} has no film labelled '{NO_FINDING}' to hold against '{name}'. "
            f"Label films without a finding '{NO_FINDING}'."
        )
    chosen = films[positive | negative].assign(target=positive.astype(int))
    return chosen.reset_index(drop=True)


def count_split(films: pd.DataFrame) -> pd.DataFrame:
    """Return films, patients, positives and the share of AP by split, one row a split."""
    by = films.groupby("split")
    counts = by.agg(
        films=("filename", "size"), patients=("patient", "nunique"), positives=("target", "sum")
    )
    counts["prevalence"] = counts["positives"] / counts["films"]
    counts["AP share"] = by["view"].agg(lambda view: (view == "AP").mean())
    return counts.loc[["train", "test"]].round(3)


class _ProblemLog:
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


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise StudyError(
            f"{path} does not exist. A study is a folder with labels.csv and images/; "
            "labels.csv needs the columns filename and label."
        )
    try:
        rows = pd.read_csv(
            path, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig"
        )
    except pd.errors.EmptyDataError:
        raise StudyError(f"{path} is empty. It needs the columns filename and label.") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        reason = str(error).strip()
        raise StudyError(f"{path} is no comma-separated UTF-8 text: {reason}") from error
    if not isinstance(rows.index, pd.RangeIndex):  # pandas takes surplus fields for an index
        raise StudyError(
            f"{path} has more fields in a row than column names. Name every column, and delete "
            "commas at the ends of lines."
        )
    rows = rows.rename(columns=str.strip).apply(lambda column: column.str.strip())
    missing = [name for name in ("filename", "label") if name not in rows]
    if missing:
        raise StudyError(
            f"{path} lacks the column {' and '.join(missing)}; it has {', '.join(rows.columns)}. "
            "Rename its columns, and separate them by commas."
        )
    rows = rows[rows.ne("").any(axis=1)]  # blank lines mean nothing, but count as lines
    if rows.empty:
        raise StudyError(f"{path} has column names but no row. Add one row a finding.")
    rows["view"] = rows["view"].str.upper() if "view" in rows else ""
    if "patient_id" in rows:
        rows["patient"] = rows["patient_id"]
    else:
        rows["patient"] = rows["filename"].map(lambda name: PurePosixPath(name).stem.split("_")[0])
    for name, text in zip(BOX, BOX_TEXT, strict=True):
        rows[text] = rows.get(name, "")
    return rows


def _check_names(folder: Path, rows: pd.DataFrame, log: _ProblemLog) -> None:
    for index, name in rows["filename"].items():
        path = PurePosixPath(name.replace("\\", "/"))
        if not name:
            log.add(index, "no file name", "name the image file")
        elif path.is_absolute() or ".." in path.parts or ":" in name:
            log.add(index, "name leaves images/", "put the file into images/ and use its bare name")
    for index in rows.index[rows.duplicated()]:
        log.add(index, "same row as one above", "delete it")


def _check_files(
    folder: Path, rows: pd.DataFrame, log: _ProblemLog, decode: bool
) -> dict[str, tuple[int, int]]:
    """Return (width, height) by file name for the images that can be read."""
    sizes = {}
    by_name = rows.drop(index=sorted(log.dropped)).groupby("filename", sort=False).groups
    present = {p.name.casefold(): p.name for p in (folder / "images").glob("*")}
    for name, indices in by_name.items():
        path = folder / "images" / name
        try:
            sizes[name] = image_size(path)
            if decode:
                read_image(path)
        except FileNotFoundError:
            near = present.get(name.casefold()) or next(
                iter(difflib.get_close_matches(name, present.values(), n=1, cutoff=0.85)), None
            )
            fix = f"is it {near}?" if near else "add the file or delete the row"
            for index in indices:
                log.add(index, "file missing in images/", fix)
        except ImageError as error:
            for index in indices:
                log.add(index, f"unreadable: {error.reason}", "replace the file or delete the row")
    return sizes


def _spelled_as(label: str, names) -> str | None:
    """Return the one of `names` that differs from `label` in case, spaces or hyphens at most."""

    def plain(text):
        return "".join(text.casefold().split()).replace("_", "").replace("-", "")

    return next((name for name in names if plain(name) == plain(label)), None)


def _check_labels(rows: pd.DataFrame, log: _ProblemLog) -> None:
    vocabulary = [NO_FINDING, *NIH_FINDINGS]
    # A misspelt finding still contradicts 'No Finding'.
    usable = rows.index.difference(sorted(log.dropped))
    for label, indices in rows.groupby("label", sort=False).groups.items():
        if label in vocabulary:
            continue
        same = _spelled_as(label, vocabulary)
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


def _check_patients(rows: pd.DataFrame, log: _ProblemLog) -> None:
    for index in rows.index[rows["patient"] == ""]:
        log.add(index, "no patient_id", "fill it in: the split belongs to the patient")
    patients = rows.drop(index=sorted(log.dropped)).groupby("filename")["patient"]
    for index in patients.transform("nunique").loc[lambda count: count > 1].index:
        log.add(index, "one image, two patients", "give all rows of the image one patient_id")


def _check_boxes(rows: pd.DataFrame, sizes: dict, log: _ProblemLog) -> None:
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
