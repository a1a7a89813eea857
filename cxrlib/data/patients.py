"""Whose film it is, by a column, its path, a DICOM header or a guess; and who is tested."""

import hashlib
import re
import warnings
from collections import Counter, defaultdict
from itertools import product
from pathlib import Path, PurePosixPath

import pandas as pd

from cxrlib.data.dicom import patient_key
from cxrlib.data.files import regular_file
from cxrlib.data.labels import NOTHING, ProblemLog
from cxrlib.data.table import MEANT, WORDS, StudyError, plain

PATHS = {way: re.compile(pattern, re.IGNORECASE) for way, pattern in WORDS["patients"].items()}
HEADER, GUESS = "the DICOM header's PatientID, hashed", "a guess from file names"
GUESSED = re.compile(r"Lung_Opacity-\d+|[^_]+")  # up to the first '_', but for one publisher
WAY_OUT = "add a column patient_id; two films of one patient must have the same id there"

# Fixed, so that a patient keeps a side for ever, whatever the study, the finding or the seed.
SPLIT_SALT = "cxrlib"
TEST_SHARE = 0.25
HASH_RULE = (
    f"SHA-256 of '{SPLIT_SALT}:' and the patient's id, as a fraction of its range, "
    f"below {TEST_SHARE} is test"
)
FOLDERS = "the study's folders train and test"
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}  # of NIH
SIDES = MEANT["sides"]


def assign_patients(
    rows: pd.DataFrame, root: Path, column: str | None, log: ProblemLog
) -> tuple[pd.DataFrame, str]:
    """Return rows with `patient`, one spelling each, and its source; `column` is the table's."""
    films = log.kept(rows)["filename"].unique().tolist()
    known = {}
    for name, (way, pattern) in product(films, PATHS.items()):
        if name not in known and (match := pattern.search(name)):
            known[name] = way, match[1]
    in_path, doubts = {name: patient for name, (_, patient) in known.items()}, []
    if column:
        source = f"column '{column}'"
        fix = "fill it in: the split belongs to the patient"
        log.add(rows.index[rows["patient"].str.casefold().isin(NOTHING)], "no patient_id", fix)
        short = rows.index[rows["patient"].str.fullmatch(r"\d[.,]\d+E\+?\d+", case=False)]
        problem = "patient_id was shortened by a spreadsheet, so that several may look alike"
        log.add(short, problem, "save that column as text, not as numbers", "kept")
        kept = log.kept(rows)
        per = kept["patient"].map(plain_id).groupby(kept["filename"].map(in_path)).nunique()
        if count := (per > 1).sum():
            problem = f"{count} patients, by the names of their files, have several patient_id"
            log.note(f"{problem}, such as '{per.idxmax()}'", "none needed if those names mislead")
    else:
        found = {name: known.get(name) or _from_file(root / name) for name in films}
        rows = rows.assign(patient=[found.get(n, ("", ""))[1] for n in rows["filename"].tolist()])
        ways = Counter(way for way, _ in found.values()).most_common()
        source = "; ".join(f"{way} ({count} films)" for way, count in ways)
        guessed = {name: patient for name, (way, patient) in found.items() if way == GUESS}
        if count := len(guessed):
            people = len(set(guessed.values()))
            ends = {name.rpartition("/")[2] for name in guessed}
            doubts.append(
                "no patient_id: patients are guessed from file names, from what stands before the "
                f"first '_': {count} films, {people} patients"
                + ("; that is nearly one patient per film" if 1 < count < people / 0.9 else "")
                + ("; one name in several folders is one patient" if len(ends) < count else "")
            )
    spelled = {plain_id(patient): patient for patient in dict.fromkeys(in_path.values())}
    rows = rows.assign(patient=_unite(rows["patient"], spelled, log))
    count = rows["patient"].nunique()
    if len(films) >= 10 and len(films) > 10 * count:
        doubts.append(f"{len(films)} films are of {count} patients: those are very few")
    for problem in doubts:
        warnings.warn(f"{root}: {problem}. {WAY_OUT.capitalize()}.", stacklevel=3)
        log.note(problem, WAY_OUT)
    counts = log.kept(rows).groupby("filename")["patient"].transform("nunique")
    fix = "give all rows of the image one patient_id"
    log.add(counts.index[counts > 1], "one image, two patients", fix)
    return rows, source


def _from_file(path: Path) -> tuple[str, str]:
    if patient := patient_key(path):
        return HEADER, patient
    start = GUESSED.match(path.stem)
    return GUESS, start[0] if start else path.stem


