"""Simulated hospitals: what differs from one to another, besides their patients."""

from dataclasses import dataclass

MOST = 10**5  # patients of a study
SICK_SHARE = 0.36  # of patients that come from the upper of two groups
AP_SHARE = {False: 0.36, True: 0.55}  # by cardiomegaly: the sick are filmed in bed more often


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
