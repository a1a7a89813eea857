"""Embeddings that the user brings: one vector per film, made by any network, told by file name."""

import hashlib
import zipfile
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cxrlib.data.files import regular_file
from cxrlib.data.patients import stem
from cxrlib.data.study import Study
from cxrlib.model.span import ROWS
from cxrlib.model.store import Rows

FORMATS = ".npz, .npy with names in a .txt beside it, .parquet, or a .zarr group"

UNREADABLE = OSError, ValueError, KeyError, ImportError, EOFError, RuntimeError, zipfile.BadZipFile


class EmbeddingError(ValueError):
    """Embeddings that cannot be used, with the film or file and the way out."""


@dataclass(frozen=True)
class Embeddings:
    """One vector per film.

    Attributes
    ----------
    path : Path
    name : of the network that made them
    values : float array, (rows, numbers); of a .npy, on disk
    row : dict, from a film's file name (as the study has it) to its row
    digest : SHA-256 of file names and vectors, whatever their order
    """

    path: Path
    name: str
    values: np.ndarray = field(repr=False)
    row: dict[str, int] = field(repr=False)
    digest: str
    # What a `Backbone` has beside these, for `run.json`.
    weights: ClassVar = None
    layer: ClassVar = "embeddings"
    seed: ClassVar = 0
    image_size: ClassVar = 0

    @property
    def dimension(self) -> int:
        return self.values.shape[1]

    def of(self, films: pd.DataFrame) -> Rows:
        """Return the vectors of films, (films, numbers), in their order, for `fit_head`."""
        missing = [name for name in films["filename"] if name not in self.row]
        if missing:
            raise EmbeddingError(
                f"{self.path} has no embedding of {len(missing)} of {len(films)} films "
                f"({missing[0]} the first). Compute them, or leave these films out."
            )
        return Rows(self.values, films["filename"].map(self.row).to_numpy())


def read_embeddings(
    path: str | Path, study: Study | None = None, name: str | None = None
) -> Embeddings:
    """Read and check embeddings, such as those of a foundation model, one vector per film.

    File names decide which vector is whose; the order does not matter. A file may hold films that
    the study does not have.

    Parameters
    ----------
    path : `.npz` or a Zarr group, `.zarr`, with `names` (films,) and `embeddings` (films,
        numbers); `.npy` with a `.txt` of the same name beside it, one file name per line; or
        `.parquet` with the column `name` and one column per number, or `embedding`, a list. Names
        are those of the study's films, with or without folder and ending.
    study : whose films they are; None for new films, which keep their names
    name : of the network that made them; None is `model`, an entry of an .npz or an attribute of
        a group, or else the file's name

    Raises
    ------
    EmbeddingError
        A file of another kind or layout, a film with two vectors, or a number that is not finite.
        Not one film of the study.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> import numpy as np
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> study, path = cxr.read_study("medical"), Path(mkdtemp()) / "mine.npz"
    >>> names = study.films["filename"].to_numpy().astype(str)
    >>> np.savez(path, names=names[::-1], embeddings=np.eye(len(names))[::-1], model="identity")
    >>> embeddings = cxr.read_embeddings(path, study)
    >>> embeddings.name, embeddings.dimension
    ('identity', 245)
    >>> embeddings.of(study.films.head(2))[:].argmax(axis=1).tolist()
    [0, 1]
    """
    path = Path(path)
    try:
        names, values, model = _read(path if path.suffix == ".zarr" else regular_file(path))
    except EmbeddingError:
        raise
    except UNREADABLE as error:
        raise EmbeddingError(
            f"{path} cannot be read as embeddings: {error!s:.200}. Give {FORMATS}."
        ) from error
    if values.ndim != 2 or not values.shape[1] or values.dtype.kind != "f":
        raise EmbeddingError(
            f"{path} holds {values.dtype} of shape {values.shape}: give floating-point numbers of "
            "shape (films, numbers), such as values.reshape(len(values), -1)."
        )
    if len(names) != len(values):
        raise EmbeddingError(f"{path} has {len(names)} names of {len(values)} embeddings.")
    films = _match(names, study)
    if twice := [film for film, count in Counter(filter(None, films)).items() if count > 1]:
        raise EmbeddingError(
            f"{path} has two embeddings or more of {len(twice)} films ({twice[0]} the first). "
            "Keep one."
        )
    row = dict(sorted((film, i) for i, film in enumerate(films) if film))
    if not row:
        raise EmbeddingError(
            f"{path} has no embedding of any film of {study.folder if study else 'a study'}: its "
            f"names are such as {names[0] if names else ''!r}. Name them as the study's files."
        )
    digest, films, kept = hashlib.sha256(), list(row), Rows(values, np.array([*row.values()]))
    for rows in (slice(start, start + ROWS) for start in range(0, len(kept), ROWS)):
        block = kept[rows].astype(np.float32)
        if not (whole := np.isfinite(block).all(axis=1)).all():
            raise EmbeddingError(
                f"{path}: the embedding of {films[rows][int(whole.argmin())]} has numbers that are "
                "not finite. Compute it again, or delete it."
            )
        digest.update("\n".join(films[rows]).encode() + block.tobytes())
    return Embeddings(path, name or model or path.stem, values, row, digest.hexdigest())


def _read(path: Path) -> tuple[list[str], np.ndarray, str]:
    if path.suffix in (".npz", ".zarr"):
        with np.load(path) if path.suffix == ".npz" else nullcontext(_open_group(path)) as file:
            if absent := {"names", "embeddings"} - set(file):
                raise EmbeddingError(
                    f"{path} lacks {' and '.join(sorted(absent))}; it has {', '.join(file)}. Save "
                    "`names`, one per film, and `embeddings`, (films, numbers)."
                )
            about = file if path.suffix == ".npz" else file.attrs
            model = str(about["model"]) if "model" in about else ""
            return np.ravel(file["names"][...]).astype(str).tolist(), file["embeddings"][...], model
    if path.suffix == ".npy":
        lines = regular_file(path.with_suffix(".txt")).read_text("utf-8").splitlines()
        return [line.strip() for line in lines if line.strip()], np.load(path, mmap_mode="r"), ""
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
        names, table = table["name"].astype(str).tolist(), table.drop(columns="name")
        listed = list(table) == ["embedding"]
        return names, np.stack(table["embedding"].tolist()) if listed else table.to_numpy(), ""
    raise EmbeddingError(f"{path} is not a file of embeddings: give {FORMATS}.")


def _open_group(path: Path):
    try:
        import zarr
    except ImportError:
        raise EmbeddingError(
            f"{path} needs the package zarr: pip install '.[cluster]' in a clone, or pip install "
            "zarr. Or save .npz."
        ) from None
    group = zarr.open_group(path, mode="r")
    for name, array in group.arrays():  # what is not there would be read as zeros
        if lost := array.nchunks - array.nchunks_initialized:
            raise EmbeddingError(
                f"{path} lacks {lost} of the {array.nchunks} chunks of '{name}': copy or write it "
                "again."
            )
    return group


def _match(names: list[str], study: Study | None) -> list[str]:
    """Return the study's film of each name, '' where there is none."""
    if study is None:
        return names
    films = study.films
    for key in (str, lambda name: name.replace("\\", "/").rpartition("/")[2], stem):
        known = films["filename"].map(key)
        film = dict(zip(known, films["filename"], strict=True))
        found = [film.get(key(name), "") for name in names]
        if any(found) and known.is_unique:
            return found
    return [""] * len(names)