def _unite(patients: pd.Series, in_path: dict[str, str], log: ProblemLog) -> pd.Series:
    """Give ids that differ in case, blanks or leading zeros one spelling, and say so.

    A path's spelling comes first, since tables lose zeros; else the longest, since none was lost.
    """
    groups, named = defaultdict(list), dict[str, str]()
    for patient in patients.unique():
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
    return patients.map(named)


def plain_id(patient: str) -> str:
    """Return an id without case, blanks, leading zeros and the '.0' of a spreadsheet's number."""
    text = re.sub(r"^(\d+)\.0$", r"\1", "".join(patient.split()).casefold())
    return re.sub(r"^([^\d]*)0+(?=\d)", r"\1", text)


def split_of(patient: str) -> str:
    """Return 'train' or 'test' for a patient's id: a salted hash decides, and nothing else."""
    digest = hashlib.sha256(f"{SPLIT_SALT}:{patient}".encode()).digest()
    return "test" if int.from_bytes(digest[:8]) / 2**64 < TEST_SHARE else "train"


def split_films(films: pd.DataFrame, folder: Path, log: ProblemLog) -> tuple[pd.Series, str]:
    """Return each film's side, 'train' or 'test', and the rule in words.

    The study's own split comes from a column, NIH's lists or folders named train and test, in this
    order; a StudyError says that a patient crosses one of the first two. Without a test side,
    validation is it; else it belongs to training.
    """
    names, patients = films["filename"], films["patient"]
    hashed = patients.map({patient: split_of(patient) for patient in set(patients)})
    words, rule = films["split"], "the study's own column"
    lists = [name for name in LISTS.values() if (folder / name).is_file()]
    if len(lists) == 1:
        log.note(f"{lists[0]} is not used: NIH's split needs {' and '.join(LISTS.values())}")
    if not words.any() and len(lists) == 2:
        words = names.map(stem).map(_read_lists(folder)).fillna("")
        rule = f"NIH's lists {' and '.join(LISTS.values())}"
    if not words.any():
        parents, rule = names.str.rpartition("/")[0].str.split("/"), FOLDERS
        words = parents.map(lambda parts: next((p for p in parts if plain(p) in SIDES), ""))
    own = words.map({word: SIDES.get(plain(word), "") for word in set(words)})
    if "train" not in set(own) or not {"test", "validation"} & set(own):
        if words.any() and rule != FOLDERS:
            log.note(f"{rule} of sides is not used: it has no train, or no test or validation")
        return hashed, HASH_RULE
    own = own.replace("validation", "train" if "test" in set(own) else "test")
    known = own[own != ""].groupby(patients)
    if crossing := [name for name, count in known.nunique().items() if count > 1]:
        problem = (
            f"{folder}: {rule} would split {len(crossing)} patients, such as "
            f"{', '.join(map(repr, crossing[:3]))}, between training and test (copies of a film "
            "are one patient's)"
        )
        if rule != FOLDERS:
            raise StudyError(
                f"{problem}. A test on them flatters: move all films of a patient to one side, or "
                "remove it, and the patient's hash decides."
            )
        problem += ": the patient's hash decides instead"
        warnings.warn(f"{problem}.", stacklevel=3)
        log.note(problem, "move each patient to one side")
        return hashed, HASH_RULE
    side = patients.map(known.first())
    if side.isna().any():
        odd = ", ".join(map(repr, sorted({*words.fillna("")[own == ""]})[:5]))
        how = f"have no side in {rule} ({odd}): their patient's hash decides"
        log.note(f"{side.isna().sum()} films {how}")
    return side.fillna(hashed), rule


def _read_lists(folder: Path) -> dict[str, str]:
    """Return 'train' or 'test' by stem; a StudyError says why NIH's lists cannot be used."""
    side_of: dict[str, str] = {}
    for side, name in LISTS.items():
        path = folder / name
        try:
            names = regular_file(path).read_text(encoding="utf-8-sig").split()
        except (OSError, ValueError) as error:
            raise StudyError(f"{path} cannot be read: {error}. NIH's Box folder has it.") from error
        if not names:
            raise StudyError(f"{path} is empty. NIH's Box folder has it.")
        if both := [name for name in names if side_of.get(name, side) != side]:
            raise StudyError(
                f"{both[0]} stands in both lists of {folder}, one of {len(both)}. Fetch them again."
            )
        side_of |= dict.fromkeys(names, side)
    return {stem(name): side for name, side in side_of.items()}


def stem(name: str) -> str:
    return PurePosixPath(name).stem
