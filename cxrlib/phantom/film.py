"""The film of a simulated chest: cone-beam projection, scatter, noise and the viewing curve."""

from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from cxrlib.phantom import skeleton
from cxrlib.phantom.anatomy import FRONT_BACK, Chest, Patient, Visit
from cxrlib.phantom.shapes import Samples

PIXELS, FILM = 512, 40.0  # width and height of a film, in pixels and in cm at the detector
GRID = (np.arange(PIXELS) + 0.5 - PIXELS / 2) * FILM / PIXELS  # centres of pixels
# Usual practice: PA at 180 cm with the chest against the detector, AP at 100 cm with the back.
SOURCE = {"PA": 180.0, "AP": 100.0}  # cm from source to detector
GAP = {"PA": 2.0, "AP": 4.0}  # cm from the body to the detector
SLICE = 0.25  # cm
# Linear attenuation in 1/cm at 60 keV, about the mean energy of a 120 kVp beam: mass attenuation of
# ICRU-44 muscle and cortical bone (Hubbell and Seltzer, NISTIR 5632, table 4) times density.
SOFT, LUNG, BONE = 0.2048 * 1.05, 0.2048 * 0.26, 0.3148 * 1.92
SPONGY = 0.04  # 1/cm by which the core of a vertebra exceeds soft tissue
DEVICE = 3.0  # 1/cm, wires and tubes
LEAD = 2.5  # the side marker's whole attenuation


class Camera:
    """Geometry of one film: a point source, the patient, a flat detector."""

    def __init__(self, patient: Patient, visit: Visit):
        self.size, self.view = np.array(patient.size), visit.view
        self.turn, self.shift = np.deg2rad(visit.rotation), visit.shift
        front = (10.2 + 0.8 * patient.fat) * self.size[1] + 0.4 * patient.breast
        back = (11.4 + 0.8 * patient.fat) * self.size[1]
        self.detector = front + GAP["PA"] if self.view == "PA" else -back - GAP["AP"]
        self.centre = 9.0 * self.size[2]  # height of the central ray

    def magnification(self, depth):
        """Distance from source to detector over distance from source to a plane y = depth."""
        return SOURCE[self.view] / (SOURCE[self.view] - np.abs(self.detector - depth))

    def project(self, points):
        """Columns, rows and magnifications (n,) of points (n, 3) of the chest."""
        x, y, z = (points * self.size).T
        c, s = np.cos(self.turn), np.sin(self.turn)
        x, y, z = c * x - s * y + self.shift[0], s * x + c * y, z - self.centre + self.shift[1]
        m = self.magnification(y)
        return PIXELS / 2 + m * x * PIXELS / FILM, PIXELS / 2 - m * z * PIXELS / FILM, m

    def slices(self):
        """Yield chest coordinates x, y (1, 512) and z (512, 1) of all rays, slice by slice.

        A coronal slice is parallel to the detector, so the rays cut it in a scaled copy of the
        pixel grid: exact cone-beam geometry without interpolation.
        """
        c, s = np.cos(self.turn), np.sin(self.turn)
        for depth in np.arange(*FRONT_BACK, SLICE) * self.size[1]:
            m = self.magnification(depth)
            x, z = GRID[None] / m - self.shift[0], self.centre - self.shift[1] - GRID[:, None] / m
            x, y = c * x + s * depth, c * depth - s * x
            yield tuple(np.float32(v / size) for v, size in zip((x, y, z), self.size, strict=True))

    def splat(self, samples: Iterable[Samples]):
        """Path length (512, 512) in cm through small volumes, each shared by four pixels."""
        path = np.zeros((PIXELS + 2) ** 2)
        for points, volumes in samples:
            column, row, m = self.project(points)
            length = volumes * self.size.prod() * (m * PIXELS / FILM) ** 2
            # A border of one pixel takes what falls off the film.
            column, row = (np.clip(v + 0.5, 0, PIXELS + 0.99) for v in (column, row))
            c, r = column.astype(int), row.astype(int)
            right, below = column - c, row - r
            for down, part in ((0, 1 - below), (1, below)):
                for over, share in ((0, part * (1 - right)), (1, part * right)):
                    np.add.at(path, (r + down) * (PIXELS + 2) + c + over, length * share)
        return path.reshape(PIXELS + 2, PIXELS + 2)[1:-1, 1:-1]

    def box(self, points):
        """Smallest box of whole pixels (xmin, ymin, xmax, ymax) around points, on the film."""
        column, row, _ = self.project(points)
        box = np.floor([column.min(), row.min()]), np.ceil([column.max(), row.max()])
        return tuple(int(v) for v in np.clip(np.concatenate(box), 0, PIXELS - 1))


