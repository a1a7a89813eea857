"""Make what `cxr doctor` compares with, and the films that `cxr export` is checked on.

    python tools/make_golden.py

Films of four simulated patients, the features that the bundled network makes of the last of them,
a head fitted on films of other simulated patients, and the probability that both give. Run it where
the tests pass. All comes out the same again, on other machines up to rounding.
"""

import hashlib
import json
import tempfile

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxrlib.data.files import file_digest
from cxrlib.data.frontal import BUNDLED as CHECK_FILE
from cxrlib.data.images import read_image
from cxrlib.data.study import choose_films, read_study
from cxrlib.deploy.doctor import (
    FEATURES,
    FILM,
    GOLDEN,
    HEAD,
    SIZE,
    apply_network,
    tile_means,
)
from cxrlib.model.backbone import extract_features, load_backbone
from cxrlib.model.head import fit_head
from cxrlib.model.network import BUNDLED
from cxrlib.phantom.film import simulate_film
from cxrlib.phantom.site import draw_films
from cxrlib.phantom.study import NOTE, make_study

SEED = 41
PATIENTS = 40  # of the head
FILMS = 4  # of the patients after those


def simulate_films() -> dict[str, np.ndarray]:
    """Return the films by file name, (480, 512), uint8: not square, so that they are padded."""
    films = {}
    for number in range(1, FILMS + 1):
        _, patient, visit, _ = draw_films(SEED, PATIENTS + number)[0]
        films[f"film{number}.png"] = simulate_film(patient, visit)[16:-16]
    return films


def fit_golden_head(backbone):
    """Return a linear head fitted on simulated patients."""
    with tempfile.TemporaryDirectory() as folder:
        make_study(folder, PATIENTS, SEED)
        films = choose_films(read_study(folder), "Cardiomegaly").query("split == 'train'")
        features = extract_features(backbone, films["path"], grid=3)
        return fit_head(features, films).model


def main() -> None:
    note = PngInfo()
    note.add_text("Comment", NOTE)
    for name, film in simulate_films().items():
        Image.fromarray(film).save(GOLDEN / name, optimize=True, pnginfo=note)
    backbone = load_backbone(image_size=SIZE)
    head = fit_golden_head(backbone)
    head.save(HEAD)
    grey = read_image(FILM, SIZE)
    features, probability = apply_network(backbone, head, grey)
    np.save(FEATURES, features)
    golden = {
        "weights": file_digest(BUNDLED),
        "film": file_digest(FILM),
        "grey": hashlib.sha256(grey.tobytes()).hexdigest(),
        "grey_means": tile_means(grey).round(6).tolist(),
        "network": backbone.digest,
        "features": hashlib.sha256(features.tobytes()).hexdigest(),
        "head": file_digest(HEAD),
        "check": file_digest(CHECK_FILE),
        "probability": round(probability, 6),
    }
    (GOLDEN / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
