"""The page of the comparison: AUCs in resamples of patients, the rule, tables and figure."""

import os
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from measure import ROUNDS, TIMED, Study, seconds
from ways import AVERAGED, CHANNELS, DEFAULT, FINDINGS, LITE, MORE, SEEDS, THORAX, WAYS, Way

import cxrlib as cxr
from cxrlib.metrics.bootstrap import RESAMPLES, auc, interval
from cxrlib.metrics.calibration import fit_platt
from cxrlib.model.folds import patient_folds
from cxrlib.plots.style import NEGATIVE, POSITIVE, THIRD, new_axes, plain

PAGE = Path(__file__).with_name("page.md").read_text()


class Scores:
    """AUCs of the ways in resamples of patients, (1 + resamples,), the first of all patients."""

    def __init__(self, study: Study):
        self.study, self.fits = study, pd.read_csv(study.kept / "fits.csv")
        names = pd.Index(study.sets[True]["filename"])
        self.place = {f: names.get_indexer(x["filename"]) for f, x in study.films.items()}

    @cache  # noqa: B019  one object per process
    def logits(self, way: Way) -> dict[tuple, np.ndarray]:
        """Return the held-out logits, (films,), by finding and seed."""
        table = pd.read_csv(self.study.kept / "scores" / f"{way}.csv")
        parts = table.groupby(["finding", "seed"])
        films = self.study.films
        return {
            key: part.set_index("filename")["logit"].loc[films[key[0]]["filename"]].to_numpy()
            for key, part in parts
        }

    @cache  # noqa: B019
    def area(self, ways: Way | tuple[Way, ...], finding: str, view: str = "") -> np.ndarray:
        """Return the AUC, mean over seeds; of several ways, of their calibrated logits' mean."""
        films, place = self.study.films[finding], self.place[finding]
        chosen = (films["view"] == view).to_numpy() if view else np.full(len(films), True)
        target, areas = films["target"].to_numpy(), []
        for seed in SEEDS:
            if isinstance(ways, Way):
                logit = self.logits(ways)[finding, seed]
            else:
                fold = patient_folds(films, seed)
                each = [calibrated(self.logits(way)[finding, seed], target, fold) for way in ways]
                logit = np.mean(each, axis=0)
            weights = self.study.weights[:, place[chosen]]
            areas.append(auc(target[chosen], logit[chosen], weights))
        return np.mean(areas, axis=0)

    def mean(self, ways: Way | tuple[Way, ...], findings: list[str], view: str = "") -> np.ndarray:
        return np.mean([self.area(ways, finding, view) for finding in findings], axis=0)


def calibrated(logit: np.ndarray, target: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Return logits, each calibrated by the other folds' films: the folds stay nested."""
    result = np.empty(len(logit))
    for number in np.unique(fold):
        rest = fold != number
        slope, intercept = fit_platt(logit[rest], target[rest])
        result[~rest] = slope * logit[~rest] + intercept
    return result


def rule(scores: Scores, ways: list[Way], cost: dict[Way, float]) -> tuple[Way, Way, dict]:
    """Return the best way, the one that the rule picks, and who is within one standard error."""
    means = {way: scores.mean(way, FINDINGS) for way in ways}
    best = max(ways, key=lambda way: means[way][0])
    less = {way: means[best] - means[way] for way in ways}
    near = {way: bool(d[0] <= d[1:].std()) for way, d in less.items()}
    cheapest = [way for way in ways if near[way]]
    return best, min(cheapest, key=lambda way: (round(cost[way]), numbers_of(way))), near


def numbers_of(way: Way) -> int:
    return way.grid**2 * CHANNELS[way.layer] * len(THORAX[way.thorax])


def signed(values: np.ndarray) -> str:
    value, low, high = (f"{x:+z.3f}" for x in interval(values).values())
    return f"{value} ({low} to {high})"


def three(values: np.ndarray) -> str:
    return cxr.format_interval(interval(values), 3)


def markdown(head: list[str], rows: list[list]) -> str:
    table = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in table)


def told_by(values: np.ndarray) -> str:
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return "better" if low > 0 else "worse" if high < 0 else "not told apart"


def call_of(way: Way) -> str:
    """Return the lines that make the features of a way."""
    return (
        f'backbone = cxr.load_backbone("{way.network}", image_size={way.size}, '
        f'layer="{way.layer}")\n'
        f"features = cxr.extract_features(backbone, paths, grid={way.grid})"
    )


