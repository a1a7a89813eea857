"""Image files in folders, and files and folders that are written whole or not at all."""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cxrlib.data.dicom import is_dicom

SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".dcm"}


def is_film(path: str | Path) -> bool:
    """Say whether a file looks like an image: by its name's end, or by content if it is DICOM.

    What macOS and archives lay beside files (`._NAME`, `__MACOSX`) does not.
    """
    path = Path(path)
    if path.name.startswith("._") or "__MACOSX" in path.parts:
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    return path.name.upper() != "DICOMDIR" and is_dicom(path)


def walk_films(
    paths: str | Path | BinaryIO | Iterable[str | Path | BinaryIO],
) -> Iterator[str | Path | BinaryIO]:
    """Yield the files named, and the image files in the folders named and below them, sorted.

    A binary file object stands for itself, a file that is missing for its name. Links to folders
    are followed where they are named, not below.

    Raises
    ------
    FileNotFoundError
        A folder without an image file, or no path at all.
    """
    if isinstance(paths, str | Path) or hasattr(paths, "read"):
        paths = [paths]
    path = None
    for path in (p if hasattr(p, "read") else Path(p) for p in paths):
        if not (isinstance(path, Path) and path.is_dir()):
            yield path
            continue
        film = None
        for film in _films_below(path):
            yield film
        if film is None:
            raise FileNotFoundError(f"{path} holds no image file ({', '.join(sorted(SUFFIXES))})")
    if path is None:
        raise FileNotFoundError("no film to score: give image files or folders")


def _films_below(folder: Path) -> Iterator[Path]:
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if path.is_dir():
            if not path.is_symlink():  # it may lead in a circle
                yield from _films_below(path)
        elif (path.is_file() or path.is_symlink()) and is_film(path):
            yield path  # a link that leads nowhere, too: it gets its row


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a path to write to; the file there takes the place of `path` once all went well.

    The path given ends as `path` does, for writers that go by the ending. A link is followed.
    """
    path = Path(path).resolve()
    part = path.with_name(f"part.{os.getpid()}.{path.name}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the place of `folder` once all went well.

    At any moment the old content is at `folder` or beside it. A link is followed.
    """
    folder = Path(folder).resolve()
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        old = part.with_suffix(".old")
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
