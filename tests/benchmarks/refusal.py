"""How many strangers the check for frontal chest films refuses, and how many films it loses.

    python tests/benchmarks/refusal.py [STUDY]

STUDY is a study of real films (default: the folder in CXR_DATA, else the bundled one). Only its
test patients are measured: the check was fitted, and everything about it chosen, on training
patients and on other photographs than scikit-image's, which are measured here.

Prints a table, one row per kind: images, refused, their share with its 95 % interval (Wilson,
pictures as if independent), the share of all that got the right kind of reason, the area under the
ROC curve against the real films, and the commonest reasons.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import skimage.data
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy.ndimage import gaussian_filter, rotate
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from cxrlib.audit.strangers import cut_parts, spoil_films
from cxrlib.data.frontal import (
    REASONS,
    find_reason_in_file,
    find_reasons,
)
from cxrlib.data.images import read_image
from cxrlib.data.study import read_study

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from make_frontal import simulate_laterals

MEDICAL = Path(__file__).parents[2] / "medical"
SIZE = 399
TONES = [("black", "#fff0d0"), ("#101830", "white"), ("black", "#c0e0ff")]  # sepia, and two blues
STRANGE = {REASONS["part"], REASONS["else"]}
GREY = {"blank: hardly any contrast", "saturated: most of it is black or white"}


def test_films(study) -> tuple[np.ndarray, list[str]]:
    films = read_study(study).films.query("split == 'test'")
    return np.stack([read_image(path, SIZE) for path in films["path"]]), list(films["path"])


def text_pages(count: int, rng: np.random.Generator) -> np.ndarray:
    words = "the heart is of normal size no effusion lungs clear report of".split()
    pages = []
    for number in range(count):
        page = Image.new("L", (850, 1100), 255)
        font = ImageFont.load_default(size=int(rng.integers(12, 40)))
        for top in range(60, 1040, int(font.size * 1.5)):
            line = " ".join(rng.choice(words, rng.integers(0, 14)))
            ImageDraw.Draw(page).text((60, top), line, fill=0, font=font)
        pages.append(np.asarray(page if number % 2 else ImageOps.invert(page)))
    return as_films(pages)


def photographs() -> np.ndarray:
    """scikit-image's pictures, as a whole and three cuts of each."""
    folder = Path(skimage.data.__file__).parent
    paths = [p for p in sorted(folder.iterdir()) if p.suffix in (".png", ".jpg", ".gif")]
    whole = as_films([np.asarray(Image.open(path).convert("L")) for path in paths])
    return np.concatenate([whole, *(cut_parts(whole, 0.4, 0.9, seed) for seed in range(3))])


def as_films(pictures: list[np.ndarray]) -> np.ndarray:
    """Return 8-bit pictures as `read_image` would."""
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        films = []
        for picture in pictures:
            Image.fromarray(picture).save(file.name)
            films.append(read_image(file.name, SIZE))
    return np.stack(films)


def smooth_noise(rng: np.random.Generator) -> np.ndarray:
    smooth = np.stack([gaussian_filter(rng.normal(size=(SIZE, SIZE)), s) for s in range(1, 31)])
    smooth /= smooth.std(axis=(1, 2), keepdims=True)
    return np.clip(0.5 + 0.2 * smooth, 0, 1).astype(np.float32)


def tinted(paths: list[str]) -> list[str]:
    """Return the reasons that the files of films get when they are toned sepia or blue."""
    reasons = []
    with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        for number, path in enumerate(paths):
            film = Image.open(path).convert("L")
            ImageOps.colorize(film, *TONES[number % 3]).save(file.name, quality=92)
            reasons.append(find_reason_in_file(file.name))
    return reasons


def cut_middle(films: np.ndarray, share: float) -> np.ndarray:
    rim = int(SIZE * (1 - share) / 2)
    cut = [Image.fromarray(film[rim:-rim, rim:-rim]) for film in films]
    return np.stack([c.resize((SIZE, SIZE), Image.Resampling.BILINEAR) for c in cut])


def turn_slightly(films: np.ndarray) -> np.ndarray:
    angles = np.resize([-6, 6], len(films))
    pairs = zip(films, angles, strict=True)
    return np.stack([rotate(film, angle, reshape=False, order=1) for film, angle in pairs])


def main(study) -> None:
    rng = np.random.default_rng(0)
    real, paths = test_films(study)
    simulated, _ = test_films(MEDICAL)
    spoiled = spoil_films(real)
    laterals = as_films(list(simulate_laterals(40, seed=7)))
    kept = {
        "real films": real,
        "simulated films": simulated,
        "gamma 0.6": real**0.6,
        "gamma 1.6": real**1.6,
        "turned by 6 degrees": turn_slightly(real),
        "the middle 80 % of each side": cut_middle(real, 0.8),
        "mirrored": real[:, :, ::-1],
    }
    strangers = {
        **{kind: (pictures, {REASONS.get(kind)}) for kind, pictures in spoiled.items()},
        "part, 36 % of the area": (cut_parts(real, 0.6, 0.6001, 0), {REASONS["part"]}),
        "smooth noise": (smooth_noise(rng), STRANGE),
        "photographs": (photographs(), STRANGE | GREY),
        "pages of text": (text_pages(60, rng), STRANGE | GREY),
        "laterals (simulated)": (laterals, {REASONS["lateral"]}),
    }
    for kind, right in (("noise", STRANGE), ("blank", GREY), ("saturated", GREY)):
        strangers[kind] = strangers[kind][0], right

    films = find_reasons(real)["score"]
    rows = [row(kind, find_reasons(pictures)["reason"], {""}) for kind, pictures in kept.items()]
    for kind, (pictures, right) in strangers.items():
        found = find_reasons(pictures)
        labels = np.repeat([0, 1], [len(films), len(found)])
        scores = pd.concat([films, found["score"]]).rank()  # some are infinite
        area = roc_auc_score(labels, scores)
        rows.append(row(kind, found["reason"], right) | {"AUC": area})
    rows.append(row("coloured", tinted(paths), {"coloured: radiographs are grey"}))
    rows.append(row("real films, colour", [find_reason_in_file(path) for path in paths], {""}))
    table = pd.DataFrame(rows).set_index("kind").round(3)
    print(table.to_string())
    strange = table.loc["inverted":"coloured"].drop("part, 36 % of the area")
    print(
        f"\nall strangers ('inverted' to 'coloured', without parts of 36 %): "
        f"{strange['refused'].sum() / strange['pictures'].sum():.4f} refused, mean over kinds "
        f"{strange['share'].mean():.4f}, least {strange['share'].min():.4f}; of the right kind "
        f"{strange['right'].mean():.4f}, least {strange['right'].min():.4f}"
    )
    started = time.perf_counter()
    for first in range(0, len(real), 16):
        find_reasons(real[first : first + 16])
    cost = 1000 * (time.perf_counter() - started) / len(real)
    print(f"cost: {cost:.1f} ms a film, in batches of 16")


def row(kind: str, reasons, right: set[str]) -> dict:
    refused = pd.Series([reason for reason in reasons if reason], dtype=str)
    interval = binomtest(len(refused), len(reasons)).proportion_ci(method="wilson")
    commonest = refused.value_counts().head(2)
    return {
        "kind": kind,
        "pictures": len(reasons),
        "refused": len(refused),
        "share": len(refused) / len(reasons),
        "low": interval.low,
        "high": interval.high,
        "right": np.mean([reason in right for reason in reasons]),
        "reasons": "; ".join(f"{reason} ({count})" for reason, count in commonest.items()),
    }


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("CXR_DATA", MEDICAL))
