"""A table of scores in whole parts beside its file, so that work that is killed can go on."""

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import pandas as pd
from filelock import FileLock, Timeout

from cxrlib.data.files import UNFINISHED, place_to_write, whole_file
from cxrlib.scoring.tables import COLUMNS, is_parquet, is_scores, shield, write_parquet

LOCK = "lock"
OURS = re.compile(r"\.cxrlib-part\..+|\d{7,}\.csv|lock")
CHUNK = 1024  # films listed at a time


class OutputError(ValueError):
    """A table that cannot be written, with what is kept and the way out."""


class Parts:
    """Scores on their way to `out`; what is done stands in the folder `OUT.parts`.

    Attributes
    ----------
    out : Path, Parquet where it ends so, else CSV in UTF-8
    part : films a part
    count : films in all
    """

    def __init__(self, out: Path, part: int):
        self.out, self.part, self.count = out, part, 0
        self.folder = out.with_name(f"{out.name}.parts")
        self._listed: IO[str] = io.StringIO()  # the films, on disk once there is a folder

    @property
    def done(self) -> int:
        """The number of films in parts that are there."""
        return sum(min(self.part, self.count - n * self.part) for n in self._numbers())

    def todo(self) -> Iterator[tuple[int, list[str]]]:
        """Yield number and films of each part that is not there yet."""
        self._listed.seek(0)
        for number in range(-(-self.count // self.part)):
            films = list(islice(self._listed, self.part))
            if not self._file(number).exists():
                yield number, [json.loads(film) for film in films]

    def write(self, number: int, rows: list[tuple]) -> None:
        """Write the rows of one part, in the order of COLUMNS; OutputError as for a full disk."""
        table = pd.DataFrame(rows, columns=COLUMNS)
        table["path"] = table["path"].map(shield)
        content = table.to_csv(index=False, header=False).encode()
        with self._told(), whole_file(self._file(number)) as part:
            part.write_bytes(self._checksum(number, content) + b"\n" + content)

    def finish(self) -> Counter:
        """Put the parts together in `out`, delete them, and return the films by status.

        OutputError as for a full disk, or where a part was cut or changed; whole parts are kept.
        """
        counts: Counter = Counter()
        parquet, beside = is_parquet(self.out), {"prefix": UNFINISHED, "dir": self.folder}
        with self._told():
            with whole_file(self.out) as whole:
                with TemporaryFile(**beside) if parquet else open(whole, "wb") as table:
                    table.write(f"{','.join(COLUMNS)}{os.linesep}".encode())
                    for number in range(-(-self.count // self.part)):
                        rows = self._read(number)
                        table.write(rows)
                        cells = csv.reader(io.StringIO(rows.decode(), newline=""))
                        counts.update(row[1] for row in cells)
                    if parquet:
                        table.seek(0)
                        write_parquet(table, whole)
            for number in self._numbers():
                self._file(number).unlink()
        return counts

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:07}.csv"

    def _numbers(self) -> list[int]:
        """Return the numbers of the parts that are there."""
        return [int(x.stem) for x in self.folder.glob("[0-9]*.csv") if x.stem.isdigit()]

    def _read(self, number: int) -> bytes:
        """Return the rows of a part, as CSV, if they are whole and of this work."""
        checksum, _, rows = self._file(number).read_bytes().partition(b"\n")
        if checksum != self._checksum(number, rows):
            raise OutputError(
                f"{self._file(number)} is damaged, or a part of other work: another run, other "
                "versions or settings, or films other than now or changed since. Give the command "
                "it was begun with, delete it or the whole folder, or give another file."
            )
        return rows

    def _checksum(self, number: int, rows: bytes) -> bytes:
        """Return the first line of a part: another for another work, another part or other rows."""
        return hashlib.sha256(b"%b %d\n%b" % (self._work, number, rows)).hexdigest().encode()

    def _list(self, films: Iterable[str], settings: dict) -> None:
        """List the films, and see that the parts that are there belong to them."""
        if foreign := [file.name for file in self.folder.iterdir() if not _is_ours(file)]:
            raise OutputError(
                f"{self.folder} holds {min(foreign)}, which is no part of a table of scores. Move "
                "it, or give another file."
            )
        with self._told():
            self._listed = TemporaryFile("w+", encoding="ascii", prefix=UNFINISHED, dir=self.folder)
        films, work = iter(films), hashlib.sha256(json.dumps([settings, self.part]).encode())
        while chunk := list(islice(films, CHUNK)):
            lines = [json.dumps(film) + "\n" for film in chunk]
            work.update("".join(map(_stamp, chunk, lines)).encode())
            with self._told():
                self._listed.writelines(lines)
                self._listed.flush()
            self.count += len(chunk)
        self._work = work.digest()
        with self._told():
            for number in self._numbers():
                self._read(number)

    @contextmanager
    def _told(self):
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self.out} cannot be written: {error.strerror or error}. "
                f"{len(self._numbers())} finished parts are kept in {self.folder}. Make room "
                "there, or let it be written to, and give the same command again: it goes on."
            ) from error


@contextmanager
def open_parts(out: str | Path, films: Iterable[str], settings: dict, part: int) -> Iterator[Parts]:
    """Give the parts of `out`, those of an earlier process included, to this process alone.

    `settings` are what decides the table beside the image files `films`, as JSON has it; a part has
    as many films as `part` says. FileNotFoundError where `out` is not a file in a folder that
    exists. OutputError where it ends neither in .csv nor in .parquet, is there and no table of
    scores, or another process writes it; where parts of other work or a link are beside it, the
    folder cannot be written to, or pyarrow is wanted and missing.
    """
    given = Path(out)
    other = given.exists() and not given.is_file()
    if other or not (real := place_to_write(given, "out")).parent.is_dir():
        raise FileNotFoundError(f"{out} cannot be written: give a file in a folder that exists")
    parts = Parts(real if given.is_symlink() else given, part)
    if parts.out.suffix.lower() not in (".csv", ".parquet"):
        raise OutputError(f"{out}: give a file whose name ends in .csv or .parquet")
    if is_parquet(parts.out) and not find_spec("pyarrow"):
        raise OutputError(
            f"{out}: Parquet needs pyarrow: pip install '.[cluster]' in a clone or archive of "
            "cxrlib, or give a .csv"
        )
    if parts.out.exists() and not is_scores(parts.out):
        raise OutputError(f"{out} is there and is not a table of scores: give another file")
    if parts.folder.is_symlink() or parts.folder.is_file():
        raise OutputError(f"{parts.folder} is no folder: move it, or give another file")
    lock = FileLock(parts.folder / LOCK)
    with parts._told():
        parts.folder.mkdir(exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise OutputError(
                f"{out} is being written by another process. Wait until that is done, or give "
                "another file."
            ) from None
    try:
        parts._list(films, settings)
        yield parts
    finally:
        with suppress(OSError):  # what went wrong before says more
            parts._listed.close()
        with suppress(OSError):
            if not parts._numbers():
                # Sorted, the lock goes last: whoever finds it gone finds nothing else.
                for file in sorted(filter(_is_ours, parts.folder.iterdir())):
                    file.unlink()
                parts.folder.rmdir()
        lock.release()


def _is_ours(file: Path) -> bool:
    return bool(OURS.fullmatch(file.name)) and file.is_file() and not file.is_symlink()


def _stamp(film: str, line: str) -> str:
    """Return what tells a film from another one, or from itself after a change."""
    try:
        state = os.stat(film)
    except OSError:
        return line
    return f"{state.st_size} {state.st_mtime_ns} {line}"