def project(patient: Patient, visit: Visit) -> dict[str, np.ndarray]:
    """Return how many cm of each tissue every ray crosses, arrays (512, 512) by name.

    body (which includes all others), lung, fluid (of an effusion, where lung would be), vertebra,
    gas, bone (as compact bone), vessel, airway, device.
    """
    chest, camera = Chest(patient, visit), Camera(patient, visit)
    names = ("body", "lung", "fluid", "vertebra", "gas")
    paths = {name: np.zeros((PIXELS, PIXELS), np.float32) for name in names}
    for x, y, z in camera.slices():
        chest.cut(x, y, z, paths)
    across = GRID / SOURCE[visit.view]
    oblique = np.sqrt(1 + across**2 + across[:, None] ** 2).astype(np.float32)
    thickness = SLICE * camera.size[1] * oblique
    paths = {name: path * thickness for name, path in paths.items()}
    fine = {
        "bone": skeleton.bones(chest),
        "vessel": skeleton.vessels(chest),
        "airway": skeleton.airways(chest),
        "device": [skeleton.device(chest, name) for name in visit.devices],
    }
    return paths | {name: gaussian_filter(camera.splat(s), 0.6) for name, s in fine.items()}


def simulate_film(patient: Patient, visit: Visit) -> np.ndarray:
    """Simulate the radiograph of a visit, uint8 (512, 512); the patient's left is on the right.

    The primary beam follows Beer and Lambert, a blurred copy of it stands for scatter, and counts
    are Poisson. Their logarithm is sharpened at two scales, as digital systems do, and passes
    the sigmoid viewing curve of DICOM (PS3.3 C.11.2.1.3.1), set by the film's own percentiles.
    """
    path = project(patient, visit)
    lung = LUNG * (1 + 0.3 * (1 - visit.inspiration))  # the same tissue around less air
    attenuation = (
        SOFT * (path["body"] - path["gas"] - path["airway"])
        - (SOFT - lung) * (path["lung"] - path["vessel"])
        + patient.bone * (SPONGY * path["vertebra"] + (BONE - SOFT) * path["bone"])
        + DEVICE * path["device"]
        + LEAD * _marker(*visit.marker)
    )
    primary = np.exp(-np.maximum(attenuation, 0))
    veil = gaussian_filter(primary * (1 - np.exp(-0.3 * path["body"])), 45)
    expected = visit.photons * (primary + visit.scatter * veil)
    counts = np.random.default_rng(visit.seed).poisson(expected)

    density = gaussian_filter(-np.log(np.maximum(counts, 0.5) / visit.photons), 0.45)
    dark, bright = np.percentile(density[path["body"] > 8], [6, 92])
    tissue = np.clip(density, 0.5 * dark, bright)
    for sigma, weight in ((22, 0.5), (3, 0.8)):
        density += weight * (tissue - gaussian_filter(tissue, sigma))
    window = bright - dark
    centre = dark + (0.36 - visit.brightness) * window
    grey = 246 / (1 + np.exp(-4 * visit.contrast * (density - centre) / window))
    left, top, right, bottom = visit.shutter
    film = np.zeros((PIXELS, PIXELS), np.uint8)
    seen = np.s_[top : PIXELS - bottom, left : PIXELS - right]
    film[seen] = np.round(grey[seen])
    return film


def _marker(letter, column, row):
    """Lead letter on the cassette, 0..1."""
    mask = Image.new("L", (PIXELS, PIXELS))
    font = ImageFont.load_default(size=26)
    ImageDraw.Draw(mask).text((column, row), letter, fill=255, font=font, anchor="mm")
    return gaussian_filter(np.asarray(mask) / 255, 0.6)
