"""Films brought to a common thorax: stretched until the chest lies where the others' chests lie.

For each film a box is found that looks like the others' when it is stretched to a square: blurred
thumbnails with ranked grey values are compared, and the box with the highest correlation with their
mean is taken. A box has neither turn nor shear. `comparison.py` measures what it brings.
"""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage, optimize
from scipy.stats import rankdata
from tqdm import tqdm

from cxrlib.data.images import read_image

THUMBNAIL = 64  # pixels a side
PADDING = 0.4  # of a side, around a film
MOST_SHIFT, MOST_SCALE = 0.15, 0.3  # of a side, and of its logarithm


def thumbnail(path: str) -> np.ndarray:
    """Return a film small, blurred, its grey values ranked to 0..1, with edges all round."""
    small = ndimage.gaussian_filter(read_image(path, THUMBNAIL), 1.5)
    return np.pad(rankdata(small).reshape(small.shape) / small.size, pad_of(THUMBNAIL), "edge")


def pad_of(size: int) -> int:
    return round(PADDING * size)


def box_of(move: np.ndarray) -> np.ndarray:
    """Return x0, y0, x1, y1 in sides of the film, of a shift and a logarithmic scale, each x, y."""
    half = np.exp(move[2:]) / 2
    return np.concatenate([0.5 + move[:2] - half, 0.5 + move[:2] + half])


def look(padded: np.ndarray, move: np.ndarray) -> np.ndarray:
    """Return a thumbnail's box, stretched to a thumbnail."""
    x0, y0, x1, y1 = box_of(move)
    across = (np.arange(THUMBNAIL) + 0.5) / THUMBNAIL
    hats = []
    for start, end in ((y0, y1), (x0, x1)):
        at = (start + across * (end - start)) * THUMBNAIL - 0.5 + pad_of(THUMBNAIL)
        at = at.clip(0, len(padded) - 1)
        hats.append(np.maximum(0, 1 - abs(np.arange(len(padded)) - at[:, None])))
    return hats[0] @ padded @ hats[1].T


def register(padded: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Return the move, (4,), whose box correlates most with the common thorax."""

    def loss(move):
        return -np.corrcoef(look(padded, move).ravel(), common.ravel())[0, 1]

    bounds = [(-MOST_SHIFT, MOST_SHIFT)] * 2 + [(-MOST_SCALE, MOST_SCALE)] * 2
    return optimize.minimize(loss, np.zeros(4), method="L-BFGS-B", bounds=bounds).x


def common_thorax(paths: list[str], folder: Path) -> np.ndarray:
    """Return the mean of the films' thumbnails, each brought to the mean of the round before."""
    key = hashlib.sha256(" ".join(Path(path).name for path in paths).encode()).hexdigest()
    file = folder / f"thorax-{key[:16]}.npy"
    if not file.exists():
        padded = [thumbnail(path) for path in tqdm(paths, desc="thumbnails")]
        moves = np.zeros((len(paths), 4))
        for number in range(4):
            pairs = zip(padded, moves, strict=True)
            common = np.mean([look(each, move) for each, move in pairs], axis=0)
            if number < 3:
                moves = np.array([register(each, common) for each in tqdm(padded)])
                moves -= moves.mean(axis=0)  # or the mean would wander off
        np.save(file, common)
    return np.load(file)


def read_common(common: np.ndarray, path: str, size: int) -> np.ndarray:
    """Read a film and stretch its box to a square, (size, size) in 0..1."""
    box = box_of(register(thumbnail(path), common))
    large = read_image(path, 2 * size)
    pad = pad_of(len(large))
    film = Image.fromarray(np.pad(large, pad))  # black, as `read_image` pads
    return np.asarray(film.resize((size, size), Image.Resampling.BILINEAR, box * len(large) + pad))
