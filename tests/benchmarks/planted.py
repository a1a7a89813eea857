"""From what strength on does the audit find a planted fault, and how often does it cry wolf?

Films of the phantom exist with and without each planted thing. A study of strength p takes, with
the finding, the version that has it with probability p, and without the finding with 1 - p; so
0.5 is clean. A head is fitted on training patients and audited on the others, as a user would.

    python tests/benchmarks/planted.py --out FOLDER             # features, once: half an hour
    python tests/benchmarks/planted.py --out FOLDER --times 20  # and then the tables

Films of 199 pixels, cut at mixed4, 5 x 5 cells: weaker than the library's own 399 pixels and
mixed8, and cheap enough to repeat.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from cxrlib.audit.perturb import change_film
from cxrlib.data.study import choose_films, read_study
from cxrlib.model.backbone import extract_features, load_backbone
from cxrlib.phantom.study import make_study

MEDICAL = Path(__file__).parents[2] / "medical"
THINGS = ("marker", "pacemaker", "collimation", "brightness")
HIDDEN = {"upper corners hidden": ("marker",), "border hidden": ("collimation",)}


def plant(film: Image.Image, thing: str) -> Image.Image:
    """Return the film, 512 x 512 and grey, with a thing planted."""
    if thing == "brightness":
        return film.point([min(255, round(grey * 1.08 + 6)) if grey else 0 for grey in range(256)])
    mask, bright = Image.new("L", film.size), 250
    draw = ImageDraw.Draw(mask)
    if thing == "marker":
        draw.text((70, 108), "P", fill=255, font=ImageFont.load_default(size=26), anchor="mm")
    elif thing == "pacemaker":
        draw.rounded_rectangle((366, 112, 412, 150), 14, fill=235)
        draw.line([(366, 130), (320, 124), (288, 170), (276, 240), (300, 322)], fill=220, width=3)
    elif thing == "collimation":
        draw.rectangle((0, 0, 511, 511), outline=255, width=26)
        bright = 0
    return Image.composite(
        Image.new("L", film.size, bright), film, mask.filter(ImageFilter.GaussianBlur(0.6))
    )


def versions(films: pd.DataFrame, folder: Path) -> dict[str, list[Path]]:
    """Write each film plain and with each thing, and some with a part hidden; return paths."""
    paths: dict[str, list[Path]] = {}
    for film in films.itertuples():
        plain = Image.open(film.path).convert("L")
        made = {"plain": plain} | {thing: plant(plain, thing) for thing in THINGS}
        nothing = np.zeros((512, 512), bool)
        for change, things in HIDDEN.items():
            for thing in ("plain", *things):
                pixels = np.asarray(made[thing], np.float32) / 255
                changed = change_film(pixels, nothing | True)[change]
                made[f"{thing}, {change}"] = Image.fromarray(np.uint8(np.rint(changed * 255)))
        for name, image in made.items():
            path = folder / name / f"{film.patient}_{Path(film.path).name}"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path, quality=90)
            paths.setdefault(name, []).append(path)
    return paths


def prepare(out: Path, patients: int) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return the films of the bundled and of a new phantom study, and features by version."""
    make_study(out / "study", patients, seed=1)
    parts = []
    for name, folder in (("a", MEDICAL), ("b", out / "study")):
        films = choose_films(read_study(folder), "Cardiomegaly")
        truth = pd.read_csv(folder / "truth.csv").set_index("filename")
        films = films.join(truth[["label_flipped"]], on="filename")
        parts.append(films.assign(patient=name + films["patient"]))
    films = pd.concat(parts, ignore_index=True)
    backbone = load_backbone(image_size=199, layer="mixed4")
    paths = versions(films, out / "films")
    features = {name: extract_features(backbone, p, 5, out / "cache") for name, p in paths.items()}
    return films, features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for films and features")
    parser.add_argument("--new", type=int, default=170, help="patients beside the bundled 130")
    options = parser.parse_args()
    films, features = prepare(options.out, options.new)
    print(films.groupby("target")["patient"].agg(["size", "nunique"]), list(features))


if __name__ == "__main__":
    main()
