"""A table as spreadsheets and publishers save it, read as text, and what its cells mean."""

import csv
import difflib
import io
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pandas as pd

BOX = ["xmin", "ymin", "xmax", "ymax"]
# Names of columns in plain letters; of several in one table, the first is taken.
KNOWN = {
    "filename": ("filename",),
    "label": ("label", "labels"),
    "patient": ("patientid", "patient", "subjectid", "subject", "patientno", "personid", "mrn"),
    "view": ("view", "viewposition", "projection"),
    "sex": ("sex", "gender", "patientsex", "patientgender", "patientsexdicom"),
    "age": ("age", "patientage"),
    "split": ("split", "subset", "partition"),
    "original_width": ("originalwidth", "originalimagewidth", "width"),
    "original_height": ("originalheight", "originalimageheight", "height"),
    "x": ("x", "bboxx"),
    "y": ("y", "bboxy"),
    "w": ("w", "width", "bboxw", "bboxwidth"),
    "h": ("h", "height", "bboxh", "bboxheight"),
} | {name: (name,) for name in BOX}
SEXES = {"F": "f female woman girl w weiblich femme", "M": "m male man boy männlich homme"}
SEXES = {word: sex for sex, words in SEXES.items() for word in words.split()}
UNKNOWN = {"", "u", "unknown", "n/a", "na", "nan", "none", "?", "-", "o", "other", "unk", "frontal"}


class StudyError(ValueError):
    """A study that cannot be used, with what is wrong and the way out."""


def plain(text: str) -> str:
    """Return a name without case, blanks, underscores, hyphens or other signs."""
    return re.sub(r"[\W_]+", "", text.casefold())


