"""Studies of simulated radiographs: frontal films that a program makes, with their truth known.

A patient and each visit are drawn at random, then `film` takes the film. Disease is geometry: the
heart is wider than half of the chest ('Cardiomegaly'), or fluid blunts a costophrenic angle
('Effusion'). No film shows a person.
"""

import hashlib
import io
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy.optimize import brentq
from tqdm.auto import tqdm

from cxrlib.phantom.anatomy import Chest, Patient, Visit
from cxrlib.phantom.film import PIXELS, Camera, simulate_film
from cxrlib.phantom.folder import claim_folder, end_with_parent, write_whole
from cxrlib.phantom.site import AP_SHARE, MOST, SICK_SHARE, SITES, Site
from cxrlib.phantom.skeleton import TUBES

NUMBERS_ABOVE = 60000  # of patients; NIH's end at 30805, so that no id means two patients
VERSION = 1  # raise it when the same seed and settings give other films
LIMIT = 0.5  # cardiomegaly above this cardiothoracic ratio
BUILD = [1.0, 0.98, 1.0], [0.035, 0.05, 0.045]  # mean and deviation of width, depth and height
# How hard the study is: overlap of the groups, wrong labels, and what hides the heart's size.
HEALTHY_RATIO, SICK_RATIO = (0.45, 0.035), (0.54, 0.038)  # mean and standard deviation
FLIPPED_SHARE = 0.03  # of films whose cardiomegaly label is wrong
EFFUSION_SHARE = {False: 0.07, True: 0.20}  # by cardiomegaly
INSPIRATION = {"PA": (0.85, 0.12), "AP": (0.55, 0.26)}  # mean and standard deviation
ROTATION = {"PA": 2.5, "AP": 6.0}  # standard deviation in degrees
VISIT_SHARE = (0.52, 0.25, 0.13, 0.06, 0.04)  # of patients with one to five films
QUALITY = 82  # of the JPEG files

NOTE = "Radiographs simulated by a program (cxrlib.phantom). They show no person."
BOX = ["xmin", "ymin", "xmax", "ymax"]
COLUMNS = ["filename", "height", "width", "label", *BOX, "view", "sex"]


def cardiothoracic_ratio(patient: Patient, growth: float = 1.0) -> float:
    """Return the greatest width of the heart over the greatest inner width of the chest, 0..1.

    Both are measured on the patient's standard film: PA, full inspiration, no rotation. So an AP
    film is judged by the same heart (Danzer, Am J Med Sci 157, 1919).
    """
    standard = Visit(growth=growth)
    chest, camera = Chest(patient, standard), Camera(patient, standard)
    heart, cage = (camera.project(p)[0] for p in (chest.heart_surface(), chest.cage_surface()))
    return float(np.ptp(heart) / np.ptp(cage))


def draw_patient(rng: np.random.Generator, site: Site = SITES["A"]) -> Patient:
    """Draw a patient: build, anatomy, and a heart from one of two overlapping groups."""
    woman = rng.random() < 0.48
    tall = rng.normal(0.965 if woman else 1.02, 0.035)
    fat = float(np.clip(rng.gamma(2.0, 0.8), 0.1, 4.5))
    patient = Patient(
        size=tuple(tall * rng.normal(*BUILD) * (1 + fat * np.array([0.008, 0.015, 0]))),
        fat=fat,
        breast=rng.uniform(3.8, 5.4) + 0.35 * fat if woman else 0.0,
        bone=rng.uniform(0.8, 1.15),
        heart_axis=rng.normal(36, 6),
        heart_length=rng.normal(1.0, 0.05),
        fat_pad=rng.uniform(1.0, 1.8) + 0.3 * fat,
        aorta=rng.normal(1.0, 0.1),
        domes=(rng.normal(0, 0.5), rng.normal(-1.3, 0.6)),
        rib_slope=rng.normal(1.0, 0.1),
        shoulders=rng.normal(0, 0.8),
        gas=(rng.uniform(0.8, 2.6), 1.6, rng.uniform(0.6, 1.7)),
        seed=int(rng.integers(2**31)),
    )
    group = SICK_RATIO if rng.random() < site.sick_share else HEALTHY_RATIO
    ratio = np.clip(rng.normal(*group), 0.36, 0.68)
    heart = brentq(lambda s: cardiothoracic_ratio(patient, s) - ratio, 0.4, 2.2, xtol=1e-4)
    return replace(patient, heart=heart)


