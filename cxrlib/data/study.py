"""A study is a folder with `labels.csv` and `images/`: read it, check it, split it by patient."""

import difflib
import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from cxrlib.data.images import film_digest
from cxrlib.data.labels import BOX, BOX_TEXT, NO_FINDING, StudyError, check_rows, spelled_as
from cxrlib.data.nih import ENTRIES, add_entries, read_age

# Fixed, so that a patient keeps a side for ever, whatever the study, the finding or the seed.
SPLIT_SALT = "cxrlib"
TEST_SHARE = 0.25
ORIGINAL = ["original_width", "original_height"]


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
        filename, path, patient, view ('' if unknown), sex ('F', 'M', '' if unknown), age (years,
        NaN if unknown), original_width and original_height (pixels of the detector, NaN if
        unknown), labels (tuple of str), width, height (pixels of the image file), split ('train'
        or 'test').
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

    Rows that cannot be trusted are left out and listed in `problems`, with a warning. Where NIH's
    `Data_Entry_2017.csv` (or `..._v2020.csv`) lies beside `labels.csv`, age and sex are taken from
    it by image name.

    Parameters
    ----------
    folder : the study's folder
    decode : decode every image fully, so that files cut short are found too; else only headers
        are read.

    Raises
    ------
    StudyError
        No `labels.csv`, required columns missing, or no usable row; entries of NIH that are no
        such table, or have none of the study's images.
    """
    folder = Path(folder)
    rows = _read_table(folder / "labels.csv")
    for entries in sorted(folder.glob(ENTRIES)):
        add_entries(rows, folder, entries)
    sizes, log = check_rows(folder, rows, decode)
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
        **{name: (name, "first") for name in ("view", "sex", "age", *ORIGINAL)},
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
    name = spelled_as(finding, known.index)
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
    return counts.reindex(["train", "test"], fill_value=0).round(3)


def digest_films(films: pd.DataFrame) -> str:
    """Return the SHA-256 of names, targets and contents of films, whatever their order."""
    lines = sorted(
        f"{film.filename},{film.target},{film_digest(film.path)}" for film in films.itertuples()
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


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
    twice = rows.columns[rows.columns.duplicated()]
    if len(twice):
        raise StudyError(f"{path} has two columns named '{twice[0]}'. Rename or delete one.")
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
    sex = rows["sex"].str.upper().str[:1] if "sex" in rows else pd.Series("", rows.index)
    rows["sex"] = sex.where(sex.isin(["F", "M"]), "")
    rows["age"] = read_age(rows["age"]) if "age" in rows else np.nan
    for name in ORIGINAL:
        column = name.removeprefix("original_")
        rows[name] = pd.to_numeric(rows[column], errors="coerce") if column in rows else np.nan
    if "patient_id" in rows:
        rows["patient"] = rows["patient_id"]
    elif "patient" not in rows:
        rows["patient"] = rows["filename"].map(lambda name: PurePosixPath(name).stem.split("_")[0])
    for name, text in zip(BOX, BOX_TEXT, strict=True):
        rows[text] = rows.get(name, "")
    return rows
