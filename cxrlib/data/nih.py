"""Tables that NIH publishes with ChestX-ray14 (Wang et al., CVPR 2017)."""

from pathlib import Path, PurePosixPath

import pandas as pd

from cxrlib.data.files import regular_file
from cxrlib.data.table import StudyError, read_age, read_table

ENTRIES = "Data_Entry_2017*.csv"  # the later edition, v2020, sorts after the first
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}
ENTRY_COLUMNS = {
    "Image Index": "filename",
    "Patient ID": "patient",
    "Patient Age": "age",
    "Patient Gender": "sex",
    "View Position": "view",
}


def read_entries(path: str | Path) -> pd.DataFrame:
    """Read `Data_Entry_2017.csv` or `Data_Entry_2017_v2020.csv` of NIH's ChestX-ray14.

    Returns
    -------
    DataFrame, one row an image
        filename, labels (tuple of str), patient (eight digits, as in file names), age (years, NaN
        where none or above 120), sex ('F' or 'M'), view.

    Raises
    ------
    StudyError
        No such file, or columns missing.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp(), "Data_Entry_2017.csv")
    >>> names = "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position"
    >>> _ = path.write_text(f"{names}\\n1.png,Cardiomegaly|Effusion,1,58,M,PA\\n")
    >>> cxr.read_entries(path)[["labels", "patient"]].values.tolist()
    [[('Cardiomegaly', 'Effusion'), '00000001']]
    """
    try:
        table, _ = read_table(Path(path), lambda names: "imageindex" in names)
    except (OSError, ValueError) as error:
        raise StudyError(f"{path} cannot be read as a table: {error}") from error
    missing = {*ENTRY_COLUMNS, "Finding Labels"} - set(table)
    if missing:
        raise StudyError(
            f"{path} lacks the column {', '.join(sorted(missing))}. Give NIH's Data_Entry_2017.csv."
        )
    entries = table[list(ENTRY_COLUMNS)].rename(columns=ENTRY_COLUMNS)
    entries.insert(1, "labels", table["Finding Labels"].str.split("|").map(tuple))
    patient, age = entries["patient"].str.zfill(8), read_age(entries["age"])
    return entries.assign(patient=patient, age=age)


def read_lists(folder: str | Path) -> dict[str, str]:
    """Return 'train' or 'test' by file name; a StudyError says why the lists cannot be used."""
    side_of = {}
    for side, name in LISTS.items():
        path = Path(folder, name)
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
    return side_of


def read_official_split(folder: str | Path, entries: pd.DataFrame) -> pd.Series:
    """Read who is tested at NIH, from `train_val_list.txt` and `test_list.txt`.

    It is NIH's split, not that of `split_of`: the two do not agree, and a result on one cannot be
    set beside a result on the other. `read_study` takes it where both lists lie in the study.

    Parameters
    ----------
    folder : holds both lists, one file name a line
    entries : of the same edition, as `read_entries` gives them

    Returns
    -------
    Series of 'train' and 'test', '' for an image in neither list, with the index of `entries`

    Raises
    ------
    StudyError
        A list is missing or empty, a name is in both or has no entry, or a patient is in both.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> import pandas as pd
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> folder = Path(mkdtemp())
    >>> _ = (folder / "train_val_list.txt").write_text("1.png\\n")
    >>> _ = (folder / "test_list.txt").write_text("2.png\\n")
    >>> entries = pd.DataFrame({"filename": ["1.png", "2.png"], "patient": ["1", "2"]})
    >>> cxr.read_official_split(folder, entries).tolist()
    ['train', 'test']
    """
    side_of = read_lists(folder)
    if unknown := side_of.keys() - set(entries["filename"]):
        raise StudyError(
            f"{min(unknown)}, one of {len(unknown)}, stands in a list of {folder}, but has no "
            "entry. Give lists and table of the same edition."
        )
    sides = entries["filename"].map(side_of).fillna("")
    counts = sides[sides != ""].groupby(entries["patient"]).nunique()
    if (counts > 1).any():
        raise StudyError(
            f"{folder}: patient {counts.idxmax()}, one of {(counts > 1).sum()}, has images in both "
            "lists. A test on them flatters: move all images of a patient to one side."
        )
    return sides


def add_entries(rows: pd.DataFrame, folder: Path, path: Path) -> None:
    """Set age and sex in place, where `path` has them; by name without the ending, PNG at NIH."""
    entries = read_entries(path)
    known = entries.set_index(entries["filename"].map(stem))[["age", "sex"]]
    known = known.mask(known == "")[~known.index.duplicated()]
    of_row = known.reindex(rows["filename"].map(stem)).set_axis(rows.index)
    if of_row.isna().all(axis=None):
        raise StudyError(f"{path} has no image of {folder / 'labels.csv'}, compared by file name.")
    rows[["age", "sex"]] = of_row.fillna(rows[["age", "sex"]])


def stem(name: str) -> str:
    return PurePosixPath(name).stem
