"""Shapes of the simulated chest: ellipsoids that are cut into slices, and tubes of samples."""

import numpy as np
from scipy.interpolate import CubicSpline

EDGE = 0.12  # over which a border fades: heartbeat and breathing during the exposure
Samples = tuple[np.ndarray, np.ndarray]  # points (n, 3) in cm and volumes (n,) in cm3


class Ellipsoid:
    """An ellipsoid whose top leans back and whose first axis then points below the left."""

    def __init__(self, centre, radii, tilt=0.0, lean=0.0):
        c, s = np.cos(np.deg2rad([tilt, lean])), np.sin(np.deg2rad([tilt, lean]))
        axes = np.array([[1, 0, 0], [0, c[1], s[1]], [0, -s[1], c[1]]])
        axes = axes @ np.array([[c[0], 0, -s[0]], [0, 1, 0], [s[0], 0, c[0]]])
        self.centre, radii = np.array(centre, float), np.array(radii, float)
        self.axes = radii[:, None] * axes  # rows: from the centre to the surface
        self.matrix = axes.T @ np.diag(radii**-2.0) @ axes
        self.reach = np.linalg.norm(self.axes, axis=0)
        self.radius = radii.prod() ** (1 / 3)

    def surface(self, n=2000):
        """Points (n, 3) spread over the surface on a Fibonacci lattice."""
        height = 1 - (2 * np.arange(n) + 1) / n
        turn, ring = np.pi * (1 + 5**0.5) * np.arange(n), np.sqrt(1 - height**2)
        return self.centre + np.c_[np.cos(turn) * ring, np.sin(turn) * ring, height] @ self.axes

    def holds(self, points):
        """Whether points (n, 3) lie inside."""
        d = points - self.centre
        return np.einsum("ij,jk,ik->i", d, self.matrix, d) < 1


def stamp(out, ellipsoids, x, y, z):
    """Raise `out` (rows, columns) to the coverage 0..1 of a slice by ellipsoids; return it."""
    for shape in ellipsoids:
        (cx, cy, cz), (rx, ry, rz) = shape.centre, shape.reach + EDGE
        rows = np.abs(z[:, 0] - cz) < rz
        columns = (np.abs(x[0] - cx) < rx) & (np.abs(y[0] - cy) < ry)
        u, v, w = x[:, columns] - cx, y[:, columns] - cy, z[rows] - cz
        q = shape.matrix.astype(np.float32)
        level = q[0, 0] * u**2 + 2 * q[0, 1] * u * v + q[1, 1] * v**2 + q[2, 2] * w**2
        level += 2 * (q[0, 2] * u + q[1, 2] * v) * w
        box = np.ix_(rows, columns)
        out[box] = np.maximum(out[box], fade(level, shape.radius))
    return out


def fade(level, radius):
    """Coverage 0..1 from a level that is 1 on the surface and grows as distance squared."""
    return np.clip(0.5 + (1 - level) * np.float32(radius / (2 * EDGE)), 0, 1)


def tube(path, radii, spokes: int, wall: float | None = None, share=1.0) -> Samples:
    """Sample bent tubes of elliptical cross-section, solid or with a `wall` of that thickness.

    `path` (..., n, 3) is the axis of one or many tubes, `radii` (..., n, 2) go across and in depth,
    `spokes` is the number of samples per cross-section, `share` (..., n) the volume that counts.
    """
    path = np.asarray(path, float)
    radii = np.broadcast_to(radii, (*path.shape[:-1], 2))
    step = np.gradient(path, axis=-2)
    length = np.linalg.norm(step, axis=-1, keepdims=True)
    along = step / np.maximum(length, 1e-9)
    upright = np.abs(along[..., 2]).mean() > 0.7
    depth = np.cross(along, [1, 0, 0] if upright else [0, 0, 1])
    depth /= np.maximum(np.linalg.norm(depth, axis=-1, keepdims=True), 1e-9)
    across = np.cross(depth, along)
    # Golden spirals, or rings, that turn irregularly from section to section: no moire on the film.
    k = np.arange(spokes) + 0.5
    turns = (k / spokes if wall else k * 0.618034) + 0.7549 * np.arange(path.shape[-2])[:, None]
    r = 1.0 if wall else np.sqrt(k / spokes)
    points = path[..., None, :] + ((k * 0.618034) % 1 - 0.5)[:, None] * step[..., None, :]
    for axis, radius, wave in ((across, radii[..., :1], np.cos), (depth, radii[..., 1:], np.sin)):
        points += (radius * r * wave(2 * np.pi * turns))[..., None] * axis[..., None, :]
    rim = 2 * np.pi * np.sqrt((radii**2).mean(axis=-1))
    area = rim * wall if wall else np.pi * radii.prod(axis=-1)
    volumes = np.repeat((area * length[..., 0] * share / spokes)[..., None], spokes, axis=-1)
    return points.reshape(-1, 3), volumes.ravel()


def curve(knots, n: int) -> np.ndarray:
    """Smooth path (n, 3) through knots."""
    knots = np.asarray(knots, float)
    t = np.append(0, np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1)))
    return CubicSpline(t, knots)(np.linspace(0, t[-1], n))
