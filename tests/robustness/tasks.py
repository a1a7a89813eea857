"""The work that a kill interrupts, where no command does it: `python tasks.py NAME WORK MADE`.

WORK is the folder to write in, MADE holds a folder per kind of work that ended undisturbed. The
file WORK/../begun says that all is loaded and the work begins.
"""

import sys
from pathlib import Path

STUDY = Path(__file__).parents[2] / "medical"
SAVES = 12


def load():
    """Return study, films, those to train on, and a small backbone."""
    import cxrlib as cxr

    study = cxr.read_study(STUDY)
    films = cxr.choose_films(study, "Cardiomegaly").iloc[:90]
    train = films[films["split"] == "train"]
    return study, films, train, cxr.load_backbone(image_size=128, layer="mixed4")


def caching(work: Path, made: Path) -> None:
    from cxrlib import extract_features

    *_, train, backbone = load()
    (work.parent / "begun").touch()
    extract_features(backbone, train["path"], cache=work / "cache")


def training(work: Path, made: Path, saves: int = 1) -> None:
    import cxrlib as cxr

    study, films, train, backbone = load()
    cache = made / "caching" / "work" / "cache"
    features = cxr.extract_features(backbone, train["path"], cache=cache)
    (work.parent / "begun").touch()
    fitted = cxr.fit_head(features, train)
    for _ in range(saves):
        cxr.save_run(work / "run", study, films, "Cardiomegaly", backbone, fitted)


def saving(work: Path, made: Path) -> None:
    """Save over the run that is there, which must load, before and after."""
    from cxrlib import load_run

    load_run(work / "run")
    training(work, made, SAVES)
    load_run(work / "run")


def downloading(work: Path, made: Path) -> None:
    from cxrlib.data.download import download_nih_sample

    url, manifest = ((made / "served" / name) for name in ("url", "manifest"))
    (work.parent / "begun").touch()
    download_nih_sample(work / "study", url.read_text(), manifest)


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