def draw_visit(rng: np.random.Generator, patient: Patient, site: Site = SITES["A"]) -> Visit:
    """Draw a visit of a patient: view, pose, effusion, exposure, marker and devices."""
    growth = rng.normal(1.0, 0.012)
    sick = cardiothoracic_ratio(patient, growth) > LIMIT
    view = "AP" if rng.random() < site.ap_share[sick] else "PA"
    bedside = view == "AP"
    effusion = (0.0, 0.0)
    if rng.random() < EFFUSION_SHARE[sick]:
        sides = [(1, 0), (0, 1), (1, 1)][rng.integers(3)]
        effusion = tuple(rng.uniform(2.2, 6.5, 2) * sides)
    letter = "L" if rng.random() < 0.75 else "R"
    column = rng.integers(442, 492) if letter == "L" else rng.integers(22, 70)
    devices = []
    edges, widest = site.shutter
    if bedside and rng.random() < 0.55:
        devices += [f"wire {n}" for n in rng.integers(0, 1000, rng.integers(1, 4))]
    if bedside and rng.random() < 0.3:
        devices += rng.choice(list(TUBES), rng.integers(1, 3), replace=False).tolist()
    return Visit(
        view=view,
        inspiration=float(np.clip(rng.normal(*INSPIRATION[view]), 0, 1.05)),
        arms_down=bedside,
        effusion=effusion,
        rotation=rng.normal(0, ROTATION[view]),
        shift=tuple(rng.normal(0, 1.0 if bedside else 0.65, 2)),
        growth=growth,
        photons=site.dose * rng.lognormal(np.log(2e4 if bedside else 4e4), 0.3),
        # There is no grid in bed.
        scatter=site.scatter * (rng.uniform(2.0, 3.2) if bedside else rng.uniform(1.4, 2.2)),
        contrast=site.contrast + float(np.clip(rng.normal(0, 0.1), -0.25, 0.25)),
        brightness=rng.normal(site.brightness, 0.05),
        shutter=tuple((rng.integers(2, widest, 4) * (rng.random(4) < edges)).tolist()),
        marker=(letter, int(column), int(rng.integers(24, 100))),
        devices=tuple(devices),
        seed=int(rng.integers(2**31)),
    )


def draw_films(
    seed: int, number: int, site: Site = SITES["A"]
) -> list[tuple[str, Patient, Visit, dict]]:
    """Draw all films of one patient, who is the same in every study of that seed and site.

    Each is (filename, Patient, Visit, truth); truth has ctr (the cardiothoracic ratio at that
    visit), cardiomegaly_true, effusion_true and label_flipped.
    """
    number += site.first
    rng = np.random.default_rng([seed, number])
    patient, films = draw_patient(rng, site), []
    for visit_number in range(rng.choice(len(VISIT_SHARE), p=VISIT_SHARE) + 1):
        flipped = bool(rng.random() < FLIPPED_SHARE)
        visit = draw_visit(rng, patient, site)
        ratio = cardiothoracic_ratio(patient, visit.growth)
        truth = {"ctr": round(ratio, 4), "cardiomegaly_true": ratio > LIMIT}
        truth |= {"effusion_true": any(visit.effusion), "label_flipped": flipped}
        filename = f"{NUMBERS_ABOVE + number:08d}_{visit_number:03d}.jpg"
        films.append((filename, patient, visit, truth))
    return films


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
    knobs = (LIMIT, SICK_SHARE, HEALTHY_RATIO, SICK_RATIO, FLIPPED_SHARE, AP_SHARE, EFFUSION_SHARE)
    knobs += (INSPIRATION, ROTATION, VISIT_SHARE, QUALITY)
    if site != "A":  # studies that were made before there was another keep their record
        knobs += (SITES[site],)
    settings = hashlib.sha256(repr(knobs).encode()).hexdigest()[:12]
    record = {"note": NOTE, "version": VERSION, "seed": seed, "settings": settings}
    return record if site == "A" else record | {"site": site}


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
