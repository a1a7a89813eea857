"""Studies of simulated radiographs: frontal films that a program makes, with their truth known.

A patient and each visit are drawn at random, then `film` takes the film. Disease is geometry: the
heart is wider than half of the chest ('Cardiomegaly'), or fluid blunts a costophrenic angle
('Effusion'). No film shows a person. One process at a time writes a folder, each file whole or not.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import pandas as pd
from filelock import FileLock, Timeout
from PIL import Image
from tqdm.auto import tqdm

from cxrlib.phantom.anatomy import Chest, Patient, Visit
from cxrlib.phantom.film import PIXELS, Camera, simulate_film
from cxrlib.phantom.site import KNOBS, MOST, SITES, draw_films

VERSION = 1  # raise it when the same seed and settings give other films
QUALITY = 82  # of the JPEG files
NOTE = "Radiographs simulated by a program (cxrlib.phantom). They show no person."
BOX = ["xmin", "ymin", "xmax", "ymax"]
COLUMNS = ["filename", "height", "width", "label", *BOX, "view", "sex"]
EARLY = re.compile(r"lock|phantom\.json\.\d+\.part")  # all that a kill may leave at first


def label_film(filename: str, patient: Patient, visit: Visit, truth: dict) -> list[dict]:
    """Return a film's rows of `labels.csv`, one per finding, with the box of its shape."""
    chest, camera = Chest(patient, visit), Camera(patient, visit)
    findings = {}
    if truth["cardiomegaly_true"] != truth["label_flipped"]:
        findings["Cardiomegaly"] = camera.box(chest.heart_surface())
    if truth["effusion_true"]:
        findings["Effusion"] = camera.box(chest.fluid_points())
    film = {"filename": filename, "height": PIXELS, "width": PIXELS, "view": visit.view}
    film["sex"] = "F" if patient.breast else "M"
    return [
        film | {"label": label} | dict(zip(BOX, box, strict=False))
        for label, box in (findings or {"No Finding": ()}).items()
    ]


def make_study(
    out: str | Path,
    patients: int = 130,
    seed: int = 0,
    workers: int | None = None,
    site: str = "A",
) -> pd.DataFrame:
    """Write a study of simulated radiographs.

    The folder gets `images/`, `labels.csv` (NIH columns and sex), `truth.csv` (one row per film,
    see `draw_films`) and `phantom.json`. Each file is written whole or not at all, `labels.csv`
    last. A call after an interruption, or for more patients, keeps the films that are there.

    Parameters
    ----------
    out : an empty or new folder, or one that this function wrote with the same seed
    patients : how many; each has one to five films
    seed : the same seed gives the same films, whatever `patients` and `workers`
    workers : processes; one per core by default
    site : 'A', that of the bundled study, or 'B': a hospital of other patients, with another
        viewing curve, noisier and narrower films, more of them at the bedside, fewer of the sick

    Returns
    -------
    DataFrame, `labels.csv`: one row per finding, boxes in pixels of the film

    Raises
    ------
    ValueError
        `patients`, `seed` or `workers` is out of bounds, there is no such site, or the folder
        holds another study.
    FileExistsError
        The folder holds something that is not a simulated study, or is being written.
    """
    bounds = ("patients", patients, 1, MOST), ("seed", seed, 0, 2**63), ("workers", workers, 1, 99)
    for name, n, least, most in bounds:
        if n is not None and not least <= n <= most:
            raise ValueError(f"{name} is {n}: give {least} to {most:,}")
    if site not in SITES:
        raise ValueError(f"site is {site!r}: give one of {', '.join(SITES)}")
    if "\0" in str(out):
        raise ValueError("out has a zero byte in its name: give another one")
    out = Path(out)
    with claim_folder(out, _record(seed, site)):
        context = get_context("spawn")  # a fork of a process that runs TensorFlow may hang
        with ProcessPoolExecutor(workers or os.cpu_count(), context, end_with_parent) as pool:
            write = partial(_write_films, out / "images", seed, SITES[site])
            made = pool.map(write, range(1, patients + 1))
            bar = tqdm(made, total=patients, desc="simulating", unit="patient")
            films = [film for of_patient in bar for film in of_patient]
        labels = pd.DataFrame([row for rows, _ in films for row in rows]).reindex(columns=COLUMNS)
        labels = labels.astype(dict.fromkeys(BOX, "Int64"))
        truth = pd.DataFrame([row for _, row in films])
        for name, table in (("truth.csv", truth), ("labels.csv", labels)):
            write_whole(out / name, table.to_csv(index=False).encode())
    return labels


def _record(seed, site="A"):
    """Return the content of `phantom.json`, which says what the films follow from."""
    knobs, of_site = (*KNOBS, QUALITY), {}
    if site != "A":  # studies that were made before there was another keep their record
        knobs, of_site = (*knobs, SITES[site]), {"site": site}
    settings = hashlib.sha256(repr(knobs).encode()).hexdigest()[:12]
    return {"note": NOTE, "version": VERSION, "seed": seed, "settings": settings} | of_site


def _write_films(images, seed, site, number):
    """Write those films of a patient that are missing; return rows of labels and truth by film."""
    rows = []
    for filename, patient, visit, truth in draw_films(seed, number, site):
        if not (images / filename).exists():
            jpeg, film = io.BytesIO(), Image.fromarray(simulate_film(patient, visit))
            film.save(jpeg, "JPEG", quality=QUALITY, optimize=True, comment=NOTE)
            write_whole(images / filename, jpeg.getvalue())
        rows.append((label_film(filename, patient, visit, truth), {"filename": filename} | truth))
    return rows


@contextmanager
def claim_folder(out: Path, wanted: dict) -> Iterator[None]:
    """Keep a folder to this process that is new, empty, or says `wanted` in `phantom.json`.

    ValueError where it holds another study; FileExistsError where it holds something else, or
    another process writes it.
    """
    record, found = out / "phantom.json", {}
    if record.is_file():
        with suppress(ValueError, TypeError, RecursionError):
            found = dict(json.loads(record.read_text()))
        for key, value in wanted.items():
            if found.get(key) != value:
                raise ValueError(
                    f"{record} says {key} {found.get(key)!r}, not {value!r}: give another folder"
                )
    elif out.exists() and not all(EARLY.fullmatch(path.name) for path in out.iterdir()):
        raise FileExistsError(f"{out} holds no simulated study: give an empty or a new folder")
    out.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(out / "lock", blocking=False).acquire()
    except Timeout:
        raise FileExistsError(f"another process writes {out}: wait, or give a new folder") from None
    with lock:
        for part in out.rglob("*.*.part"):  # of a process that was killed
            part.unlink()
        write_whole(record, (json.dumps(wanted, indent=1) + "\n").encode())
        (out / "images").mkdir(exist_ok=True)
        yield
        (out / "lock").unlink()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    os.replace(part, path)


def end_with_parent() -> None:
    """End this worker, from now on, as soon as the process that began it is gone."""
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()
