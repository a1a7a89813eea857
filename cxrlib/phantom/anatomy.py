"""The simulated chest: its organs as shapes that can be cut into slices.

Lengths are centimetres of an average adult; `Patient.size` stretches them. Axes of the body: x
towards the patient's left, y towards the front, z upwards; the origin lies on the midline at the
height of the right dome of the diaphragm at full inspiration. Proportions follow the plates of
Gray's Anatomy (The Thorax) and were adjusted by eye against radiographs.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.interpolate import PchipInterpolator

from cxrlib.phantom.shapes import EDGE, Ellipsoid, fade, stamp

FRONT_BACK = (-14.0, 16.0)  # y between which the whole body lies
LOWEST_DOME = 4.5  # fall of the diaphragm from quiet expiration to full inspiration

# Half-width and half-depth of trunk, shoulders and neck at heights z, of a slim person.
_TRUNK_Z = [-40, -8, 4, 13, 17, 20, 22.5, 25, 28, 40]
_TRUNK_WIDTH = PchipInterpolator(_TRUNK_Z, [16, 15.8, 16.3, 16.6, 16.2, 14.8, 11.5, 7.6, 6.0, 5.8])
_TRUNK_DEPTH = PchipInterpolator(_TRUNK_Z, [11, 11, 10.8, 10.2, 9.4, 8.6, 7.6, 6.6, 6.0, 6.0])
_ROUND = 2.4  # exponent of the rib cage's cross-section, between an ellipse and a box


@dataclass(frozen=True)
class Patient:
    """What stays with a patient from visit to visit; lengths in cm, angles in degrees."""

    size: tuple[float, float, float] = (1.0, 1.0, 1.0)  # stretches x, y and z
    fat: float = 1.0  # under the skin, beyond a slim person's
    breast: float = 0.0  # radius
    bone: float = 1.0  # mineral content
    heart: float = 1.0  # scale
    heart_axis: float = 36.0  # of the ventricles, below the horizontal
    heart_length: float = 1.0  # of the ventricles, relative to their width
    fat_pad: float = 1.5  # radius of the fat beside the apex of the heart
    aorta: float = 1.0  # scale
    domes: tuple[float, float] = (0.0, -1.3)  # height of the right and the left diaphragm
    rib_slope: float = 1.0  # scale
    shoulders: float = 0.0  # height
    gas: tuple[float, float, float] = (1.8, 1.6, 1.0)  # radii of the bubble in the stomach
    seed: int = 0  # of the vessels and the course of wires


@dataclass(frozen=True)
class Visit:
    """What differs from film to film; cm and degrees unless said otherwise.

    The defaults are those of a standard PA film.
    """

    view: str = "PA"
    inspiration: float = 1.0  # 1 is full, 0 the end of quiet expiration
    arms_down: bool = False
    effusion: tuple[float, float] = (0.0, 0.0)  # height of fluid on the right and left
    growth: float = 1.0  # scale of the heart, beside the patient's own
    rotation: float = 0.0  # of the patient, about the long axis
    shift: tuple[float, float] = (0.0, 0.0)  # of the patient, to image right and upwards
    photons: float = 4e4  # per pixel, where nothing stands in the beam
    scatter: float = 1.8  # weight of the veil
    contrast: float = 1.05  # slope of the viewing curve
    brightness: float = 0.19  # shift of the viewing curve
    shutter: tuple[int, int, int, int] = (0, 0, 0, 0)  # pixels: left, top, right, bottom
    marker: tuple[str, int, int] = ("L", 460, 50)  # letter, column, row
    devices: tuple[str, ...] = ()  # see `skeleton.device`
    seed: int = 0  # of the noise


class Chest:
    """The organs of a patient at a visit; coordinates are those of an average adult."""

    def __init__(self, patient: Patient, visit: Visit):
        self.patient, self.visit = replace(patient, heart=patient.heart * visit.growth), visit
        self.flat = 1 - visit.inspiration
        self.domes = np.array(patient.domes) + LOWEST_DOME * self.flat

    @cached_property
    def heart(self):
        """Ventricles, right atrium, and the base; it broadens and lies down as lungs empty."""
        p, flat, s = self.patient, self.flat, self.patient.heart

        def part(x, y, z, radii, tilt):
            centre = s * np.array([x * (1 + 0.06 * flat), y, z + 0.8 * flat])
            return Ellipsoid([-0.4, 1.6, 4.5 + 2 * flat] + centre, s * np.array(radii), tilt)

        axis = p.heart_axis - 14 * flat
        return [
            part(2.6, 0.6, -1.3, [6.5 * p.heart_length, 5.2, 4.6], axis),
            part(-1.1, 0.0, 0.1, [3.0, 4.6, 5.6], -6),
            part(1.8, -0.2, 3.2, [2.9, 3.6, 4.8], -22),
        ]

    @cached_property
    def mediastinum(self):
        """What lies between the lungs besides the heart; fat widens it."""
        p, fat, wide = self.patient, 0.12 * self.patient.fat, 1 + 0.06 * self.flat
        left = self.heart[0].centre[0] + self.heart[0].reach[0]
        pad = p.fat_pad * np.array([1.5, 0.9, 0.9])
        return [
            Ellipsoid([-0.2, -0.6, 17], [(2.8 + fat) * wide, 3.2, 20], 3),
            Ellipsoid([0.3, 4.2, 15], [2.5 + fat, 3.0, 15]),
            Ellipsoid([-1.9, 1.0, 13], [1.4 * wide + fat, 1.8, 8.5], -5),  # superior vena cava
            Ellipsoid([1.9, -1.5, 20], [1.1 * wide + fat, 1.6, 6], 9),  # left subclavian artery
            Ellipsoid([1.5 * wide, -1.6, 14.8], p.aorta * np.array([2.2, 3.8, 2.2]), 15),  # arch
            Ellipsoid([2.0, -4.6, 4], [1.5 * p.aorta, 1.4, 15]),  # descending aorta
            Ellipsoid([2.6, 1.2, 11], [1.9, 2.2, 2.4]),  # pulmonary trunk
            Ellipsoid([0, -8, 8], [1.9, 1.5, 40]),  # spine
            Ellipsoid([0.3, -4.5, -5.5], [3.2, 4.5, 6]),  # crura of the diaphragm
            Ellipsoid([left - 1.2, 4.5, self.domes[1] - 0.2], pad, 40),
            Ellipsoid([-4.2 * p.heart, 4.5, self.domes[0] - 0.4], 0.7 * pad, -40),
        ]

    @cached_property
    def limbs(self):
        """Shoulders, upper arms and breasts."""
        p, parts = self.patient, []
        reach, tilt, x, z = (12, 84, 21.5, 7) if self.visit.arms_down else (14, 66, 22.8, 8)
        for side in (-1, 1):
            shoulder = [side * 15.5, -1.5, 17.6 + p.shoulders]
            arm = [side * (x + p.fat), -1, z + p.shoulders]
            breast = [side * 8.6, 8.1 + 0.8 * p.fat, 4.5 - 0.3 * p.breast]
            parts.append(Ellipsoid(shoulder, [7, 6.2, 5.2], side * 18))
            parts.append(Ellipsoid(arm, [reach, 4.6, 4.4 + 0.4 * p.fat], side * tilt))
            if p.breast:
                parts.append(Ellipsoid(breast, p.breast * np.array([1, 0.66, 1.25]), side * 12, 28))
        return parts

    @cached_property
    def gas(self):
        """Bubbles in stomach and colon, under the left dome."""
        (a, b, c), top = self.patient.gas, self.domes[1] - 0.9
        return [
            Ellipsoid([6.2, 1.5, top - c], [a, b, c], -12),
            Ellipsoid([8.6, 3.5, top - 2.2 * c - 0.8], [0.7 * a, 0.7 * b, 0.8 * c], 30),
        ]

    def cage(self, z):
        """Inner half-width and half-depth of the rib cage at heights z."""
        up, low = np.clip((z + 2) / 28, 0, 0.999), np.clip(-z / 10, 0, 1)
        width = 13.9 * (1 - up**3.9) ** 0.52 * (1 - 0.05 * low**2)
        return width, 8.6 * (1 - up**3.6) ** 0.45

    def cage_curve(self, turn, z, margin=0.0):
        """Points (..., 3) at angles from the back, over the side, to the front of the cage."""
        width, depth = self.cage(z)
        c, s = np.cos(turn), np.sin(turn)
        x = (width + margin) * np.sign(s) * np.abs(s) ** (2 / _ROUND)
        y = (depth + margin) * -np.sign(c) * np.abs(c) ** (2 / _ROUND) - 0.3
        return np.stack(np.broadcast_arrays(x, y, z), axis=-1)

    def cavity(self, x, y, z):
        """Level of points in the rib cage: below 1 inside."""
        width, depth = self.cage(z)
        return np.abs(x) ** _ROUND * width**-_ROUND + np.abs(y + 0.3) ** _ROUND * depth**-_ROUND

    def diaphragm(self, x, y):
        """Height of the diaphragm at x and y."""
        left = 1 / (1 + np.exp(-1.5 * x))  # one dome passes into the other
        top = self.domes[0] + (self.domes[1] - self.domes[0]) * left
        beside = np.abs(x) - 6.4
        side = np.where(beside > 0, 4.6 * (np.abs(beside) / 7.5) ** 2.6, 1.2 * (beside / 6.4) ** 2)
        behind = y - 2.0
        return top - side - np.where(behind < 0, 0.0554, 0.0408) * behind**2

    def fluid_level(self, x, y):
        """Height of the fluid of an effusion, with its meniscus at the wall."""
        height, dome = (np.where(x > 0, b, a) for a, b in (self.visit.effusion, self.domes))
        rim = np.clip((x / 13.5) ** 2 + ((y + 0.3) / 8.4) ** 2, 0, 1)
        return np.where(height > 0, dome - 6.2 + height * (1 + 0.55 * rim**3), -99)

    def cut(self, x, y, z, tissues):
        """Add the coverage 0..1 of one slice to the float32 map (rows, columns) of each tissue.

        x and y are (1, columns), z is (rows, 1). Tissues: `body`, which includes all others,
        `lung`, `fluid`, `vertebra` and `gas`.
        """
        fat = self.patient.fat
        width, depth = _TRUNK_WIDTH(z) + fat, _TRUNK_DEPTH(z) + 0.8 * fat
        trunk = np.abs(x) ** 2.5 * np.float32(width**-2.5)
        body = fade(trunk + np.abs(y + 0.6) ** 2.5 * np.float32(depth**-2.5), 12)
        tissues["body"] += stamp(body, self.limbs, x, y, z)
        tissues["gas"] += stamp(np.zeros_like(body), self.gas, x, y, z)
        column = np.clip(0.5 + 4 * (1 - (x / 1.9) ** 2 - ((y + 7.6) / 1.6) ** 2), 0, 1)
        disc = 0.5 + 0.5 * np.cos(2 * np.pi * z / 2.35)
        tissues["vertebra"] += column * (1 - 0.75 * disc**6)

        if np.abs(y + 0.3).min() > 9:  # in front of the ribs or behind them
            return
        solid = stamp(np.zeros_like(body), self.heart + self.mediastinum, x, y, z)
        apex = ((np.abs(x) - 5.2) / 7) ** 2 + ((z - 17) / 6.4) ** 2
        lung = fade(self.cavity(x, y, z), 11) * fade(np.where(z > 17, apex, 0), 6) * (1 - solid)
        lung *= np.clip((z - self.diaphragm(x, y)) / EDGE, 0, 1)
        wet = np.clip((self.fluid_level(x, y) - z) / (3 * EDGE), 0, 1)
        tissues["fluid"] += lung * wet
        tissues["lung"] += lung * (1 - wet)

    def heart_surface(self):
        """Points (n, 3) on the heart."""
        return np.concatenate([part.surface() for part in self.heart])

    def cage_surface(self):
        """Points (n, 3) on the inside of the rib cage, to where the lungs begin to taper."""
        turn, z = np.linspace(0, 2 * np.pi, 181), np.linspace(-4, 18, 45)[:, None]
        return self.cage_curve(turn, z).reshape(-1, 3)

    def fluid_points(self):
        """Points (n, 3) of a fine lattice within the fluid of an effusion."""
        axes = np.arange(-14, 14.1, 0.25), np.arange(-9, 9, 0.5), np.arange(-10, 14, 0.2)
        x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
        wet = (self.cavity(x, y, z) < 1) & (z > self.diaphragm(x, y)) & (z < self.fluid_level(x, y))
        points = np.stack([axis[at] for axis, at in zip(axes, np.nonzero(wet), strict=True)], -1)
        for part in self.heart + self.mediastinum:
            points = points[~part.holds(points)]
        return points
