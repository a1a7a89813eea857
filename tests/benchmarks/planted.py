"""From what strength on does the audit find a planted fault, and how often does it cry wolf?

Films of the phantom exist with and without each planted thing. A study of strength p takes, with
the finding, the version that has it with probability p, and without the finding with 1 - p; so
0.5 is clean. A head is fitted on training patients and audited on the others, as a user would.

    python tests/benchmarks/planted.py --out FOLDER

The first call simulates and describes the films: 20 minutes on two cores, kept in the folder. The
studies take as long again.

Films of 199 pixels, cut at mixed4, 5 x 5 cells: weaker than the library's own 399 pixels and
mixed8, and cheap enough to repeat.
"""

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.tree import DecisionTreeClassifier
from tqdm.auto import tqdm

from cxrlib.audit import groups, metadata, questions
from cxrlib.audit.localise import SIDE, boxed_films, score_map
from cxrlib.audit.mislabels import measure_label_ranking, rank_labels
from cxrlib.audit.perturb import change_film
from cxrlib.data.study import choose_films, read_study
from cxrlib.metrics.bootstrap import auc, interval, resample_patients
from cxrlib.metrics.bootstrap import mean as average
from cxrlib.metrics.bootstrap import share as rate
from cxrlib.metrics.calibration import fit_platt, measure_calibration
from cxrlib.metrics.thresholds import choose_threshold
from cxrlib.model.backbone import extract_features, load_backbone
from cxrlib.model.folds import patient_folds
from cxrlib.model.span import span_of_films
from cxrlib.phantom.study import make_study
from cxrlib.plots.style import LINES, plain

MEDICAL = Path(__file__).parents[2] / "medical"
RESAMPLES = metadata.RESAMPLES = groups.RESAMPLES = 500  # a quarter of the library's
# Of columns of two values one tree tells what a forest tells, at a fiftieth of its cost.
metadata.RandomForestClassifier = lambda n_estimators, **how: DecisionTreeClassifier(**how)
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
        bare = Image.open(film.path).convert("L")
        made = {"plain": bare} | {thing: plant(bare, thing) for thing in THINGS}
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
    if not (out / "study" / "labels.csv").exists():
        make_study(out / "study", patients, seed=1)
    parts = []
    for name, folder in (("a", MEDICAL), ("b", out / "study")):
        films = choose_films(read_study(folder), "Cardiomegaly")
        truth = pd.read_csv(folder / "truth.csv").set_index("filename")
        films = films.join(truth[["label_flipped"]], on="filename")
        boxed = boxed_films(read_study(folder), films, "Cardiomegaly").set_index("filename")
        films = films.join(boxed["mask"], on="filename")
        parts.append(films.assign(patient=name + films["patient"]))
    films = pd.concat(parts, ignore_index=True)
    backbone = load_backbone(image_size=199, layer="mixed4")
    paths = versions(films, out / "films")
    features = {name: extract_features(backbone, p, 5, out / "cache") for name, p in paths.items()}
    return films, features


def span(features: dict[str, np.ndarray], names: list[str], out: Path) -> dict[str, np.ndarray]:
    """Return the rows of some versions in the space that they span together: cheap to fit on."""
    file = out / f"span-{names[-1].split(',')[0]}-{len(features['plain'])}.npz"
    out.mkdir(exist_ok=True)
    if not file.exists():
        flat = [features[name].reshape(len(features[name]), -1) for name in names]
        rows = span_of_films(np.concatenate(flat).astype(np.float32))[0].astype(np.float32)
        np.savez(file, **dict(zip(names, np.split(rows, len(names)), strict=True)))
    return dict(np.load(file))


def fit(rows: np.ndarray, films: pd.DataFrame, seed: int) -> tuple[np.ndarray, np.ndarray, object]:
    """Return held-out logits of training films, and the head as a function from rows to logits."""
    fold = PredefinedSplit(patient_folds(films, seed))
    model = LogisticRegression(C=1e-3, class_weight="balanced", solver="newton-cg")
    held = cross_val_predict(model, rows, films["target"], cv=fold, method="decision_function")
    slope, intercept = fit_platt(held, films["target"].to_numpy())
    model.fit(rows, films["target"])
    return slope * held + intercept, lambda x: slope * model.decision_function(x) + intercept


