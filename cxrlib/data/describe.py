"""What was understood of a study, in words, and the same as a `labels.csv`."""

from pathlib import Path

import pandas as pd

from cxrlib.data.files import whole_file
from cxrlib.data.split import HASH_RULE
from cxrlib.data.study import Study
from cxrlib.data.table import BOX, StudyError


def describe_study(study: Study) -> str:
    """Return lines on publisher, films, patients, findings, views, sexes, ages, split, problems."""
    films = study.films
    ages = films["age"].dropna()
    known = f"{ages.min():.0f} to {ages.max():.0f} years, " if len(ages) else ""
    patients = films.groupby("split")["patient"].nunique()
    sides = [f"{n} films of {patients[s]} patients {s}" for s, n in _count(films["split"])]
    findings = films["labels"].explode().fillna("none that is named")
    lines = {
        "table": study.publisher,
        "films": len(films),
        "patients": f"{films['patient'].nunique()}, from {study.patients_from}",
        "findings": _list(findings),
        "boxes": int(study.findings["xmin"].notna().sum()),
        "views": _list(films["view"]),
        "sexes": _list(films["sex"]),
        "ages": f"{known}{films['age'].isna().sum()} unknown",
        "split": f"{', '.join(sides)}; by {study.split_rule}",
    }
    told = [f"{name:10}{text}" for name, text in lines.items()]
    kinds = study.problems.groupby(["outcome", "problem", "fix"], sort=False)["row"]
    for (outcome, problem, fix), rows in kinds:
        where = f"row {rows.iloc[0]}" + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")
        told.append(f"{outcome}, {where}: {problem} ({fix})")
    return "\n".join(told)


def write_labels(study: Study, path: Path) -> None:
    """Write a study as a new `labels.csv`, to be put into the study's folder.

    Films without a label, and doubts, have no place there.

    Raises
    ------
    StudyError
        The file exists.
    """
    if path.exists():
        raise StudyError(f"{path} exists: give a new file")
    names = study.films.set_index("filename")["file"].str.removeprefix("images/")
    table = study.findings.rename(columns={"patient": "patient_id"})
    table["filename"] = table["filename"].map(names)
    if study.split_rule != HASH_RULE:
        table["split"] = table["filename"].map(study.films.set_index("filename")["split"])
    columns = ["filename", "label", "patient_id", "view", "sex", "age", "split", *BOX]
    with whole_file(path) as part:
        table[[name for name in columns if name in table]].to_csv(part, index=False)


def _count(values: pd.Series) -> list[tuple[str, int]]:
    return list(values.value_counts().items())


def _list(values: pd.Series) -> str:
    return ", ".join(f"{name or 'unknown'} {count}" for name, count in _count(values))
