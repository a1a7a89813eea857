"""Whose film it is: by a column, a known kind of path, a DICOM header, or a guess that is said."""

import re
import warnings
from collections import defaultdict
from pathlib import Path

import pandas as pd

from cxrlib.data.dicom import is_dicom, patient_key
from cxrlib.data.labels import NOTHING, ProblemLog

# What stands for the patient in a path, by who writes such paths; the first that fits counts.
WRITTEN = {
    "CheXpert": r"(?:^|/)(patient\d{2,})/",
    "MIMIC-CXR": r"(?:^|/)p(\d{8})/s\d+(?:/|$)",
    "BIDS": r"(?:^|/)(sub-[^/_]+)[/_]",
    "NIH": r"(?:^|/)(\d{8})_\d{3}\.\w+$",
    "Shenzhen and Montgomery": r"(?:^|/)((?:CHN|MCU)CXR_\d+)_[01]\.\w+$",
    "Kaggle's pneumonia set, ill": r"(?:^|/)(person\d+)_(?:bacteria|virus)_\d+\.\w+$",
    "Kaggle's pneumonia set, healthy": r"(?:^|/)((?:NORMAL\d*-)?IM-\d+)-\d+(?:-\d+)?\.\w+$",
    "Mendeley's pneumonia set": r"(?:^|/)((?:NORMAL|BACTERIA|VIRUS)-\d+)-\d+\.\w+$",
    "Open-i": r"(?:^|/)((?:CXR)?\d+)_(?:\d+_)?IM-\d+-\d+(?:\.dcm)?\.\w+$",
    "a word and a number": r"(?:^|/)((?:patient|subject|person|pat|case)[-_ ]?\d+)(?=[/_. -])",
}
PATHS = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in WRITTEN.items()}
HEADER, GUESS = "the DICOM header's PatientID, hashed", "a guess from file names"
GUESSED = re.compile(r"Lung_Opacity-\d+|[^_]+")  # up to the first '_', but for one publisher
WAY_OUT = "add a column patient_id; two films of one patient must have the same id there"


def assign_patients(rows: pd.DataFrame, root: Path, log: ProblemLog) -> str:
    """Set `patient` in place, one spelling per patient, and return where it comes from."""
    films = rows.drop(index=sorted(log.dropped))["filename"].unique().tolist()
    by_path = {name: _from_path(name) for name in films}
    source, doubts = "a column", []
    if "patient" in rows:
        fix = "fill it in: the split belongs to the patient"
        log.add(rows.index[rows["patient"].str.casefold().isin(NOTHING)], "no patient_id", fix)
        short = rows.index[rows["patient"].str.fullmatch(r"\d[.,]\d+E\+?\d+", case=False)]
        problem = "patient_id was shortened by a spreadsheet, so that several may look alike"
        log.add(short, problem, "save that column as text, not as numbers", "kept")
        ways = {name: way[1] for name, way in by_path.items() if way}
        kept = rows.drop(index=sorted(log.dropped))
        per = kept["patient"].map(plain_id).groupby(kept["filename"].map(ways)).nunique()
        if count := (per > 1).sum():
            problem = f"{count} patients, by the names of their files, have several patient_id"
            log.note(f"{problem}, such as '{per.idxmax()}'", "none needed if those names mislead")
    else:
        found = {name: way or _from_file(root / name) for name, way in by_path.items()}
        rows["patient"] = [found.get(name, ("", ""))[1] for name in rows["filename"].tolist()]
        ways = pd.DataFrame(found.values(), columns=["way", "patient"], dtype=str)
        counts = ways["way"].value_counts()
        source = "; ".join(f"{way} ({count} films)" for way, count in counts.items())
        if count := counts.get(GUESS, 0):
            guessed = ways.loc[ways["way"] == GUESS, "patient"]
            patients, alone = guessed.nunique(), count > 1 and guessed.nunique() > 0.9 * count
            ends = {name.rpartition("/")[2] for name, way in found.items() if way[0] == GUESS}
            doubts.append(
                "no patient_id: patients are guessed from file names, from what stands before the "
                f"first '_': {count} films, {patients} patients"
                + ("; that is nearly one patient per film" if alone else "")
                + ("; one name in several folders is one patient" if len(ends) < count else "")
            )
    written = dict.fromkeys(way[1] for way in by_path.values() if way)
    _unite(rows, {plain_id(patient): patient for patient in written}, log)
    count = rows["patient"].nunique()
    if len(films) >= 10 and len(films) > 10 * count:
        doubts.append(f"{len(films)} films are of {count} patients: those are very few")
    for problem in doubts:
        warnings.warn(f"{root}: {problem}. {WAY_OUT.capitalize()}.", stacklevel=3)
        log.note(problem, WAY_OUT)
    several = rows.drop(index=sorted(log.dropped)).groupby("filename")["patient"]
    several = several.transform("nunique").loc[lambda count: count > 1].index
    log.add(several, "one image, two patients", "give all rows of the image one patient_id")
    return source


def _from_path(name: str) -> tuple[str, str] | None:
    """Return whose way of writing paths this is, and the patient in it."""
    found = ((way, pattern.search(name)) for way, pattern in PATHS.items())
    return next(((way, match[1]) for way, match in found if match), None)


def _from_file(path: Path) -> tuple[str, str]:
    if is_dicom(path) and (patient := patient_key(path)):
        return HEADER, patient
    start = GUESSED.match(path.stem)
    return GUESS, start[0] if start else path.stem


def _unite(rows: pd.DataFrame, in_path: dict[str, str], log: ProblemLog) -> None:
    """Give ids that differ in case, blanks or leading zeros one spelling, and say so.

    A path's spelling comes first, since tables lose zeros; else the longest, since none was lost.
    """
    groups, named = defaultdict(list), {}
    for patient in rows["patient"].unique():
        groups[plain_id(patient)].append(patient)
    for key, ids in groups.items():
        whole = [re.sub(r"^(\d+)\.0$", r"\1", name) for name in ids]
        best = in_path.get(key) or min(whole, key=lambda name: (-len(name), name))
        named |= dict.fromkeys(ids, best)
        if len(ids) > 1:
            log.note(
                f"the patients {' and '.join(map(repr, ids))} count as one, '{best}'",
                "write an id in one way",
            )
    rows["patient"] = rows["patient"].map(named)


def plain_id(patient: str) -> str:
    """Return an id without case, blanks, leading zeros and the '.0' of a spreadsheet's number."""
    text = re.sub(r"^(\d+)\.0$", r"\1", "".join(patient.split()).casefold())
    return re.sub(r"^([^\d]*)0+(?=\d)", r"\1", text)
