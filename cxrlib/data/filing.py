"""Which file a row means, what the file's header says, and which files are copies of another."""

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from cxrlib.data.files import SUFFIXES, files_below, is_dicom, opened
from cxrlib.data.images import ImageError, film_digest, read_header, read_image
from cxrlib.data.labels import ProblemLog
from cxrlib.data.table import name_view

VIEWED = re.compile(r"(?:/view\d+_|_vp-)([a-z]+)[_.]", re.I)
CHUNK = 64  # files that a thread reads before it is given more


def list_files(root: Path) -> list[str]:
    """Return the files below a folder, relative to it, sorted; links are followed once."""
    found = files_below(root, follow=True) if root.is_dir() else ()
    return sorted(path.removeprefix(str(root)).lstrip("/") for path in found)


def match_files(rows: pd.DataFrame, root: Path, log: ProblemLog) -> pd.DataFrame:
    """Return rows whose `filename` is the one file below `root` that their name can mean.

    The name ends as the file's path does, or the path as the name does. Case, NFD and a missing or
    other ending are forgiven where one file is left.
    """
    files, ends = list_files(root), defaultdict(list)
    for file in files:
        for way in _ways(file):
            for tail in _tails(way):
                ends[tail].append((file, way))
    meant, bad = {}, {}
    for name in rows.loc[~rows["filename"].isin(files), "filename"].unique():
        found, ways = list[str](), _ways(name.removeprefix("file://").rstrip("/\\"))
        for way in (way.lstrip("/") for way in ways):
            for tail in _tails(way):  # the whole of the name, or of the file's path
                found = found or [
                    file for file, whole in ends.get(tail, ()) if tail in (way, whole)
                ]
        if len(found) == 1:
            meant[name] = found[0]
        elif not name:
            bad[name] = "no file name", "name the image file"
        elif found:
            bad[name] = f"{len(found)} files have this name", f"write which, such as {found[0]}"
        elif name[0] in "/\\" or ".." in ways[0].split("/") or ":" in name:
            bad[name] = "name leaves images/", "put the file into images/ and use its bare name"
        else:
            bad[name] = "file missing in images/", "add the file or delete the row"
    log.add_films(rows, bad)
    odd = [n for n, f in meant.items() if _ways(n)[0] not in _ways(f)[0] or len(_ways(n)) == 1]
    if odd:
        log.note(
            f"{len(odd)} names are read as those of the only files they can mean, such as "
            f"'{odd[0]}' as '{meant[odd[0]]}'"
        )
    return rows.assign(filename=[meant.get(name, name) for name in rows["filename"].tolist()])


def read_headers(rows: pd.DataFrame, root: Path, decode: bool, log: ProblemLog) -> pd.DataFrame:
    """Return width and height in pixels, bytes (0 for DICOM), inode and view of each readable film.

    The view is that of a DICOM header, or of a name as CheXpert and BIDS write them.
    """
    films, bad = log.kept(rows)["filename"].unique().tolist(), {}

    def examine(name: str):
        path = f"{root}/{name}"
        try:
            with opened(path) as file:  # once: there may be 100,000
                state, (width, height, view) = os.fstat(file.fileno()), read_header(file)
            if decode:
                read_image(path)
        except FileNotFoundError:
            bad[name] = "file missing in images/", "add the file or delete the row"
        except (OSError, ImageError) as error:
            reason = error.reason if isinstance(error, ImageError) else error.strerror
            bad[name] = f"unreadable: {reason}", "replace the file or delete the row"
        else:
            length = 0  # of DICOM, whose headers differ, though films are equal
            if view is None:
                length, told = state.st_size, VIEWED.search(name)
                view = name_view(told[1]) if told else ""
            return width, height, length, f"{state.st_dev}/{state.st_ino}", view

    found = dict(zip(films, _each(examine, films, "reads films"), strict=True))
    log.add_films(rows, bad)
    good = {name: facts for name, facts in found.items() if name not in bad}
    return pd.DataFrame(good.values(), list(good), ["width", "height", "bytes", "inode", "view"])


def take_views(rows: pd.DataFrame, headers: pd.DataFrame, log: ProblemLog) -> pd.DataFrame:
    """Return rows with the views of `headers` where the table has none."""
    views = rows["filename"].map(headers["view"]).astype(object).fillna("")  # not float, if none
    odd = rows.index[(rows["view"] != "") & (views != "") & (rows["view"] != views)]
    problem = "the view is not that of the DICOM header or of the file's name"
    log.add(odd, problem, "look at the film", "the table's counts")
    return rows.assign(view=rows["view"].mask(rows["view"] == "", views))


def find_copies(headers: pd.DataFrame, root: Path) -> list[list[str]]:
    """Return groups of films that are equal, see `film_digest`, in the order of `headers`.

    Only films of one size in bytes and DICOM are opened: 8 KiB, and all where those are equal.
    """
    found = headers.drop_duplicates("inode").set_index("inode", append=True)["bytes"]
    for look in (_glance, _digest):
        found = found[found.duplicated(keep=False)]
        paths = [f"{root}/{name}" for name, _ in found.index]
        found = pd.Series(_each(look, paths, "compares films"), found.index, dtype=object)
    same = found[found.duplicated(keep=False)].droplevel(0).to_dict()
    groups = defaultdict(list)
    for name, inode in headers["inode"].items():
        groups[same.get(inode, inode)].append(name)
    return [names for names in groups.values() if len(names) > 1]


def _each(work: Callable, names: list[str], title: str) -> list:
    """Return what `work` makes of each name, by threads, with a bar where there are many."""
    with ThreadPool((os.cpu_count() or 1) + 4) as pool:  # some wait for the disk
        found = pool.imap(work, names, CHUNK)
        few = len(names) < 16 * CHUNK
        return list(tqdm(found, title, len(names), unit="film", disable=few))


def _glance(path: str) -> str:
    """Return a hash of a file's start and end, of DICOM of a part behind the header."""
    with open(path, "rb") as file:
        size, parts = file.seek(0, os.SEEK_END), []
        behind = size - 2 ** (size.bit_length() - 2)  # counted from the end
        for place in (behind,) if is_dicom(path) else (0, max(0, size - 4096)):
            file.seek(place)
            parts.append(file.read(4096))
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _digest(path: str) -> str:
    try:
        return film_digest(path)
    except (OSError, ImageError):  # only its header can be read
        return path


def _ways(name: str) -> list[str]:
    """Return a path as any system may write it, and the same without its ending."""
    key = unicodedata.normalize("NFC", name).replace("\\", "/").removeprefix("./").casefold()
    stem, dot, ending = key.rpartition(".")
    return [key, stem] if stem and dot + ending in SUFFIXES else [key]


def _tails(way: str) -> list[str]:
    """Return the ways in which a path may end, the longest first."""
    parts = way.split("/")
    return ["/".join(parts[n:]) for n in range(len(parts))]
