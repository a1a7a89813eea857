"""Features of films on disk: one growing array per run of settings, read in blocks."""

import hashlib
import io
import os
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.format import write_array_header_1_0
from tqdm.auto import tqdm

from cxrlib.data.files import locked
from cxrlib.data.images import film_digest

IN_MEMORY = 2**30  # bytes of features; more stay on disk
ENTRY = np.dtype([("film", "V32"), ("check", "<u4")])  # SHA-256 of a film, checksum of its row


class StoreError(ValueError):
    """A store of features that cannot be used, with what is kept and the way out."""


def gather(
    settings: str,
    shape: tuple[int, ...],
    paths: Iterable[str | Path],
    cache: Path | None,
    compute: Callable[[Iterator[tuple]], Iterable[tuple]],
    batch: int,
) -> "np.ndarray | Rows":
    """Return the features of films, from the cache or computed, as `extract_features` does.

    `settings` is a digest of what decides features beside the film and their `shape`. `compute`
    takes tasks of `batch` films, (numbers, films), and yields (numbers, features) in any order.
    """
    paths = list(paths)
    if cache is None:
        todo, features = np.arange(len(paths)), np.empty((len(paths), *shape), np.float16)
        keep = features.__setitem__
    else:
        with ThreadPoolExecutor() as pool:
            films = list(pool.map(film_digest, paths))
        store = Store(Path(cache) / f"{settings[:16]}-grid{shape[0]}", settings, shape)
        kept, todo = store.open(films)

        def keep(i, row):
            store.write(films[i], kept.place[i], row)

    batches = [todo[i : i + batch] for i in range(0, len(todo), batch)]
    tasks = ((numbers, [paths[i] for i in numbers]) for numbers in batches)
    with tqdm(total=len(todo), desc="features", unit="film", disable=not len(todo)) as progress:
        for numbers, rows in compute(tasks) if len(todo) else ():
            for i, row in zip(numbers, rows, strict=True):
                keep(i, row)
            progress.update(len(numbers))
    if cache is None:
        return features
    return kept if len(kept) * store.size > IN_MEMORY else kept[:]