def draw(scores: Scores, cost: dict[Way, float], picked: Way, file: Path) -> None:
    """Draw the mean difference of each way to the default with its interval, cheapest first."""
    ways = sorted((way for way in cost if way != DEFAULT), key=cost.get, reverse=True)
    ax = new_axes((8.6, 0.23 * len(ways) + 1.1))
    kinds = {"full": ("o", NEGATIVE), "8 bits": ("s", THIRD), "common thorax": ("D", POSITIVE)}
    for kind, (marker, colour) in kinds.items():
        own = [way for way in ways if kind_of(way) == kind]
        if not own:
            continue
        less = [scores.mean(way, FINDINGS) - scores.mean(DEFAULT, FINDINGS) for way in own]
        ends = pd.DataFrame(map(interval, less))
        reach = [ends["value"] - ends["low"], ends["high"] - ends["value"]]
        style = {"fmt": marker, "color": colour, "ms": 4.5, "lw": 1, "label": kind}
        ax.errorbar(ends["value"], [ways.index(way) for way in own], xerr=reach, **style)
    ax.axvline(0, color="0.6", lw=1)
    names = [f"{way}: {cost[way]:.0f} s" + "  (picked)" * (way == picked) for way in ways]
    ax.set_yticks(range(len(ways)), names, fontsize=8)
    ax.set_ylim(-0.7, len(ways) - 0.3)
    label = "mean AUC less the default's (95 % interval)"
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 3}
    plain(ax, above | {"frameon": False}, xlabel=label)
    ax.figure.savefig(file, dpi=110)
    plt.close(ax.figure)


def kind_of(way: Way) -> str:
    if way.thorax != "as it is":
        return "common thorax"
    return "8 bits" if way.precision == "fast" else "full"


def render(study: Study, ways: list[Way], out: Path) -> str:
    scores, cost = Scores(study), seconds(study, ways)
    plain_ways = [way for way in ways if kind_of(way) == "full"]
    best, picked, near = rule(scores, plain_ways, cost)
    draw(scores, cost, picked, out.with_suffix(".png"))
    films = study.sets[False]
    positive = {f: study.films[f].query("target == 1") for f in FINDINGS}
    counts = ", ".join(f"{len(x)} have {f}" for f, x in positive.items())
    positives = ", ".join(f"{x['patient'].nunique()} have {f}" for f, x in positive.items())
    less = scores.mean(picked, FINDINGS) - scores.mean(DEFAULT, FINDINGS)
    if picked == DEFAULT:
        verdict = (
            "**The rule confirms the default: InceptionV3, `mixed8`, 399 pixels, a 5 x 5 grid.**"
        )
    else:
        first = scores.mean(picked, FINDINGS[:1]) - scores.mean(DEFAULT, FINDINGS[:1])
        verdict = (
            f"**The rule picks another way than the default: {picked}.** Its features cost "
            f"{cost[picked]:.0f} processor seconds per 1,000 images, those of the default "
            f"{cost[DEFAULT]:.0f}.\nIts mean AUC less the default's is {signed(less)}, that of "
            f"{FINDINGS[0]} {signed(first)}. The library's default was\nnot changed: "
            f"{FINDINGS[0]} is what the notebooks teach, and more patients would have to tell. "
            "This makes the features that the rule picks:\n\n"
            f"```python\n{call_of(picked)}\n```"
        )
    if len(ways) < len(WAYS):
        verdict += f"\n**So far {len(ways)} of {len(WAYS)} ways are measured**, so this may change."
    ruling = (
        f"The best is {best}, with a mean AUC of {three(scores.mean(best, FINDINGS))}. "
        f"{sum(near.values())} of {len(near)} ways are as good.\nThe cheapest of them is {picked}. "
        f"The default {'is' if near[DEFAULT] else 'is not'} one of them: its mean AUC is "
        f"{three(scores.mean(DEFAULT, FINDINGS))}."
    )
    averaged, averaged_verdict = render_averaged(study, scores)
    return PAGE.format(
        verdict=verdict,
        films=len(films),
        moved=f"{max(1e-5, scores.fits['moved'].max()):.5f}",
        patients=films["patient"].nunique(),
        counts=counts + f", {len(films) - films['labels'].map(bool_finding).sum()} have none",
        seeds=len(SEEDS),
        resamples=RESAMPLES,
        timed=TIMED,
        rounds=ROUNDS,
        fits=", ".join(
            f"{row.seconds:.0f} s for {row.numbers:,}{' numbers per image' * (row.Index == 0)}"
            for row in scores.fits.itertuples()
        ),
        fitted=len(study.films[FINDINGS[0]]),
        processor=processor(),
        ruling=ruling,
        figure=out.with_suffix(".png").name,
        ways=render_ways(scores, cost, near),
        thorax=render_thorax(scores, ways),
        thorax_verdict=told_thorax(scores, ways),
        missing=told_missing(ways),
        averaged=averaged,
        averaged_verdict=averaged_verdict,
        count=len(ways),
        positives=positives,
    )


def bool_finding(labels: tuple) -> bool:
    return bool(set(labels) & set(FINDINGS))


