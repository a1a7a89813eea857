"""Bones, airways, vessels and devices of the simulated chest: tubes, sampled as small volumes.

Coordinates are those of `anatomy`. What is drawn here is finer than a slice, so it is projected
point by point.
"""

from collections.abc import Iterator

import numpy as np

from cxrlib.phantom.anatomy import LOWEST_DOME, Chest
from cxrlib.phantom.shapes import Ellipsoid, Samples, curve, tube

TUBES = {  # courses from outside the body; what ends near the heart moves with the breath
    "endotracheal tube": [[0.6, 5, 34], [0.1, -0.5, 27], [0, -1.3, 21], [-0.2, -1.8, 16.5]],
    "venous line": [[-6.5, 7, 30], [-5, 6, 25], [-3.6, 4, 20], [-2.9, 1.5, 15], [-2.6, 1.2, 10.5]],
    "gastric tube": [[0.8, 3, 34], [0.4, -3, 24], [0.7, -4, 12], [1.2, -3.5, 2], [5, 0, -4]],
}


def bones(chest: Chest) -> Iterator[Samples]:
    """Yield every bone; volumes are those of its compact bone."""
    yield from _ribs(chest)
    for side in (-1, 1):
        yield from _shoulder(chest, np.array([side, 1, 1]))
    for z in 2.35 * (np.arange(-5, 14) + 0.5):  # from vertebra to vertebra
        yield from _vertebra(z)


def _ribs(chest):
    """Ten pairs of ribs around the cavity; their front ends turn to cartilage."""
    i, t = np.arange(10)[:, None], np.linspace(0.06, 1, 800)
    end = np.array([0.80, 0.83, 0.83, 0.82, 0.80, 0.78, 0.76, 0.72, 0.66, 0.60])[:, None]
    fall = np.array([6.4, 8.6, 10.3, 11.7, 12.9, 13.7, 14.3, 14.6, 14.9, 14.9])[:, None]
    rise = 0.9 * np.sin(np.pi * np.clip(t / 0.35, 0, 1)) * (i > 0)
    z = 21.9 - 2.33 * i + rise - chest.patient.rib_slope * fall * (t * end) ** 1.9
    right = chest.cage_curve(np.pi * t * end, np.clip(z, -8, 21.2), margin=0.4)
    right[..., 2] = z
    paths = np.concatenate([right, right * [-1, 1, 1]])
    radii = (0.85 + 0.3 * t)[:, None] * [0.7, 0.33]
    yield tube(paths, radii, 20, wall=0.15, share=1 - 0.55 * np.linspace(0, 1, 800) ** 2)
    yield tube(paths, radii, 12, share=0.12)


def _shoulder(chest, side):
    """Clavicle, scapula and humerus; arms turned away take the scapula off the lungs."""
    h, down = chest.patient.shoulders, chest.visit.arms_down
    turn = 0 if down else 2.2
    rise = np.array([[0], [0.3], [0.8], [1], [1]]) * [0, 0, h]
    knots = [[1.6, 6.6, 18.6], [5, 6.8, 19.6], [9.5, 4.2, 21.2], [14, 1, 22.2], [17.5, -0.5, 22]]
    clavicle = curve(knots + rise, 300) * side
    yield tube(clavicle, (0.68, 0.6), 40, wall=0.2)
    yield tube(clavicle, (0.62, 0.6), 24, share=0.1)

    glenoid, tip = [16.2, -3, 18.4 + h], [18.2, -1.5, 21.6 + h]
    angle, corner = [11.2 + turn, -9, 7 + h], [9.2 + turn, -8.2, 18.6 + h]
    lateral = curve([glenoid, [14.2 + turn / 2, -6, 13 + h], angle], 200) * side
    medial = curve([corner, [9 + turn, -9, 13 + h], angle], 200) * side
    spine = curve([corner, [13.5, -6.5, 20.2 + h], tip], 200) * side
    yield tube(lateral, np.linspace([0.4, 0.5], [0.16, 0.2], 200), 24, wall=0.12)
    yield tube(medial, (0.15, 0.3), 16, share=0.25)
    yield tube(spine, (0.5, 0.35), 24, wall=0.11)
    w = np.linspace(0.02, 0.98, 90)[:, None, None]
    breadth = np.linalg.norm(lateral - medial, axis=1) + 0.1
    blade = (lateral * (1 - w) + medial * w).reshape(-1, 3)
    yield blade, np.tile(9.4 / 90 * breadth / breadth.sum(), 90)

    head = np.array([18.6 + 0.2 * turn, -2, 18.3 + h])
    shell = Ellipsoid(head * side, [2.3, 2.3, 2.4]).surface(30000)
    yield shell, np.full(len(shell), 6.6 / len(shell))
    elbow = head + ([2.2, 1, -22] if down else [9.5, 1, -16])
    yield tube(curve([head - [0, 0, 1.6], elbow], 300) * side, (1.15, 1.15), 40, wall=0.24)