def choose(films: pd.DataFrame, patients: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return the films of some patients, three tenths of whom are the test set; `row` is kept."""
    some = rng.permutation(films["patient"].unique())[:patients]
    chosen = films[films["patient"].isin(some)].rename_axis("row").reset_index()
    test = chosen["patient"].isin(some[: round(0.3 * patients)])
    return chosen.assign(split=np.where(test, "test", "train"))


def as_read(films: pd.DataFrame, probability: np.ndarray) -> pd.DataFrame:
    """Return a table as `read_predictions` gives it."""
    kept = films[["patient", "target", "split", "view", "sex"]]
    return kept.assign(id=films["filename"], fold="", age=np.nan, probability=probability)


def audit_once(films, rows, thing, strength, patients, rng) -> dict[str, object]:
    """Train and audit one study with a planted thing; return what was found."""
    chosen = choose(films, patients, rng)
    likely = np.where(chosen["target"] == 1, strength, 1 - strength)
    chosen["thing"] = np.where(rng.random(len(chosen)) < likely, "yes", "no")

    def pick(change=""):
        with_it, without = (rows[f"{name}{change}"][chosen["row"]] for name in (thing, "plain"))
        return np.where(chosen[["thing"]] == "yes", with_it, without)

    train, x = (chosen["split"] == "train").to_numpy(), pick()
    held, head = fit(x[train], chosen[train], 0)
    test = chosen[~train].reset_index(drop=True)
    logit = head(x[~train])
    cut = choose_threshold(chosen["target"][train].to_numpy(), expit(held), "youden")
    table = as_read(test, expit(logit))
    weights = resample_patients(table["patient"], RESAMPLES, 0)
    few = min(table.groupby("target")["patient"].nunique())
    found = {}
    for name, known in (("", table), ("told: ", table.assign(**{thing: test["thing"]}))):
        answers = {
            "metadata": questions._beats_metadata(known, few),
            "groups": questions._serves_alike(known, cut),
        }
        if not name:
            of = known["target"].to_numpy(), known["probability"].to_numpy(), weights
            measured = measure_calibration(*of) | {"calibration": {}}
            answers["calibrated"] = questions._is_calibrated(known, measured, few)
        found |= {f"{name}{claim}": x[0] == questions.NOT_SHOWN for claim, x in answers.items()}
    differ = answers["groups"][1].partition(". Intervals")[0]
    found["told: groups"] &= f"{thing} yes" in differ or f"{thing} no" in differ
    target = test["target"].to_numpy()
    before = auc(target, logit, weights)
    found |= {"auc": before[0]}
    # What the model is worth where the thing tells nothing: plain films of the same patients.
    found["honest auc"] = auc(target, head(rows["plain"][test["row"]]), weights[:1])[0]
    for change, things in HIDDEN.items():
        if thing in things:
            lost = interval(auc(target, head(pick(f", {change}")[~train]), weights) - before)
            found["hidden"] = lost["high"] < 0
    return found


def locate_once(films, features, thing, strength, patients, rng) -> dict[str, object]:
    """Return how well the evidence of test films with the finding lies in the box of the heart."""
    chosen = choose(films, patients, rng)
    likely = np.where(chosen["target"] == 1, strength, 1 - strength)
    has = rng.random(len(chosen)) < likely
    x = np.where(has[:, None], *(features[name][chosen["row"]] for name in (thing, "plain")))
    train = (chosen["split"] == "train").to_numpy()
    rows, back, mean, scale = span_of_films(x[train].astype(np.float32))
    model = LogisticRegression(C=1e-3, class_weight="balanced", solver="newton-cg")
    weight = (back @ model.fit(rows, chosen["target"][train]).coef_[0]) / scale
    boxed = ~train & chosen["mask"].notna().to_numpy()
    heat = ((x[boxed] - mean) * weight).reshape(boxed.sum(), 5, 5, -1).sum(axis=-1)
    masks, of = chosen["mask"][boxed].tolist(), chosen["patient"][boxed]
    scores = pd.DataFrame(map(score_map, heat, masks))
    across = np.linspace(-1, 1, SIDE)
    middle = np.exp(-2 * (across**2 + across[:, None] ** 2))  # as `locate` compares with
    less = scores["energy in box"] - [score_map(middle, mask)["energy in box"] for mask in masks]
    gain = interval(average(less.to_numpy(), resample_patients(of, RESAMPLES, 0)))
    return scores[["pointing game", "energy in box"]].mean().to_dict() | {
        "better than the middle": gain["low"] > 0
    }


def leak_once(films, rows, share, patients, rng) -> dict[str, object]:
    """Put one film of a share of the test patients among the training films."""
    chosen = choose(films, patients, rng)
    test = chosen[chosen["split"] == "test"]
    many = test[test.duplicated("patient")].drop_duplicates("patient")
    moved = many.sample(round(share * len(many)), random_state=int(rng.integers(2**31)))
    chosen.loc[moved.index, "split"] = "train"
    table = as_read(chosen, np.full(len(chosen), 0.5))
    unknown = table.assign(patient=table["id"] + table["patient"])
    verdicts = [questions._keeps_apart(x, None)[0] for x in (table, unknown)]
    found = [verdict == questions.NOT_SHOWN for verdict in verdicts]
    return {"patients right": found[0], "a patient per film": found[1], "crossing": len(moved)}


def flip_once(films, rows, share, patients, rng) -> dict[str, object]:
    """Turn a share of the true labels over, and look for them."""
    chosen = choose(films, patients, rng)
    wrong = rng.random(len(chosen)) < share
    chosen["target"] = (chosen["target"] ^ chosen["label_flipped"] ^ wrong).astype(int)
    held, _ = fit(rows["plain"][chosen["row"]], chosen, 0)
    ranked = rank_labels(as_read(chosen, expit(held)).assign(wrong=wrong))
    found = {"doubtful": (ranked["self_confidence"] < questions.DOUBTFUL).sum()}
    if wrong.any():
        table, order = measure_label_ranking(ranked, ranked["wrong"], (20,))
        found |= table.loc[20, ["precision", "recall", "chance"]].to_dict()
        found["wrong before right"] = order["value"]
    return found | limits(chosen, expit(held), share)


def limits(films, probability, share) -> dict[str, float]:
    """Return what two methods say of the share of wrong labels, and what follows of the features.

    Confident learning counts labels that a held-out score above its class's mean contradicts
    (Northcutt, Jiang and Chuang, JAIR 2021). The tails: where scores are highest or lowest, at
    least as many labels are contradicted as are wrong at random, whatever the features.
    """
    target, patients = films["target"].to_numpy(), films["patient"].to_numpy()
    scores = np.stack([1 - probability, probability], axis=1)
    mean = np.array([scores[target == side, side].mean() for side in (0, 1)])
    sure = np.where(scores >= mean, scores, -1)
    counted, said = sure.max(axis=1) >= 0, sure.argmax(axis=1)
    confident = (said != target)[counted].mean()
    low, high = np.quantile(probability, [0.2, 0.8])
    tails = (probability <= low) | (probability >= high)
    contradicted = tails & ((probability >= high) != (target == 1))
    weights = resample_patients(patients, RESAMPLES, 0)
    bound = min(interval(rate(contradicted, tails, patients, weights))["high"], 0.45)
    area = interval(auc(target, probability, weights))
    ill = target.mean()
    true = np.clip((ill - bound) / (1 - 2 * bound), 0, 1)
    # Labels so often wrong would leave perfect scores this AUC (Menon et al., ICML 2015).
    ceiling = 0.5 + (1 - bound * (1 - true) / ill - bound * true / (1 - ill)) / 2
    said = {"auc": area["value"], "confident": confident, "bound": bound, "ceiling": ceiling}
    return said | {"bound holds": bound >= share, "features limit": area["high"] < ceiling}


def repeat(once, films, rows, cases, sizes, times) -> pd.DataFrame:
    """Return the mean of what each case of (strength, thing) gives, one row per case and size."""
    result = []
    for (strength, *more), patients in tqdm(list(product(cases, sizes))):
        rng = np.random.default_rng([round(100 * strength), patients, *map(ord, "".join(more))])
        count = 2 * times if strength in (0, 0.5) else times
        found = [once(films, rows, *more, strength, patients, rng) for _ in range(count)]
        row = {"strength": strength, "patients": patients, "studies": count}
        row |= {"thing": more[0]} if more else {}
        result.append(row | pd.DataFrame(found).astype(float).mean().to_dict())
    table = pd.DataFrame(result)
    print(table.round(2).to_string(), flush=True)
    return table


def draw(table: pd.DataFrame, file: Path) -> None:
    """Draw the share of studies in which each part found each thing, over its strength."""
    figure, axes = plt.subplots(1, 4, figsize=(12.6, 3.3), sharey=True, layout="constrained")
    parts = {
        "told: metadata": "column known: metadata do as well",
        "told: groups": "column known: groups differ",
        "hidden": "its place hidden: AUC falls",
        "metadata": "column unknown: metadata",
    }
    for ax, thing in zip(axes, table["thing"].unique(), strict=False):
        for (colour, line), marker, (part, label) in zip(LINES, "os^D", parts.items(), strict=True):
            for patients, of_size in table[table["thing"] == thing].groupby("patients"):
                large = patients == table["patients"].max()
                style = {"marker": marker, "color": colour, "alpha": 1 if large else 0.45}
                name = f"{label}, {patients} patients" if ax is axes[0] else None
                ax.plot(of_size["strength"], of_size[part], line, ms=4, label=name, **style)
        plain(ax, xlabel="strength of the fault", title=thing, ylim=(-0.03, 1.03))
    axes[0].set_ylabel("share of studies in which it is found")
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for films and features")
    parser.add_argument("--new", type=int, default=170, help="patients beside the bundled 130")
    parser.add_argument("--times", type=int, default=20, help="studies per row, clean: twice")
    parser.add_argument("--patients", type=int, nargs="+", default=[130, 250])
    parser.add_argument("--faults", nargs="+", default=["leaks", "flips", "maps", *THINGS])
    options = parser.parse_args()
    films, features = prepare(options.out, options.new)
    how = {"sizes": options.patients, "times": options.times}
    if "leaks" in options.faults:
        repeat(leak_once, films, {}, [(x,) for x in (0, 0.1, 0.5, 1)], **how)
    if "flips" in options.faults:
        pooled = features["plain"].mean(axis=(1, 2), keepdims=True)
        for name, of in (("whole", features["plain"]), ("pooled", pooled)):
            rows = span({"plain": of}, ["plain"], options.out / name)
            repeat(flip_once, films, rows, [(x,) for x in (0, 0.05, 0.1, 0.2)], **how)
    if "maps" in options.faults:
        flat = {name: features[name].reshape(len(films), -1) for name in ("plain", *THINGS)}
        cases = [(x, thing) for thing in THINGS for x in (0.5, 0.9, 1)]
        repeat(locate_once, films, flat, cases, **how)
    parts = []
    for thing in [thing for thing in THINGS if thing in options.faults]:
        both = ("plain", thing)
        changes = [change for change, things in HIDDEN.items() if thing in things]
        names = [*both, *(f"{name}, {change}" for change in changes for name in both)]
        cases = [(x, thing) for x in (0.5, 0.7, 0.9, 1)]
        parts.append(repeat(audit_once, films, span(features, names, options.out), cases, **how))
    if parts:
        draw(pd.concat(parts), options.out / "planted.png")


if __name__ == "__main__":
    main()
