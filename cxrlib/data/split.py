"""Who is tested: a hash of the patient's id, or the study's own split where no patient crosses."""

import hashlib
import warnings
from pathlib import Path, PurePosixPath

import pandas as pd

from cxrlib.data.files import regular_file
from cxrlib.data.labels import ProblemLog
from cxrlib.data.table import StudyError, plain

# Fixed, so that a patient keeps a side for ever, whatever the study, the finding or the seed.
SPLIT_SALT = "cxrlib"
TEST_SHARE = 0.25
HASH_RULE = (
    f"SHA-256 of '{SPLIT_SALT}:' and the patient's id, as a fraction of its range, "
    f"below {TEST_SHARE} is test"
)
FOLDERS = "the study's folders train and test"
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}  # of NIH
SIDES = dict.fromkeys(("train", "training", "trainval", "development"), "train")
SIDES |= dict.fromkeys("val valid validate validation dev tune tuning".split(), "validation")
SIDES |= dict.fromkeys(("test", "testing", "holdout", "heldout"), "test")


def split_of(patient: str) -> str:
    """Return 'train' or 'test' for a patient's id: a salted hash decides, and nothing else.

    A quarter of all ids falls to test. SHA-256 of salt and id, read as a fraction of its range.
    """
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
        parents, rule = names.str.rpartition("/")[0], FOLDERS
        sides = {f: next((p for p in f.split("/") if plain(p) in SIDES), "") for f in set(parents)}
        words = parents.map(sides)
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
    side_of = {}
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