def _vertebra(z):
    """Pedicles, transverse processes, end plates and spinous process."""
    for side in (-1, 1):
        pedicle = [[side * 1.25, -8.6, z + 0.35], [side * 1.25, -9.8, z + 0.35]]
        process = [[side * 1.0, -10, z + 0.1], [side * 3.1, -10.4, z + 0.5]]
        plate = [[-1.8, -7.6, z + side * 0.9], [1.8, -7.6, z + side * 0.9]]
        yield tube(curve(pedicle, 12), (0.55, 0.4), 40, wall=0.036)
        yield tube(curve(process, 30), (0.5, 0.4), 24, wall=0.08)
        yield tube(curve(plate, 60), (0.06, 1.4), 24, share=0.4)
    spinous = curve([[0, -10.2, z - 0.3], [0, -11.2, z - 1.5]], 30)
    yield tube(spinous, (0.35, 0.3), 24, wall=0.07)


def airways(chest: Chest) -> Iterator[Samples]:
    """Yield the air in trachea and main bronchi."""
    carina = 12.6 + 0.6 * chest.flat
    fork = [-0.3, -2.2, carina + 0.4]
    trachea = [[0, -0.5, 33], [0.1, -1.2, 22], [-0.4, -2.2, carina]]
    right = [fork, [-2.2, -2.4, carina - 1.9], [-4.2, -2.4, carina - 3.6]]
    left = [fork, [2.3, -2.6, carina - 1.5], [5.0, -3.0, carina - 2.9]]
    for knots, radius, n in ((trachea, 0.75, 300), (right, 0.62, 120), (left, 0.55, 120)):
        yield tube(curve(knots, n), (radius, radius), 60)


def vessels(chest: Chest) -> Iterator[Samples]:
    """Yield the pulmonary vessels, generation by generation.

    Trees grow from both hila and fork until they reach the pleura or the diaphragm; the branches
    are narrower by about 2 ** (-1 / 3), the rule of Murray (PNAS 12, 1926).
    """
    rng = np.random.default_rng(chest.patient.seed)
    start, aim, radius = [], [], []
    for side, hilum in ((-1, [-4.0, -1.0, 10.2]), (1, [4.2, -1.6, 11.2])):
        for elevation in np.repeat([-80, -62, -45, -28, -10, 12, 35, 58], 2):
            angle = np.deg2rad(elevation + rng.normal(0, 8))
            front = rng.choice([-0.45, 0.45]) + rng.normal(0, 0.2)
            aim.append([side * (0.8 * np.cos(angle) + 0.12), front, np.sin(angle)])
            start.append(hilum + rng.normal(0, [0.5, 0.7, 0.9]) + [0, 0, 1.3 * np.sin(angle)])
            radius.append(0.44 - 0.1 * (elevation > 0) + rng.normal(0, 0.04))
    start, aim, radius = np.array(start), np.array(aim), np.array(radius)
    for generation in range(9):
        aim /= np.linalg.norm(aim, axis=1, keepdims=True)
        length = 3.3 * 0.85**generation * rng.uniform(0.6, 1.4, (len(start), 1))
        bend = rng.normal(0, 0.06, start.shape) * length
        t = np.linspace(0, 1, max(12, 60 - 10 * generation))[:, None]
        path = start[:, None] + (aim * length)[:, None] * t + bend[:, None] * (4 * t * (1 - t))
        taper = radius[:, None, None] * (1 - 0.2 * t)
        points, volumes = tube(path, taper, max(4, 24 - 5 * generation))
        free = _in_lung(chest, points)
        yield points[free], volumes[free]
        growing = _in_lung(chest, path[:, -1])
        end, aim, radius = path[growing, -1], aim[growing], radius[growing]
        fork = rng.normal(0, 0.33, aim.shape)
        start, aim = np.repeat(end, 2, axis=0), np.stack([aim + fork, aim - fork], axis=1)
        aim, radius = aim.reshape(-1, 3), np.repeat(radius, 2) * np.tile([0.86, 0.74], len(end))


def _in_lung(chest, points):
    x, y, z = points.T
    return (chest.cavity(x, y, z) < 0.96) & (z > chest.diaphragm(x, y) + 0.1)


def device(chest: Chest, name: str) -> Samples:
    """Return one of `TUBES`, or an ECG lead whose course comes from its number, as 'wire 3'."""
    if name in TUBES:
        breath = 0.13 * LOWEST_DOME * chest.flat * np.linspace(0, 1, 900)[:, None]
        return tube(curve(TUBES[name], 900) + breath * [0, 0, 1], (0.16, 0.16), 16, wall=0.035)
    rng = np.random.default_rng([chest.patient.seed, int(name.removeprefix("wire "))])
    skin, side = 11.3 + 0.8 * chest.patient.fat, rng.choice([-1, 1])
    pad = np.array([side * rng.uniform(5, 12), skin - 0.8, rng.choice([19.5, 4]) + rng.normal()])
    away = np.array([side * rng.uniform(10, 22), skin, rng.choice([-16, 34])])
    knots = np.linspace(pad, away, 5)
    knots[1:4] += rng.normal(0, [2.2, 0.1, 1.2], (3, 3))
    lead = tube(curve(knots, 900), (0.07, 0.07), 6)
    clip = tube(np.linspace(pad - [0.5, 0, 0.5], pad + [0.5, 0, 0.5], 40), (0.28, 0.12), 30)
    return np.concatenate([lead[0], clip[0]]), np.concatenate([lead[1], clip[1]])
