"""Whose film it is: by a column, a known kind of path, a DICOM header, or a guess that is said."""

import re
import warnings
from pathlib import Path, PurePosixPath

import pandas as pd

from cxrlib.data.dicom import is_dicom, patient_key
from cxrlib.data.labels import ProblemLog

# What stands for the patient in a path, by who writes such paths; the first that fits counts.
WRITTEN = {
    "CheXpert": r"(?:^|/)(patient\d{2,})/",
    "MIMIC-CXR": r"(?:^|/)p(\d{8})/s\d+(?:/|$)",
    "BIDS": r"(?:^|/)(sub-[^/_]+)[/_]",
    "NIH": r"(?:^|/)(\d{8})_\d{3}\.\w+$",
    "Shenzhen and Montgomery": r"(?:^|/)((?:CHN|MCU)CXR_\d+)_[01]\.\w+$",
    "Kaggle's pneumonia set, ill": r"(?:^|/)(person\d+)_(?:bacteria|virus)_\d+\.\w+$",
    "Kaggle's pneumonia set, healthy": r"(?:^|/)((?:NORMAL\d*-)?IM-\d+)-\d+(?:-\d+)?\.\w+$",
    "a word and a number": r"(?:^|/)((?:patient|subject|person|pat|case)[-_ ]?\d+)(?=[/_. -])",
}
PATHS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in WRITTEN.items()}
GUESS = re.compile(r"Lung_Opacity-\d+|[^_]+")  # else up to the first '_'
WAY_OUT = "add a column patient_id; two films of one patient must have the same id there"


def assign_patients(rows: pd.DataFrame, root: Path, log: ProblemLog) -> str:
    """Set `patient` in place, one spelling per patient, and return where it comes from."""
    films = rows.drop(index=sorted(log.dropped))[["filename"]].drop_duplicates("filename")
    by_path = films["filename"].map(_from_path).set_axis(films["filename"])
    if "patient" in rows:
        source = "a column"
        log.add(
            rows.index[rows["patient"] == ""],
            "no patient_id",
            "fill it in: the split belongs to the patient",
        )
    else:
        source = _from_files(rows, root, by_path, log)
    _unite(rows, by_path.map(lambda found: found and found[1]), log)
    patients = rows.drop(index=sorted(log.dropped)).groupby("filename")["patient"]
    several = patients.transform("nunique").loc[lambda count: count > 1].index
    count = rows["patient"].nunique()
    if len(films) >= 10 and len(films) > 10 * count:
        problem = f"{len(films)} films are of {count} patients: those are very few"
        warnings.warn(f"{root}: {problem}. {WAY_OUT.capitalize()}.", stacklevel=3)
        log.note(problem, WAY_OUT)
    log.add(several, "one image, two patients", "give all rows of the image one patient_id")
    return source


def _from_path(name: str) -> tuple[str, str] | None:
    for convention, pattern in PATHS.items():
        if found := pattern.search(name):
            return convention, found[1]
    return None


def _from_files(rows: pd.DataFrame, root: Path, by_path: pd.Series, log: ProblemLog) -> str:
    """Set the patient from names, DICOM headers or a guess; say so of each guess."""
    ids, used = {}, {}
    for name, found in by_path.items():
        convention, patient = found or ("the DICOM header's PatientID, hashed", "")
        if not found and is_dicom(root / name):
            patient = patient_key(root / name)
        if not patient:
            convention = "a guess"
            stem = PurePosixPath(name).stem
            patient = found[0] if (found := GUESS.match(stem)) else stem
        used.setdefault(convention, set()).add(patient)
        ids[name] = (convention, patient)
    rows["patient"] = rows["filename"].map(lambda name: ids.get(name, ("", ""))[1])
    counts = pd.Series([convention for convention, _ in ids.values()], dtype=str).value_counts()
    for convention, films in counts.items():
        patients = len(used[convention])
        numbers = f"{films} films, {patients} patients"
        if convention == "a guess":
            problem = (
                "no patient_id: patients are guessed from file names, from what stands before the "
                f"first '_': {numbers}"
            )
            if films > 1 and patients > 0.9 * films:
                problem += "; that is nearly one patient per film"
            warnings.warn(f"{root}: {problem}. {WAY_OUT.capitalize()}.", stacklevel=4)
            log.note(problem, WAY_OUT)
    return "; ".join(
        f"{'a guess from' if name == 'a guess' else ''} "
        f"{'file names' if name == 'a guess' else name}".strip()
        + f" ({n} films)"
        for name, n in counts.items()
    )


def _unite(rows: pd.DataFrame, by_path: pd.Series, log: ProblemLog) -> None:
    """Give ids that differ in case, blanks or leading zeros one spelling, and say so.

    A path's spelling comes first, since tables lose zeros; else the longest, since none was lost.
    """
    written = pd.Series(rows["patient"].unique())
    keys = written.map(_key)
    in_path = {_key(patient): patient for patient in by_path.dropna()}
    best = {}
    for patient, key in sorted(zip(written, keys, strict=True), key=lambda p: (-len(p[0]), p[0])):
        best.setdefault(key, in_path.get(key, patient))
    named = dict(zip(written, keys.map(best), strict=True))
    twice = keys.duplicated(keep=False) & written.ne("")
    for key, ids in written[twice].groupby(keys, sort=False):
        log.note(
            f"the patients {' and '.join(repr(name) for name in ids)} count as one, '{best[key]}'",
            "write an id in one way",
        )
    rows["patient"] = rows["patient"].map(named)


def _key(patient: str) -> str:
    """Return an id without case, blanks, leading zeros and the '.0' of a spreadsheet's number."""
    text = re.sub(r"^(\d+)\.0$", r"\1", "".join(patient.split()).casefold())
    return re.sub(r"^([^\d]*)0+(?=\d)", r"\1", text)
