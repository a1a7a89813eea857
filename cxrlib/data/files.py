"""Files from outside, image files in folders, and what is written whole or not at all."""

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

Film = str | Path | BinaryIO  # a binary file object can seek, and is read from its start
AnyFilm = TypeVar("AnyFilm", bound=Film)
DICOM = ".dcm", ".dicom"
SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", *DICOM}
JUNK = {"__MACOSX", "Thumbs.db", "desktop.ini"}  # what systems lay beside files
UNFINISHED = ".cxrlib-part."  # so start the names of what is unfinished; no reader takes them


def regular_file(path: AnyFilm) -> AnyFilm:
    """Return what is given if it can be opened and read to an end: a file, links followed.

    Ask here before opening a file from outside: a pipe and `/proc/kmsg` are waited for, `/dev/zero`
    never ends. A binary file object passes; else a FileNotFoundError or OSError says what it is.
    """
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "a name with a zero byte, which no file has", repr(str(path)))
    if hasattr(path, "read"):
        return path
    if not stat.S_ISREG(os.stat(path).st_mode) or os.path.realpath(path).startswith("/proc/"):
        reason = "a directory, pipe or device, not a regular file"
        raise OSError(errno.EINVAL, reason, str(path))
    return path


def place_to_write(path: str | Path, name: str) -> Path:
    """Return where a path leads, links followed; an error begins with `name`."""
    before, zero, _ = str(path).partition("\0")
    if zero:
        raise ValueError(f"{name} has a zero byte behind '{before}': give another name")
    real = Path(os.path.realpath(path))
    if os.path.lexists(real) and not (real.is_file() or real.is_dir()):
        raise ValueError(f"{name} is {path}, a pipe, a device or a circle of links: give another")
    return real


@contextmanager
def opened(path: Film) -> Iterator[Any]:
    """Give a `regular_file`, opened, from its start; a binary file object stays open."""
    with nullcontext(path) if hasattr(path, "read") else open(regular_file(path), "rb") as file:
        file.seek(0)
        yield file


def file_digest(path: Film) -> str:
    """Return the SHA-256 of a file's content."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_dicom(path: Film) -> bool:
    """Say whether a film is DICOM: by its first bytes, or the end of its name if it has one."""
    try:
        with opened(path) as file:
            start = file.read(132)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return False
    # Without preamble and meta header a file starts with the first elements of group 8.
    known = start[128:] == b"DICM" or re.match(rb"\x08\0[\0\x05\x08\x16\x18]\0", start)
    return bool(known) or str(getattr(path, "name", path)).lower().endswith(DICOM)


def is_film(path: str | Path) -> bool:
    """Say whether a file looks like an image: by its name's end, or by content if it is DICOM."""
    path = Path(path)
    if path.suffix.lower() in SUFFIXES:
        return True
    return path.name.upper() != "DICOMDIR" and is_dicom(path)


def files_below(folder: str | Path, follow: bool = False) -> Iterator[str]:
    """Yield the files below a folder, those of each sorted; hidden ones and `JUNK` are none.

    Links to folders are passed over, or followed, each folder once.
    """
    seen, waiting = set[tuple](), [str(folder)]  # no recursion: folders may be nested deeply
    while waiting:
        path = waiting.pop()
        if not os.path.isdir(path):
            yield path
        elif (follow or not seen or not os.path.islink(path)) and os.stat(path)[1:3] not in seen:
            seen.add(os.stat(path)[1:3])  # number and device: a link may lead in a circle
            names = sorted(set(os.listdir(path)) - JUNK, reverse=True)
            waiting += (os.path.join(path, name) for name in names if name[0] != ".")


def walk_films(paths: Film | Iterable[Film]) -> Iterator[Film]:
    """Yield the files named, and the image files in the folders named and below them, sorted.

    A binary file object stands for itself, a file that is missing for its name. A FileNotFoundError
    names a folder without an image file, or says that there is no path at all.
    """
    if isinstance(paths, str | Path) or hasattr(paths, "read"):
        paths = [paths]
    path = None
    for path in (p if hasattr(p, "read") else Path(p) for p in paths):
        films = iter([path])
        if isinstance(path, Path) and path.is_dir():
            films = filter(is_film, map(Path, files_below(path)))
        if (first := next(films, None)) is None:
            raise FileNotFoundError(f"{path} holds no image file ({', '.join(sorted(SUFFIXES))})")
        yield first
        yield from films
    if path is None:
        raise FileNotFoundError("no film to score: give image files or folders")


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Give a path to write to; the file there takes the place of `path` once all went well.

    The path given ends as `path` does, for writers that go by the ending. A link is followed.
    """
    path = place_to_write(path, "the file to write")
    with _part_beside(path, Path.touch) as part:
        yield part
        _sync(part)
        os.replace(part, path)


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the place of `folder` once all went well.

    At any moment the old content or the new is at `folder`, where the system exchanges folders in
    one step (Linux, most file systems). Elsewhere a kill may leave none: `take_back` mends that.
    """
    folder = place_to_write(folder, "the folder to write")
    folder.parent.mkdir(parents=True, exist_ok=True)
    take_back(folder)
    with _part_beside(folder, Path.mkdir) as part:
        yield part
        for file in filter(Path.is_file, part.rglob("*")):
            _sync(file)
        folder.mkdir(exist_ok=True)
        if not _exchange(part, folder):
            shutil.rmtree(_aside(folder), ignore_errors=True)
            os.rename(folder, _aside(folder))
            os.rename(part, folder)
            shutil.rmtree(_aside(folder), ignore_errors=True)


def take_back(folder: Path) -> None:
    """Put a folder back at its place that a killed `whole_folder` had moved aside."""
    if not folder.exists() and _aside(folder).exists():
        os.rename(_aside(folder), folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".old.{folder.name}")


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where system or file system cannot."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    paths = here, os.fsencode(one), here, os.fsencode(other)
    with suppress(AttributeError):  # not on this system
        return not ctypes.CDLL(None).renameat2(*paths, exchange)
    return False


@contextmanager
def _part_beside(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Give a new file or folder beside `path`, locked while in use, and delete it if it is left."""
    _tidy(path.parent)
    with ExitStack() as stack:
        part = None
        while not (part and part.exists()):  # or it was taken for left over before it was locked
            part = path.with_name(f"{UNFINISHED}{secrets.token_hex(6)}{path.suffix}")
            try:
                make(part)
            except OSError as error:  # of a name that nobody gave
                raise OSError(error.errno, error.strerror, str(path)) from error
            with suppress(OSError):
                stack.enter_context(locked(part))
        try:
            yield part
        finally:
            _delete(part)


@cache
def _tidy(folder: Path) -> None:
    """Delete what killed processes left in a folder; once per process, since folders are large."""
    for path in folder.glob(f"{UNFINISHED}*"):
        with suppress(OSError), locked(path, fcntl.LOCK_NB):
            _delete(path)


@contextmanager
def locked(path: Path, how: int = 0) -> Iterator[None]:
    """Hold a lock on a file or folder, which ends with the process at the latest."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(handle)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Have a file's content on the disk, so that a power cut after a rename does not empty it."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
