"""Simulated hospitals, and the patients and visits that are drawn at random in them."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq

from cxrlib.phantom.anatomy import Chest, Patient, Visit
from cxrlib.phantom.film import FILM, PIXELS, Camera
from cxrlib.phantom.skeleton import TUBES

MOST = 10**5  # patients of a study
NUMBERS_ABOVE = 60000  # of patients; NIH's end at 30805, so that no id means two patients
LIMIT = 0.5  # cardiomegaly above this cardiothoracic ratio
BUILD = [1.0, 0.98, 1.0], [0.035, 0.05, 0.045]  # mean and deviation of width, depth and height
# How hard the study is: overlap of the groups, wrong labels, and what hides the heart's size.
HEALTHY_RATIO, SICK_RATIO = (0.45, 0.035), (0.54, 0.038)  # mean and standard deviation
FLIPPED_SHARE = 0.03  # of films whose cardiomegaly label is wrong
SICK_SHARE = 0.36  # of patients that come from the upper of two groups
AP_SHARE = {False: 0.36, True: 0.55}  # by cardiomegaly: the sick are filmed in bed more often
EFFUSION_SHARE = {False: 0.07, True: 0.20}  # by cardiomegaly
INSPIRATION = {"PA": (0.85, 0.12), "AP": (0.55, 0.26)}  # mean and standard deviation
ROTATION = {"PA": 2.5, "AP": 6.0}  # standard deviation in degrees
VISIT_SHARE = (0.52, 0.25, 0.13, 0.06, 0.04)  # of patients with one to five films
KNOBS = (LIMIT, SICK_SHARE, HEALTHY_RATIO, SICK_RATIO, FLIPPED_SHARE, AP_SHARE, EFFUSION_SHARE)
KNOBS += (INSPIRATION, ROTATION, VISIT_SHARE)


@dataclass(frozen=True)
class Site:
    """What films and patients of a hospital are like; the defaults are those of site A."""

    first: int = 0  # above it, its patients are numbered
    sick_share: float = SICK_SHARE
    ap_share: tuple[float, float] = (AP_SHARE[False], AP_SHARE[True])
    dose: float = 1.0  # scale of the photons: fewer give more noise
    scatter: float = 1.0  # scale of the veil
    contrast: float = 1.05  # mean slope of the viewing curve
    brightness: float = 0.19  # mean shift of the viewing curve
    shutter: tuple[float, int] = (0.2, 26)  # share of edges that are collimated, and pixels below


SITES = {
    "A": Site(),
    "B": Site(2 * MOST, 0.2, (0.6, 0.75), 0.3, 1.3, 0.85, 0.3, (0.7, 60)),
}


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
    visit), cardiomegaly_true, effusion_true, label_flipped and pixel_mm (at the detector).
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
        truth["pixel_mm"] = 10 * FILM / PIXELS
        filename = f"{NUMBERS_ABOVE + number:08d}_{visit_number:03d}.jpg"
        films.append((filename, patient, visit, truth))
    return films
