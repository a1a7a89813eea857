"""Read damaged files in processes of their own, each with a time and a memory limit."""

import multiprocessing
import os
import re
import resource
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np

from cxrlib.data.dicom import patient_key
from cxrlib.data.frontal import find_reason_in_file, find_reasons
from cxrlib.data.images import (
    ImageError,
    colour_of,
    film_digest,
    image_size,
    read_image,
    view_of,
)

SIZE, SECONDS, ADDRESSES = 128, 20, 2 << 30  # pixels; per file; bytes of address space
START = 120  # seconds for a process to import what it needs
READ, CLEAR, WRONG, ENDLESS = "read", "clear", "wrong", "without end"


def read_for_scoring(path: Path) -> np.ndarray:
    """Return a film as scoring reads it, once the check has looked at its pixels."""
    find_reason_in_file(path)
    values = read_image(path, SIZE)
    assert values.shape == (SIZE, SIZE)
    assert isinstance(find_reasons(values[None])["reason"].item(), str)
    return values


def read_whole(path: Path) -> np.ndarray:
    values = read_image(path)
    assert values.shape == image_size(path)[::-1], "the header says another size"
    return values


def key_of(path: Path) -> str:
    """Return the patient's key; where it raises, it raises a ValueError with a sentence."""
    try:
        return patient_key(path)
    except ValueError as error:
        raise ImageError(path, str(error)) from None


# The last one decides whether a film counts as read.
WAYS = (image_size, view_of, key_of, film_digest, colour_of, read_whole, read_for_scoring)


def judge(path: Path, ways: Iterable[Callable], secret: str) -> tuple[str, str]:
    """Return what became of a file, and why, where that is not well."""
    for way in ways:
        try:
            values, result = way(path), READ
        except ImageError as error:
            result, said = CLEAR, error.reason
            if not is_sentence(said) or secret in said:
                return WRONG, f"{way.__name__}: not a sentence: {said!r:.200}"
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(place.filename).name}:{place.lineno}"
            return WRONG, f"{way.__name__}: {type(error).__name__}: {error!s:.150} ({place})"
        if result == READ and isinstance(values, np.ndarray):
            if values.dtype != np.float32 or values.ndim != 2 or not values.size:
                return WRONG, f"{way.__name__}: {values.dtype} {values.shape}"
            if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
                return WRONG, f"{way.__name__}: {values.min()} to {values.max()}"
    return result, said if result == CLEAR else ""


def is_sentence(text: str) -> bool:
    """Say whether a reason can be read: words in one line, and no bytes of the file."""
    bytes_of_a_file = re.search(r"\bb['\"]|\\x|Traceback", text)
    return text.isprintable() and not bytes_of_a_file and 2 <= len(text.split()) <= 40


def _serve(pipe, ways, secret) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders in C write there
    pipe.send((READ, ""))  # all is imported: the time of the first film begins
    while True:
        pipe.send(judge(pipe.recv(), ways, secret))


class _Child:
    """A process that reads one file at a time; `path` is the file, None while it starts."""

    def __init__(self, *given):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, *given), daemon=True)
        self.process.start()
        other.close()
        self.path, self.deadline, self.usable = None, time.monotonic() + START, True

    def give(self, path: Path, seconds: float) -> None:
        self.path, self.deadline = path, time.monotonic() + seconds
        self.pipe.send(path)

    def take(self) -> tuple[str, str] | None:
        """Return what became of the file; None while it is being read."""
        try:
            if self.pipe.poll():
                return self.pipe.recv()
            if time.monotonic() < self.deadline:
                return None
            result = ENDLESS, "still reading"
        except (EOFError, ConnectionError):
            self.process.join()
            result = WRONG, f"the process ended with {self.process.exitcode}"
        if not self.path:
            raise RuntimeError(f"a process that reads films does not start: {result[1]}")
        self.usable = False
        return result

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def read_all(
    paths: Iterable[Path], secret: str, ways=WAYS, seconds: float = SECONDS
) -> Iterator[tuple[Path, str, str]]:
    """Yield each file with what became of it and why; a child that hangs or dies is replaced."""
    paths, crew = iter(paths), []
    try:
        crew += [_Child(ways, secret) for _ in range(os.cpu_count() or 1)]
        while crew:
            wait([child.pipe for child in crew], timeout=0.5)
            for child in list(crew):
                if (result := child.take()) is None:
                    continue
                if child.path:
                    yield child.path, *result
                if not child.usable:
                    child.end()
                    crew[crew.index(child)] = _Child(ways, secret)
                elif path := next(paths, None):
                    child.give(path, seconds)
                else:
                    child.end()
                    crew.remove(child)
    finally:
        for child in crew:
            child.end()
