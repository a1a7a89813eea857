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
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from cxrlib.data.files import place_to_write, whole_file
from cxrlib.scoring.tables import COLUMNS, is_parquet, is_scores, shield, write_parquet

LOCK, LISTED, PLAN = "lock", "films.jsonl", "plan.json"
OURS = re.compile(
    r"\.cxrlib-part\..+|\d{7,}\.csv|plan\.json|films\.jsonl(\.part)?|joined(\.parquet)?|lock"
)
CHUNK = 1024  # films listed at a time


class OutputError(ValueError):
    """A table that cannot be written, with what is kept and the way out."""


@dataclass
class Parts:
    """Scores on their way to `out`; what is done stands in the folder `OUT.parts`.

    Attributes
    ----------
    out : Path, Parquet where it ends so, else CSV in UTF-8
    part : films a part
    count : films in all
    """

    out: Path
    part: int
    count: int = field(default=0, init=False)

    @property
    def folder(self) -> Path:
        return self.out.with_name(f"{self.out.name}.parts")

    @property
    def done(self) -> int:
        """The number of films in parts that are there."""
        starts = (int(file.stem) * self.part for file in self._files())
        return sum(min(self.part, self.count - start) for start in starts)

    def todo(self) -> Iterator[tuple[int, list[str]]]:
        """Yield number and films of each part that is not there yet."""
        with open(self.folder / LISTED, encoding="ascii") as lines:
            for number in range(-(-self.count // self.part)):
                films = list(islice(lines, self.part))
                if not self._file(number).exists():
                    yield number, [json.loads(film) for film in films]

    def write(self, number: int, rows: list[tuple]) -> None:
        """Write the rows of one part, in the order of COLUMNS; OutputError as for a full disk."""
        table = pd.DataFrame(rows, columns=COLUMNS)
        table["path"] = table["path"].map(shield)
        content = table.to_csv(index=False, header=False).encode()
        with self._told(), whole_file(self._file(number)) as part:
            part.write_bytes(_checksum(number, content) + content)

    def finish(self) -> Counter:
        """Put the parts together in `out`, delete them, and return the films by status.

        OutputError as for a full disk, or where a part was cut or changed; whole parts are kept.
        """
        counts = Counter()
        joined = self.folder / "joined"
        with self._told():
            with open(joined, "wb") as whole:
                whole.write(f"{','.join(COLUMNS)}{os.linesep}".encode())
                for number in range(-(-self.count // self.part)):
                    checksum, end, part = self._file(number).read_bytes().partition(b"\n")
                    if checksum + end != _checksum(number, part):
                        raise OutputError(
                            f"{self._file(number)} is not whole. Delete it, and give the same "
                            "command again."
                        )
                    rows = csv.reader(io.StringIO(part.decode(), newline=""))
                    counts.update(row[1] for row in rows)
                    whole.write(part)
            if is_parquet(self.out):
                joined = write_parquet(joined, self.folder / "joined.parquet")
            with open(joined, "rb+") as whole:  # on the disk, before the parts are gone
                os.fsync(whole.fileno())
            os.replace(joined, self.out)
            self._clear()
        return counts

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:07}.csv"

    def _files(self) -> Iterable[Path]:
        return self.folder.glob("[0-9]*.csv")

    def _plan(self, films: Iterable[str], settings: dict) -> None:
        """Write the list of films, or find that it is the one that the parts belong to."""
        if foreign := [file.name for file in self.folder.iterdir() if not _is_ours(file)]:
            raise OutputError(
                f"{self.folder} holds {min(foreign)}, which is no part of a table of scores. Move "
                "it, or give another file."
            )
        listed = self.folder / f"{LISTED}.part"
        films, digest = iter(films), hashlib.sha256()
        while chunk := list(islice(films, CHUNK)):
            lines = [json.dumps(film) + "\n" for film in chunk]
            digest.update("".join(map(_stamp, chunk, lines)).encode())
            with self._told(), open(listed, "a" if self.count else "w", encoding="ascii") as file:
                file.writelines(lines)
            self.count += len(chunk)
        plan = settings | {"films": digest.hexdigest(), "part": self.part}
        path = self.folder / PLAN
        if any(self._files()) and path.exists() and path.read_bytes() != json.dumps(plan).encode():
            listed.unlink()
            raise OutputError(
                f"{self.folder} holds parts of other work: another run, other versions or "
                "settings, or films other than now or changed since. Give the command it was "
                "begun with, delete it, or give another file."
            )
        with self._told():
            if not path.exists() or not any(self._files()):
                self._clear(but={LOCK, listed.name})
            os.replace(listed, self.folder / LISTED)
            with whole_file(path) as part:
                part.write_text(json.dumps(plan))

    def _clear(self, but: Iterable[str] = (LOCK,)) -> None:
        for file in self.folder.iterdir():
            if _is_ours(file) and file.name not in but:
                file.unlink()

    @contextmanager
    def _told(self):
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self.out} cannot be written: {error.strerror or error}. "
                f"{len(list(self._files()))} finished parts are kept in {self.folder}. Make room "
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
    real = given if other else place_to_write(given, "out")
    parts = Parts(real if given.is_symlink() else given, part)
    if other or not parts.out.absolute().parent.is_dir():
        raise FileNotFoundError(f"{out} cannot be written: give a file in a folder that exists")
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
        parts._plan(films, settings)
        yield parts
    finally:
        with suppress(OSError):  # what went wrong before says more
            if not any(parts._files()):
                # The lock goes last: whoever finds it gone finds nothing else.
                parts._clear()
                (parts.folder / LOCK).unlink()
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


def _checksum(number: int, content: bytes) -> bytes:
    """Return the first line of a part: another for another part, or a changed one."""
    return hashlib.sha256(b"%d\n%b" % (number, content)).hexdigest().encode() + b"\n"
