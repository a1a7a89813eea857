"""A table as spreadsheets and publishers save it, read as text, and what its cells mean."""

import csv
import difflib
import gzip
import io
import re
import tomllib
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from cxrlib.data.files import regular_file

# What is understood in tables, file names and headers.
WORDS = tomllib.loads(Path(__file__).with_name("words.toml").read_text(encoding="utf-8"))
LARGEST, LONGEST = 2**28, 2**21  # bytes and lines of a table, inflated
BOX = ["xmin", "ymin", "xmax", "ymax"]
ORIGINAL = ["original_width", "original_height"]
KNOWN = {new: tuple(names.split()) for new, names in WORDS["columns"].items()}
MEANT = {
    kind: {word: name for name, words in WORDS[kind].items() for word in words.split()}
    for kind in ("findings", "sexes", "sides", "views")
}
LONG = {"PA": r"POSTER(O|IOR) ?ANTERIOR|\bP A\b", "AP": r"ANTER(O|IOR) ?POSTERIOR|\bA P\b"}
LONG |= {"": r"LAT(ERAL)? DECUB\w*"}  # how the patient lies
CENTRES = {"xcenter", "xcentre", "centerx", "cx", "x"}  # of boxes, which are not read
UNKNOWN = {"", "u", "unknown", "n/a", "na", "nan", "none", "?", "-", "o", "other", "unk", "frontal"}


class StudyError(ValueError):
    """A study that cannot be used, with what is wrong and the way out."""


def plain(text: str) -> str:
    """Return a name without case, blanks, underscores, hyphens or other signs."""
    return re.sub(r"[\W_]+", "", text.casefold())


def read_table(path: Path, known: Callable[[set], object]) -> tuple[pd.DataFrame, list[str]]:
    """Return a table of any encoding, separator and place of its header, and what was assumed.

    Cells are text, in NFC, stripped; `row` is the line of the file. `known` says whether plain
    names of columns are those of a table that can be used.
    """
    text, said = _decode(path)
    lines = text.split("\n", 21)
    skip = int(lines[0].strip('" ').casefold().startswith("sep="))
    places = [(n, sep) for n in range(skip, min(skip + 20, len(lines))) for sep in ",;\t|"]
    found = (p for p in places if known({plain(cell) for cell in lines[p[0]].split(p[1])}))
    start, separator = next(found, (skip, ","))
    if start > skip:
        said.append(f"the column names stand on line {start + 1}; the lines above are left out")
    reader = csv.reader(io.StringIO("\n".join(lines[start:])), delimiter=separator, strict=True)
    rows = []
    try:
        for row in reader:
            if reader.line_num > LONGEST:
                raise StudyError(f"{path} is too long: tables of up to {LONGEST:,} lines are read")
            if any(cells := [cell.strip() for cell in row]):  # blank lines mean nothing
                rows.append((reader.line_num + start, cells))
    except csv.Error as error:
        raise StudyError(
            f"{path} is no comma-separated UTF-8 text: {error} in line {reader.line_num + start}. "
            "Is a quotation mark open there?"
        ) from None
    if not rows:
        raise StudyError(f"{path} is empty. It needs the columns filename and label.")
    names = rows.pop(0)[1]
    width = max(n for n, name in enumerate(names, 1) if name)
    names = names[:width]
    plains = [plain(name) for name in names]
    if twice := [name for name in names if plain(name) and plains.count(plain(name)) > 1]:
        raise StudyError(f"{path} has two columns named '{twice[-1]}'. Rename or delete one.")
    if not rows:
        raise StudyError(f"{path} has column names but no row. Add one row a finding.")
    if longer := [(line, cells) for line, cells in rows if any(cells[width:])]:
        raise StudyError(
            f"{path} has {width} column names, and more fields in line {longer[0][0]}. Name every "
            "column, and delete commas at the ends of lines."
        )
    filled = [(cells + [""] * width)[:width] for _, cells in rows]
    table = pd.DataFrame(filled, columns=names, dtype=str).drop(columns="", errors="ignore")
    return table.assign(row=[line for line, _ in rows]), said