@dataclass(frozen=True)
class OnDisk:
    """Rows of float16 in a file, from byte `start` on: what is indexed is read, and no more.

    It is not mapped: what was read would stay in memory, and a file that is cut short would end the
    process. It holds no open file, so it may be sent to another process of the machine.
    """

    file: Path
    start: int
    shape: tuple[int, ...]

    def __getitem__(self, place: np.ndarray | int) -> np.ndarray:
        rows = np.zeros((np.size(place), *self.shape[1:]), "<f2")
        with open(self.file, "rb", buffering=0) as file:
            for row, at in zip(rows, np.ravel(place).tolist(), strict=True):
                os.preadv(file.fileno(), [row], self.start + at * row.nbytes)
        return rows.reshape(np.shape(place) + self.shape[1:])


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of an array, in memory or on disk, in an order of their own.

    As of an h5py data set, `rows[10:20]`, `rows[7]` and `rows[mask]` are arrays in memory, and
    `np.asarray(rows)` is all of it. Hand it on whole, and read it block by block.
    """

    array: np.ndarray | OnDisk
    place: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.place), *self.array.shape[1:]

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, key) -> np.ndarray:
        key, *rest = key if isinstance(key, tuple) else (key,)
        place = self.place[key]
        return np.asarray(self.array[place])[(slice(None),) * np.ndim(place) + tuple(rest)]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[:], dtype)


class Store:
    """Features by film in a folder: `features.npy` with one row per film, and `index`.

    A row counts once its checksum is in the index, so what a kill, a full disk or a damaged block
    spoils is made anew. Each film has its place before it is computed: the files end with the same
    bytes whoever computed which row, in whatever order. Processes may fill one store at once; only
    to give out places they wait for each other. A row has `shape`, in float16.
    """

    def __init__(self, folder: Path, settings: str, shape: tuple[int, ...]):
        self.folder, self.shape, self.size = folder, shape, 2 * int(np.prod(shape))
        self.file, self.index = folder / "features.npy", folder / "index"
        first = hashlib.sha256(f"{settings} {shape}".encode()).digest()
        self.first = np.array([(first, zlib.crc32(first))], ENTRY)
        self.start = len(self._header(0))

    def open(self, films: Sequence[str]) -> tuple[Rows, np.ndarray]:
        """Return the rows of films, given by their digests, and which (n,) have to be written."""
        wanted = [bytes.fromhex(film) for film in films]
        with self._told():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.index.touch()
            with locked(self.index):
                entries = self._give_places(wanted)
        place = {film: at for at, film in enumerate(entries["film"].tolist(), -1)}
        stored = OnDisk(self.file, self.start, (len(entries) - 1, *self.shape))
        places = np.array([place[film] for film in wanted], int)
        rows = Rows(stored, places)
        checks = entries["check"][rows.place + 1]
        whole, there = np.zeros(len(rows), bool), np.flatnonzero(checks)
        for some in (there[i : i + 256] for i in range(0, len(there), 256)):
            for i, row in zip(some, rows[some], strict=True):
                whole[i] = _check(wanted[i], row) == checks[i]
        damaged = np.unique(rows.place[(checks > 0) & ~whole])
        if len(damaged):
            told = f"{len(damaged)} damaged rows of {self.file} are made anew"
            warnings.warn(told, stacklevel=4)
        _, first = np.unique(rows.place, return_index=True)  # a film may be given twice
        return rows, np.sort(first[~whole[first]])

    def write(self, film: str, place: int, row: np.ndarray) -> None:
        """Write the features of a film, by its digest, to its place."""
        row = np.ascontiguousarray(row, "<f2")
        check = np.uint32(_check(bytes.fromhex(film), row)).tobytes()
        at = (place + 1) * ENTRY.itemsize + 32  # behind the film's digest
        with self._told():
            _write(self.file, self.start + place * self.size, row.tobytes())
            _write(self.index, at, check)

    def _give_places(self, wanted: list[bytes]) -> np.ndarray:
        """Return the entries of the index, with new ones for new films."""
        entries = np.fromfile(self.index, ENTRY)  # half an entry at its end does not count
        if len(entries) and entries[0] != self.first[0]:
            raise StoreError(
                f"{self.folder} holds features of other settings. Give another folder as cache, or "
                "delete this one."
            )
        known = set(entries["film"].tolist())
        new = [film for film in dict.fromkeys(wanted) if film not in known]
        fresh = np.array([(film, 0) for film in new], ENTRY)
        added = np.concatenate([fresh] if len(entries) else [self.first, fresh])
        _write(self.index, entries.nbytes, added.tobytes())
        entries = np.concatenate([entries, added])
        header = self._header(len(entries) - 1)
        self.file.touch()
        _write(self.file, 0, header)
        os.truncate(self.file, len(header) + (len(entries) - 1) * self.size)
        return entries

    def _header(self, rows: int) -> bytes:
        # numpy pads it, so that it keeps its length when the first axis grows.
        about = {"descr": "<f2", "fortran_order": False, "shape": (rows, *self.shape)}
        write_array_header_1_0(header := io.BytesIO(), about)
        return header.getvalue()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self.folder} cannot be written: {error.strerror or error}. Features that are "
                "done are kept there. Make room, or give another folder as cache, and call again: "
                "it goes on."
            ) from error


def _write(path: Path, at: int, content: bytes) -> None:
    with open(path, "rb+") as file:
        file.seek(at)
        file.write(content)


def _check(film: bytes, row: np.ndarray) -> int:
    """Return the checksum of a film's row; 0 stands for a row that is not there."""
    return zlib.crc32(row.tobytes(), zlib.crc32(film)) or 1
