"""Tables with a column per finding: one's own, CheXpert's and MIMIC-CXR's.

Each function turns (table, tables beside it, said) with names in plain letters into rows such as
`labels.csv` has, several findings in a cell joined by '|'.
"""

import pandas as pd

from cxrlib.data.labels import NO_FINDING, VOCABULARY, spelled_as
from cxrlib.data.table import StudyError, plain

PRESENT, ABSENT, DOUBT = {"1", "1.0", "yes", "true"}, {"0", "0.0", "no", "false"}, {"-1", "-1.0"}
NAMES = "filename path imageindex imageid image imagename filepath imagepath dicomid".split()


def beside_of(tables: list[pd.DataFrame], *columns: str) -> pd.DataFrame | None:
    return next((table for table in tables if set(columns) <= set(table)), None)


def read_wide(table, beside, said):
    given = next((name for name in NAMES if name in table), None)
    values = table.drop(
        columns=["row", given, "patientid", "subjectid", "studyid"], errors="ignore"
    )
    values = values.apply(lambda column: column.str.casefold())
    written, kinds = table.attrs["written"], PRESENT | ABSENT | DOUBT | {""}
    known = [name for name in values if spelled_as(name, VOCABULARY)]
    for name in known:
        if odd := set(values[name]) - kinds:
            raise StudyError(
                f"the column '{written[name]}' holds '{min(odd)}': write 1, 0, -1 (uncertain) or "
                "nothing in a column that is named after a finding"
            )
    own = [n for n in values if set(values[n]) <= kinds and set(values[n]) & (PRESENT | DOUBT)]
    values = values[list(dict.fromkeys(known + own))].rename(columns=written)
    present, doubt, absent = (values.isin(kind) for kind in (PRESENT, DOUBT, ABSENT))
    healthy, uncertain = spelled_as(NO_FINDING, values), doubt.any(axis=1).sum()
    if healthy is None:
        present[NO_FINDING] = absent.all(axis=1)
        said.append(f"{present[NO_FINDING].sum()} films with 0 for each finding: '{NO_FINDING}'")
    elif "Support Devices" in values:
        beside = present[healthy] & present["Support Devices"]
        present["Support Devices"] &= ~beside
        doubt["Support Devices"] |= beside
        said.append(
            f"{beside.sum()} films have '{healthy}' and Support Devices, which are no disease: "
            f"they count as '{NO_FINDING}', and are left out of a question about devices"
        )
    said.append(
        f"{uncertain} films have an uncertain finding (-1): they are left out of a "
        "question about it. A blank counts as not present"
    )
    rows = table.drop(columns=[plain(name) for name in values]).rename(columns={given: "filename"})
    return rows.assign(label=_names(present), doubt=_names(doubt))


def _names(marks: pd.DataFrame) -> list[str]:
    """Return the names of the columns that are marked in each row, joined by '|'."""
    names = marks.columns.to_numpy()
    return ["|".join(names[row]) for row in marks.to_numpy(bool)]


def read_chexpert(table, beside, said):
    lateral = table["frontallateral"].str.casefold().str.startswith("lat")
    rows = table.drop(columns=["frontallateral", "appa"], errors="ignore")
    rows["view"] = table.get("appa", pd.Series("", table.index)).mask(lateral, "lateral")
    rows.attrs = table.attrs
    return read_wide(rows, beside, said)


def read_mimic(table, beside, said):
    films = beside_of(beside, "dicomid", "studyid", "viewposition")
    if films is None:
        raise StudyError(
            "MIMIC-CXR's labels are of studies, not of films: put mimic-cxr-2.0.0-metadata.csv "
            "beside them, which names the films of each study and their views"
        )
    films = films[["dicomid", "studyid", "viewposition"]]
    sides = beside_of(beside, "dicomid", "split")
    if sides is not None:
        films = films.merge(sides[["dicomid", "split"]], "left", "dicomid").fillna("")
    rows = table.merge(films, "inner", "studyid")
    rows.attrs = table.attrs
    return read_wide(rows, beside, said)
