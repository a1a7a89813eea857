"""The model card of a run, made of `run.json`."""

import numpy as np
import pandas as pd

from cxrlib.data.labels import NO_FINDING
from cxrlib.metrics.report import SETS, format_interval, tabulate_metrics, tabulate_subgroups
from cxrlib.metrics.thresholds import at_prevalence


def model_card(facts: dict) -> str:
    """Return a model card (Mitchell et al., FAT* 2019) in Markdown, made of `run.json` alone."""
    metrics = facts["metrics"]
    tested = "test" in metrics
    shown = "test" if tested else "train"
    subgroups = tabulate_subgroups(metrics[shown]).reset_index()
    known = sorted(set(subgroups["group"]))
    unknown = [name for name in ("sex", "age") if name not in known]
    missing = f" The patients' {' and '.join(unknown)} are not known." if unknown else ""
    asked = " Films with other findings alone are not part of the question it was trained on."
    asked = asked if facts["negative"] == NO_FINDING else ""
    network, fit, patients = facts["backbone"], facts["fit"], facts["split"]["patients"]
    sections = {
        "Model details": [
            f"- {network['name']} up to `{network['layer']}`, weights `{network['weights']}`, and "
            f"a {fit['kind']} head on a grid of {facts['grid']} x {facts['grid']} cells; "
            f"{'fine-tuned' if facts['stage'] == 'finetuned' else 'the backbone is not trained'}.",
            f"- Films: {facts['preprocessing']}; image_size {facts['image_size']}.",
            f"- Made {facts['made']} with "
            + ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
            + ".",
        ],
        "Intended use": [
            f"To tell frontal chest radiographs with {facts['finding']} from those with "
            f"{facts['negative']}, in teaching and research. Not a medical device: no decision "
            f"about a patient may rest on it.{asked}",
        ],
        "Factors": [
            f"Measured by {', '.join(known)}, see below.{missing} Sites, devices and further "
            "groups of patients are not measured.",
        ],
        "Metrics": [
            f"Operating point: positive from {facts['threshold']['value']:.3f} "
            f"({facts['threshold']['rule']}), chosen on {facts['threshold']['chosen_on']}. "
            "Intervals are of 95 %, from resamples of patients with all their films.",
        ],
        "Training data": [
            f"Study `{facts['study']}`: {len(patients['train'])} patients, "
            f"{metrics['train']['films']} films scored while held out, "
            f"{metrics['train']['positives']} with the finding. {facts['data']['rows_left_out']} "
            "rows of its labels were left out as wrong.",
        ],
        "Evaluation data": [
            f"{len(patients['test'])} other patients of the same study"
            + (
                f", {metrics['test']['films']} films, {metrics['test']['positives']} with the "
                "finding, scored once for this run."
                if tested
                else ", not scored yet: the numbers below are of held-out training patients."
            ),
            f"{facts['split']['rule']}.",
        ],
        "Quantitative analyses": [
            *_table(tabulate_metrics(metrics).rename_axis("metric").reset_index()),
            "",
            f"Held out: {fit['held_out']}. The operating point was chosen on those scores, so "
            "their sensitivity and specificity are a little optimistic. auc_view_matched compares "
            "films of one view with each other.",
            "",
            f"### Subgroups, {SETS[shown]}",
            "",
            *_table(subgroups),
            "",
            "### Calibration",
            "",
            *_table(_calibration(metrics)),
            "",
            f"Brier score = miscalibration - discrimination + uncertainty. Calibrated by "
            f"{fit['calibration']['method']} on held-out scores of training patients, to their "
            f"prevalence of {facts['prevalence']:.2f}.",
            "",
            "### Elsewhere",
            "",
            *_table(_elsewhere(metrics[shown])),
            "",
            f"By Bayes' rule from sensitivity and specificity, {SETS[shown]}.",
            *_engine_section(facts),
        ],
        "Ethical considerations": [
            "Radiographs show people, who did not choose to train this model. A classifier can "
            "repeat the habits of those who took and labelled the films, and do worse in groups "
            "that are few in its data: read the counts of the subgroups with their intervals.",
        ],
        "Caveats and recommendations": [
            f"- Labels may be wrong. {NO_FINDING} is a label, too.",
            "- Films of other sites, devices, views or ages may score otherwise: measure there, "
            "with labels of that place, before use.",
            f"- Probabilities hold at a prevalence of {facts['prevalence']:.2f}.",
            f"- Few films lie behind some numbers: {metrics[shown]['positives']} with the finding.",
        ],
    }
    title = f"# {facts['finding']} against '{facts['negative']}' on frontal chest radiographs"
    lines = [title, "", "For teaching and research. Not a medical device."]
    for name, text in sections.items():
        lines += ["", f"## {name}", "", *text]
    return "\n".join(lines) + "\n"


def describe_engine(engine: dict) -> str:
    """Say in a sentence what `engine` in `run.json` measured."""
    return (
        f"{engine['name']}, {'kept' if engine['accepted'] else 'not kept'}: on {engine['films']} "
        f"training films the AUC moved by {engine['auc_moved']:.4f}, "
        f"{100 * engine['decisions_changed']:.1f} % of decisions changed, and no probability moved "
        f"by more than {engine['largest_move']:.2f}."
    )


def _engine_section(facts: dict) -> list[str]:
    if "engine" not in facts:
        return []
    text = f"{describe_engine(facts['engine'])} All other numbers are of the model itself."
    return ["", "### Engine of 8 bits", "", text]


def _calibration(metrics: dict) -> pd.DataFrame:
    """Return one row a set of patients."""
    rows = []
    for name, measured in metrics.items():
        parts = measured["calibration"]
        rows.append({"patients": SETS[name], "Brier score": format_interval(measured["brier"], 3)})
        for part in ("miscalibration", "discrimination", "uncertainty"):
            rows[-1][part] = f"{parts[part]:.3f}"
        error = f"{parts['expected_calibration_error']:.3f} ({parts['bins']})"
        rows[-1]["expected calibration error (bins of equal count)"] = error
    return pd.DataFrame(rows)


def _elsewhere(measured: dict) -> pd.DataFrame:
    sensitivity, specificity = (measured[k]["value"] for k in ("sensitivity", "specificity"))
    rows = []
    for prevalence in (0.01, 0.05, 0.2):
        worth = at_prevalence(sensitivity, specificity, prevalence)
        ppv = "undefined" if np.isnan(worth["ppv"]) else f"{worth['ppv']:.2f}"
        row = {"prevalence": f"{prevalence:g}", "ppv": ppv}
        rows.append(row | {"false alarms per 100 films": f"{worth['false_alarms']:.1f}"})
    return pd.DataFrame(rows)


def _table(frame: pd.DataFrame) -> list[str]:
    rows = [list(frame), ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
    return ["| " + " | ".join(row) + " |" for row in rows]