def render_ways(scores: Scores, cost: dict, near: dict) -> str:
    rows = []
    for way in sorted(cost, key=lambda way: -scores.mean(way, FINDINGS)[0]):
        less = [scores.area(way, f) - scores.area(DEFAULT, f) for f in FINDINGS]
        rows.append(
            [f"**{way} (the default)**" if way == DEFAULT else way]
            + [three(scores.mean(way, FINDINGS))]
            + ([""] * 4 if way == DEFAULT else [signed(x) for x in [np.mean(less, axis=0), *less]])
            + [f"{cost[way]:.0f}"]
            + [{True: "yes", False: "no"}.get(near.get(way), "")]
        )
    head = ["way", "AUC, mean of three findings", "less the default", *FINDINGS]
    return markdown([*head, "seconds per 1,000 images", "as good"], rows)


def render_thorax(scores: Scores, ways: list[Way]) -> str:
    rows = []
    for base in (DEFAULT, LITE):
        for thorax, name in (("common", "alone"), ("both", "beside")):
            way = replace(base, thorax=thorax)
            if way not in ways:
                continue
            for view in ("", "PA", "AP"):
                less = [scores.area(way, f, view) - scores.area(base, f, view) for f in FINDINGS]
                own = scores.mean(base, FINDINGS, view)[0], scores.mean(way, FINDINGS, view)[0]
                cells = [signed(x) for x in [*less, np.mean(less, axis=0)]]
                rows.append([f"{base.network}, {name}", view or "all", *map("{:.3f}".format, own)])
                rows[-1] += cells
    head = ["features", "views", "mean AUC, plain", "mean AUC, common thorax"]
    return markdown([*head, *(f"{f}, less plain" for f in FINDINGS), "mean, less plain"], rows)


def told_missing(ways: list[Way]) -> str:
    missing = [str(way) for way in WAYS if way not in ways]
    if not missing:
        return ""
    return f"The script holds {len(missing)} more ways that are not measured: {'; '.join(missing)}."


def told_thorax(scores: Scores, ways: list[Way]) -> str:
    told, won = [], []
    names = {"common": "alone", "both": "beside the plain features"}
    for as_it_is, (thorax, name) in product((DEFAULT, LITE), names.items()):
        way = replace(as_it_is, thorax=thorax)
        if way not in ways:
            continue
        less = {
            view: scores.mean(way, FINDINGS, view) - scores.mean(as_it_is, FINDINGS, view)
            for view in ("", "PA", "AP")
        }
        told.append(
            f"- **{as_it_is.network}, {name}: {told_by(less[''])}.** The mean AUC changes by "
            f"{signed(less[''])}, within PA by {signed(less['PA'])} and within AP by "
            f"{signed(less['AP'])}."
        )
        won.append(told_by(less[""]) == "better")
    if not told:
        return "This is not measured yet."
    end = "It is not part of the library: the default gains nothing that is shown."
    if any(won[:2]):
        end = "It is not part of the library yet."
    return "\n".join([*told, "", end])


def render_averaged(study: Study, scores: Scores) -> tuple[str, str]:
    pair, rows, groups = tuple(AVERAGED), [], {f: [f] for f in FINDINGS + MORE}
    groups |= {"**mean of all eight**": FINDINGS + MORE, "**mean of the five not seen**": MORE}
    for name, findings in groups.items():
        first, second, both = (scores.mean(ways, findings) for ways in (*AVERAGED, pair))
        films = study.films[name] if name in study.films else None
        count = "" if films is None else films.query("target == 1")["patient"].nunique()
        gains = [signed(both - first), signed(both - second)]
        rows.append([name, count, f"{first[0]:.3f}", f"{second[0]:.3f}", f"{both[0]:.3f}", *gains])
    gain = {
        "all": scores.mean(pair, FINDINGS + MORE) - scores.mean(DEFAULT, FINDINGS + MORE),
        "five": scores.mean(pair, MORE) - scores.mean(DEFAULT, MORE),
    }
    more = [scores.mean(pair, x) - scores.mean(LITE, x) for x in (FINDINGS + MORE, MORE)]
    confirmed = all(interval(x)["low"] > 0 and x[0] >= 0.005 for x in (gain["all"], more[0]))
    verdict = f"Over eight findings the average gains {signed(gain['all'])} on InceptionV3 alone, "
    verdict += (
        f"and over the five not seen {signed(gain['five'])}.\nOver EfficientNetLite2 alone it "
    )
    verdict += f"gains {signed(more[0])} and {signed(more[1])}.\n\n"
    verdict += (
        "**Confirmed: the average beats either network.** The library has no call for it yet."
        if confirmed
        else "**Not confirmed: the average is not shown to rank better than the better of its two "
        "networks.**\nSo the library has no call for it. `cxr.compare_runs` tells which is better."
    )
    head = ["finding", "patients with it", "AUC, InceptionV3", "AUC, EfficientNetLite2"]
    head += ["AUC, averaged", "averaged less InceptionV3", "averaged less EfficientNetLite2"]
    return markdown(head, rows), verdict


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    return (
        f"{facts['model name'].replace('(R)', '')} (model {facts['model']}), {os.cpu_count()} cores"
    )