def read_table(path: Path, known: Callable[[set], bool]) -> tuple[pd.DataFrame, list[str]]:
    """Read a table of any encoding, separator and position of its header.

    Parameters
    ----------
    known : says whether plain names of columns are those of a table that can be used

    Returns
    -------
    table : DataFrame of str, NFC, stripped, with `row`, the line of the file
    said : what was assumed

    Raises
    ------
    StudyError
    """
    text, said = _decode(path)
    lines = text.split("\n")
    skip = int(lines[0].strip('" ').casefold().startswith("sep="))
    places = [(n, sep) for n in range(skip, min(skip + 20, len(lines))) for sep in ",;\t|"]
    columns = [{plain(cell) for cell in lines[n].split(sep)} for n, sep in places]
    start, separator = next(
        (place for place, names in zip(places, columns, strict=True) if known(names)), (skip, ",")
    )
    if start > skip:
        said.append(f"the column names stand on line {start + 1}; the lines above are left out")
    reader = csv.reader(io.StringIO("\n".join(lines[start:])), delimiter=separator, strict=True)
    try:
        rows = [(reader.line_num + start, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise StudyError(
            f"{path} is no comma-separated UTF-8 text: {error} in line {reader.line_num + start}. "
            "Is a quotation mark open there?"
        ) from None
    if not rows:
        raise StudyError(f"{path} is empty. It needs the columns filename and label.")
    names = rows.pop(0)[1]
    while names and not names[-1]:
        names.pop()
    return _frame(path, names, rows, separator), said


def _frame(path: Path, names: list[str], rows: list, separator: str) -> pd.DataFrame:
    width = len(names)
    rows = [(line, cells) for line, cells in rows if any(cells)]  # blank lines mean nothing
    longer = [(line, cells) for line, cells in rows if any(cells[width:])]
    if longer and len(longer) == len(rows):
        raise StudyError(
            f"{path} has more fields in a row than column names. Name every column, and delete "
            "commas at the ends of lines."
        )
    if longer:
        line, cells = longer[0]
        kind = "comma" if separator == "," else repr(separator)
        raise StudyError(
            f"{path} is no {kind}-separated UTF-8 text: "
            f"expected {width} fields in line {line}, saw {len(cells)}"
        )
    plains = [plain(name) for name in names]
    twice = [n for k, n in enumerate(names) if plains[k] and plains[k] in plains[:k]]
    if twice:
        raise StudyError(f"{path} has two columns named '{twice[0]}'. Rename or delete one.")
    if not rows:
        raise StudyError(f"{path} has column names but no row. Add one row a finding.")
    cells = [(row + [""] * width)[:width] for _, row in rows]
    table = pd.DataFrame(cells, columns=names, dtype=str)
    return table.drop(columns="", errors="ignore").assign(row=[line for line, _ in rows])


def _decode(path: Path) -> tuple[str, list[str]]:
    import gzip

    said = []
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    if content[:2] == b"PK":
        raise StudyError(f"{path} is a workbook, not text. Save it as 'CSV UTF-8'.")
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = content.decode("utf-16")
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = content.decode("cp1252", errors="replace")
            said.append("not UTF-8, and read as Windows-1252: look at letters with accents")
    if "\0" in text:
        text = text.replace("\0", "")
        said.append("zero bytes in the text are left out")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", text), said


def name_columns(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str], dict]:
    """Give a table the names in `KNOWN`, whatever their case, blanks and underscores.
    Returns
    -------
    table, with those columns only; what is said of others; the names as they were, by new name
    """
    have = {plain(name): name for name in table if name != "row"}
    boxed = all(set(KNOWN[name]) & set(have) for name in "xywh")
    taken = {}
    for new, names in KNOWN.items():
        if new in "xywh" and not boxed:
            continue
        if boxed and new.startswith("original"):
            names = names[:-1]  # width and height are the box's
        if found := [have[name] for name in names if name in have]:
            taken[new] = found[0]
    wanted = {name: new for new, names in KNOWN.items() for name in names}
    said = []
    for name in table.columns.difference([*taken.values(), "row"]):
        near = difflib.get_close_matches(plain(name), wanted, n=1, cutoff=0.8)
        near += [
            word
            for word in ("patient", "age", "sex")
            if word in re.split(r"[\W_]+", name.casefold())
        ]
        if near:
            new = wanted.get(near[0], near[0])
            said.append(f"the column '{name}' looks like {new}, and is not used")
    table = table[["row", *taken.values()]].set_axis(["row", *taken], axis=1)
    return table, said, taken


def read_number(text: pd.Series) -> pd.Series:
    """Return numbers, with a point or a decimal comma; NaN for others."""
    return pd.to_numeric(
        text.str.replace(r"^(-?\d+),(\d+)$", r"\1.\2", regex=True), errors="coerce"
    )


def read_age(text: pd.Series) -> pd.Series:
    """Return years of '58', '58,5', '58 years', '058Y', '011M' or '003D'; NaN for others.

    Above 120 is NaN, too.
    """
    parts = text.str.extract(
        r"^\s*(\d+(?:[.,]\d*)?)\s*(?:([YMD])|(years?|yrs?|months?|days?))?\s*$", re.I
    )
    unit = parts[1].fillna(parts[2].str[0]).fillna("Y").str.upper()
    years = read_number(parts[0]) * unit.map({"Y": 1, "M": 1 / 12, "D": 1 / 365.25})
    return years.where(years <= 120).astype(float)


def read_sex(text: pd.Series) -> pd.Series:
    """Return 'F', 'M', or '' for others."""
    return text.str.casefold().map(SEXES).fillna("")


def read_view(text: pd.Series) -> pd.Series:
    """Return 'PA', 'AP', 'lateral', or '' for others, of words such as 'AP supine', 'LL' or 'L'."""
    words = text.str.upper().str.replace(r"[\W_]+", " ", regex=True).str.strip()
    side = words.str.extract(r"^(PA|AP)\b")[0]
    lateral = words.str.fullmatch(r"L|R|LL|RL|LAT|LATERAL|(LEFT|RIGHT) LATERAL|LATERAL .*")
    spelled = words.str.extract(r"^(POSTERO ?ANTERIOR|ANTERO ?POSTERIOR)")[0]
    side = side.fillna(spelled.str[0].map({"P": "PA", "A": "AP"}))
    return side.where(~lateral, "lateral").fillna("")