def _decode(path: Path) -> tuple[str, list[str]]:
    """Return a file's text in NFC, with lines that end in a line feed, and what was assumed."""
    said = []
    try:
        with (gzip.open if path.suffix == ".gz" else open)(regular_file(path), "rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise StudyError(f"{path} cannot be read: {reason}. Fetch or save it again.") from error
    if len(content) > LARGEST:
        raise StudyError(f"{path} is too large: tables of up to {LARGEST:,} bytes are read")
    if content[:2] in (b"PK", b"\xd0\xcf", b"<h", b"<t", b"<!", b"<?"):
        raise StudyError(f"{path} is a workbook, not text. Save it as 'CSV UTF-8'.")
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
        said.append("not UTF-8, and read as Windows-1252: look at letters with accents")
    if "\0" in text:
        said.append("zero bytes in the text are left out")
    text = re.sub("[\0\ufeff\u200b]", "", text).replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", text), said


def name_columns(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str], dict[str, str]]:
    """Return the columns in `KNOWN` under its names, what is said of others, and the old names."""
    have = {plain(name): name for name in table if name != "row"}
    known = dict(KNOWN)
    if not {*KNOWN["xmax"]} & set(have):  # a box by its corner and size
        known |= {"x": ("x", "bboxx", "left", *KNOWN["xmin"])}
        known |= {"y": ("y", "bboxy", "top", *KNOWN["ymin"])}
    box = all(set(known[name]) & set(have) for name in "xywh")
    if box or CENTRES & set(have):
        known |= {n: known[n][:-1] for n in ORIGINAL}  # width and height are the box's
    found = {new: next((have[n] for n in names if n in have), "") for new, names in known.items()}
    taken = {new: name for new, name in found.items() if name and (box or new not in "xywh")}
    wanted = {name: new for new, names in KNOWN.items() for name in names}
    said = []
    for name in table.columns.difference([*taken.values(), "row"]):
        words = re.split(r"[\W_]+", name.casefold())
        near = [word for word in ("patient", "age", "sex") if word in words]
        near += difflib.get_close_matches(plain(name), wanted, n=1, cutoff=0.8)
        alike = f" looks like {wanted.get(near[0], near[0])}, and" if near else ""
        said.append(f"the column '{name}'{alike} is not used")
    return table[["row", *taken.values()]].set_axis(["row", *taken], axis=1), said, taken


def read_number(text: pd.Series) -> pd.Series:
    """Return numbers, with a point or a decimal comma; NaN for others."""
    return pd.to_numeric(
        text.str.replace(r"^(-?\d+),(\d+)$", r"\1.\2", regex=True), errors="coerce"
    )


def read_age(text: pd.Series) -> pd.Series:
    """Return years, up to 120, of '58', '58,5', '58 years', '058Y', '011M' or '003D'; else NaN."""
    parts = text.str.extract(r"^\s*(\d+(?:[.,]\d*)?)\s*([YMD]|(?:year|yr|month|day)s?)?\s*$", re.I)
    unit = parts[1].fillna("Y").str[0].str.upper()
    years = read_number(parts[0]) * unit.map({"Y": 1, "M": 1 / 12, "D": 1 / 365.25})
    return years.where(years <= 120).astype(float)


def read_sex(text: pd.Series) -> pd.Series:
    """Return 'F', 'M', or '' for others."""
    return text.map(plain).map(MEANT["sexes"]).fillna("")


def name_view(text: str) -> str:
    """Return 'PA', 'AP' or 'lateral' for words such as 'Erect PA', 'AP_supine' or 'LL', else ''."""
    words = re.sub(r"[\W_]+", " ", text.upper()).strip()
    for view, pattern in LONG.items():
        words = re.sub(pattern, view, words)
    found = {MEANT["views"][word] for word in words.split() if word in MEANT["views"]}
    if words in ("L", "R"):
        return "lateral"
    return found.pop() if len(found) == 1 else ""
