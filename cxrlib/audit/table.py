"""Predictions of any model, as a table: read and checked before anything is measured on them."""

from pathlib import Path

import pandas as pd

from cxrlib.data.labels import NOTHING
from cxrlib.data.table import KNOWN, plain, read_age, read_number, read_sex, read_table

NAMES = {
    "id": ("id", "filename", *KNOWN["filename"]),
    "patient": KNOWN["patient"],
    "target": ("target", "truth", "groundtruth", "ytrue", "y", *KNOWN["label"]),
    "probability": tuple("probability yprob prob p yscore score yhat prediction".split()),
    "split": KNOWN["split"],
    "fold": ("fold", "cvfold"),
    **{name: KNOWN[name] for name in ("view", "sex", "age")},
}
NEEDED = ("id", "patient", "target", "probability")
# Columns that follow from the label, the score or the film, and would pass for metadata.
DERIVED = set("decision status reason predicted predictedlabel pred ypred correct digest".split())
DERIVED |= {*NAMES["patient"], *NAMES["target"], *NAMES["probability"]} - set(NAMES)
SIDES = {r"(?i)^(train|development).*": "train", r"(?i)^(test|hold-?_?out|held-?_?out).*": "test"}
CLASSES = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


class AuditError(ValueError):
    """A table that cannot be audited, with the row or column and the way out."""


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read a table of predictions: one row per radiograph, from any model.

    Returns a DataFrame: id, patient, split, fold, view, sex (str, '' where unknown), target (0 or
    1), probability (0..1), age (years, NaN where unknown); every other column under its own name,
    as text. Raises AuditError or StudyError where there is no table, a column is missing, a target
    or probability is none, an image stands twice, or films are of one class or of one patient.
    """
    path = Path(path)
    table, _ = read_table(path, lambda names: len(names & set(sum(NAMES.values(), ()))) > 2)
    table = table.mask(table.astype(str).apply(lambda x: x.str.casefold().isin(NOTHING)), "")
    have = {plain(name): name for name in table}
    found = {new: next((have[n] for n in names if n in have), None) for new, names in NAMES.items()}
    if missing := [name for name in NEEDED if not found[name]]:
        raise AuditError(
            f"{path} has no column {' and no column '.join(missing)}. It has "
            f"{', '.join(table.columns.drop('row'))}. Rename the columns that are meant."
        )
    taken = {old: new for new, old in found.items() if old}
    spare = [name for name in table if name not in taken and plain(name) in DERIVED]
    spare += [name for name in NAMES if name in table and name not in taken]
    table = table.drop(columns=spare).rename(columns=taken)
    for name in NAMES.keys() - set(table):
        table[name] = ""
    target = table["target"].str.casefold().map(CLASSES)
    probability = read_number(table["probability"])
    for name, bad, fix in (
        ("target", target.isna(), "Give 1 with the finding and 0 without"),
        ("probability", ~probability.between(0, 1), "Give a number from 0 to 1"),  # NaN is outside
        ("patient", table["patient"] == "", "Fill it in: intervals are by patient"),
        ("id", table["id"].duplicated(), "Give each radiograph one row"),
    ):
        if bad.any():
            first = f"line {table['row'][bad].iloc[0]}: {name} is '{table[name][bad].iloc[0]}'"
            raise AuditError(f"{path}, {first}; {bad.sum()} rows are so. {fix}.")
    table = table.assign(target=target.astype(int), probability=probability)
    table["age"], table["sex"] = read_age(table["age"]), read_sex(table["sex"])
    table["split"] = table["split"].replace(SIDES, regex=True)
    source = found["split"]
    if source and plain(source) != "split" and not {"train", "test"} & set(table["split"]):
        table = table.rename(columns={"split": source}).assign(split="")  # a group: dataset 'NIH'
    if table["target"].nunique() < 2:
        raise AuditError(f"{path}: every target is {target[0]:.0f}. An audit needs both classes.")
    if table["patient"].nunique() < 2:
        raise AuditError(f"{path}: all rows are of patient '{table['patient'][0]}'. Give more.")
    return table.drop(columns="row")


def audited_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the test set, else those of another side than training, else all."""
    split = table["split"]
    sides = split == "test", ~split.isin(["train", ""]), pd.Series(True, table.index)
    return table[next(rows for rows in sides if rows.any())].reset_index(drop=True)
