"""Tables that NIH publishes with ChestX-ray14 (Wang et al., CVPR 2017)."""

from pathlib import Path, PurePosixPath

import pandas as pd

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
    >>> from tempfile import mkdtemp
    >>> path = mkdtemp() + "/Data_Entry_2017.csv"
    >>> with open(path, "w") as file:
    ...     _ = file.write(
    ...         "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position\\n"
    ...         "00000001_000.png,Cardiomegaly|Effusion,1,58,M,PA\\n"
    ...     )
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
    entries.insert(1, "labels", table["Finding Labels"].map(lambda text: tuple(text.split("|"))))
    entries["patient"] = entries["patient"].str.zfill(8)
    entries["age"] = read_age(entries["age"])
    return entries


def read_lists(folder: str | Path) -> dict[str, str]:
    """Return 'train' or 'test' by file name, from `train_val_list.txt` and `test_list.txt`.

    Raises
    ------
    StudyError
        A list is missing or empty, or a name is in both.
    """
    side_of = {}
    for side, name in LISTS.items():
        path = Path(folder, name)
        try:
            names = path.read_text(encoding="utf-8-sig").split()
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
        As `read_lists`; a name has no entry, or a patient has images in both.

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


def add_entries(rows: pd.DataFrame, folder: Path, path: str | Path) -> None:
    """Set age and sex in place, where `path` has them; by name without the ending, PNG at NIH."""
    entries = read_entries(path)
    known = entries.set_index(entries["filename"].map(_stem))[["age", "sex"]]
    known = known.mask(known == "")
    of_row = known[~known.index.duplicated()].reindex(rows["filename"].map(_stem))
    if of_row.isna().all(axis=None):
        raise StudyError(f"{path} has no image of {folder / 'labels.csv'}, compared by file name.")
    for name in known:
        rows[name] = of_row[name].fillna(rows[name].set_axis(of_row.index)).to_numpy()


def _stem(filename: str) -> str:
    return PurePosixPath(filename).stem
