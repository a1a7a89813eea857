"""What was understood of a study, in words, and the same as a `labels.csv`."""

from pathlib import Path

import pandas as pd

from cxrlib.data.files import whole_file
from cxrlib.data.patients import HASH_RULE
from cxrlib.data.study import Study
from cxrlib.data.table import BOX, StudyError


def describe_study(study: Study) -> str:
    """Return lines on publisher, films, patients, findings, views, sexes, ages, split, problems."""
    films = study.films
    ages = films["age"].dropna()
    patients = films.groupby("split")["patient"].nunique()
    sides = [
        f"{count} radiographs of {patients[side]} patients {side}"
        for side, count in films["split"].value_counts().items()
    ]
    lines = {
        "table": study.publisher,
        "radiographs": len(films),
        "patients": f"{films['patient'].nunique()}, from {study.patients_from}",
        "findings": _list(films["labels"].explode().fillna("none that is named")),
        "boxes": study.findings["xmin"].notna().sum(),
        "views": _list(films["view"]),
        "sexes": _list(films["sex"]),
        "ages": (f"{ages.min():.0f} to {ages.max():.0f} years, " if len(ages) else "")
        + f"{len(films) - len(ages)} unknown",
        "split": f"{', '.join(sides)}; by {study.split_rule}",
    }
    told = [f"{name:12}{text}" for name, text in lines.items()]
    kind = study.problems["problem"].str.replace("^same film.*", "", regex=True)  # each its own
    for _, rows in study.problems.groupby([kind, "outcome", "fix"], sort=False):
        one = rows.iloc[0]
        where = f"row {one['row']}" + (f" and {len(rows) - 1} more" if len(rows) > 1 else "")
        told.append(f"{one['outcome']}, {where}: {one['problem']} ({one['fix']})")
    return "\n".join(told)


def write_labels(study: Study, path: Path) -> str:
    """Write a study as a new `labels.csv` for its folder, and say what it leaves out."""
    if path.exists():
        raise StudyError(f"{path} exists: give a new file")
    films = study.films.set_index("filename")
    table = study.findings.rename(columns={"patient": "patient_id"})
    of_row = films.loc[table["filename"]].set_axis(table.index)
    table["filename"] = of_row["file"].str.removeprefix("images/")
    table["doubt"] = of_row["doubt"].map("|".join)
    if study.split_rule != HASH_RULE:
        table["split"] = of_row["split"]
    columns = ["filename", "label", "patient_id", "view", "sex", "age", "doubt", "split", *BOX]
    with whole_file(path) as part:
        table[[name for name in columns if name in table]].to_csv(part, index=False)
    bare = (films["labels"].map(len) == 0).sum()
    return f"without {bare} radiographs that have no label" if bare else "with all radiographs"


def _list(values: pd.Series) -> str:
    return ", ".join(
        f"{name or 'unknown'} {count}" for name, count in values.value_counts().items()
    )
