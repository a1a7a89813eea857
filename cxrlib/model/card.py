"""The model card of a run, made of `run.json` and the text in `model_card.md`."""

import html
import re
from pathlib import Path

import numpy as np
import pandas as pd

from cxrlib.data.labels import NO_FINDING
from cxrlib.metrics.report import SETS, format_interval, tabulate_metrics, tabulate_subgroups
from cxrlib.metrics.thresholds import at_prevalence

TEMPLATE = Path(__file__).with_name("model_card.md")
TESTED = "{films} films, {positives} with the finding, scored once for this run."
UNTESTED = "not scored yet: the numbers below are of held-out training patients."
ENGINE = "\n### Engine of 8 bits\n\n{} All other numbers are of the model itself.\n"
MOVED = " prevalence, and recalibrated for another place, see there. Now to a"
OPTIMISTIC = (
    "The operating point was chosen on those scores, so their sensitivity and specificity are a "
    "little optimistic. "
)
NETWORK = (
    "{backbone[name]} up to `{backbone[layer]}`, weights `{backbone[weights]}`, and a {fit[kind]} "
    "head on a grid of {grid} x {grid} cells; {training}.\n"
    "- Films: {preprocessing}; image_size {image_size}."
)
EMBEDDED = (
    "A {fit[kind]} head on embeddings of `{backbone[name]}`, {embeddings[dimension]} numbers per "
    "film.\n- Embeddings were made outside cxrlib (SHA-256 {backbone[digest]:.12}); how films were "
    "read is not known here."
)
ASKED = " Films with other findings alone are not part of the question it was trained on."
SIMULATED = (
    "Trained on simulated radiographs, so its scores of real radiographs are not meaningful."
)


def model_card(facts: dict) -> str:
    """Return a model card (Mitchell et al., FAT* 2019) in Markdown, made of `run.json` alone."""
    facts = _plain(facts)
    metrics, sides = facts["metrics"], facts["split"]["patients"]
    patients = {side: n if isinstance(n, int) else len(n) for side, n in sides.items()}
    shown = "test" if "test" in metrics else "train"
    subgroups = tabulate_subgroups(metrics[shown]).reset_index()
    known = sorted(set(subgroups["group"]))
    missing = " and ".join(name for name in ("sex", "age") if name not in known)
    unknown = f" The patients' {missing} {'are' if ' ' in missing else 'is'} not known."
    network = EMBEDDED if "embeddings" in facts else NETWORK
    training = "fine-tuned" if facts["stage"] == "finetuned" else "the backbone is not trained"
    training += " and computes in 8 bits" if facts.get("precision") == "fast" else ""
    moved = "recalibrated" in facts
    return TEMPLATE.read_text().format(
        **facts,
        network=network.format(**facts, training=training),
        packages=", ".join(f"{name} {number}" for name, number in facts["versions"].items()),
        caution=f" {SIMULATED}" if facts.get("simulated") else "",
        asked=ASKED if facts["negative"] == NO_FINDING else "",
        known=", ".join(known),
        unknown=unknown if missing else "",
        train_patients=patients["train"],
        test_patients=patients["test"],
        tested=(TESTED if shown == "test" else UNTESTED).format(**metrics[shown]),
        no_finding=NO_FINDING,
        shown=SETS[shown],
        measured=_table(tabulate_metrics(metrics).rename_axis("metric").reset_index()),
        subgroups=_table(subgroups),
        calibration=_table(_calibration(metrics)),
        elsewhere=_table(_elsewhere(metrics[shown])),
        engine_section=ENGINE.format(describe_engine(facts["engine"])) if "engine" in facts else "",
        recalibrated_section=_describe_recalibration(facts) if moved else "",
        optimistic="" if moved else OPTIMISTIC,
        moved=MOVED if moved else "",
        positives=metrics[shown]["positives"],
    )


def _plain(facts):
    """Return facts whose texts stand in Markdown as they are: on one line, and no markup."""
    if isinstance(facts, dict):
        return {key: _plain(value) for key, value in facts.items()}
    if isinstance(facts, list):
        return [_plain(value) for value in facts]
    if not isinstance(facts, str):
        return facts
    text = html.escape(" ".join(facts.split()), quote=False).replace("`", "'")
    return re.sub(r"[\\|\[\]]", r"\\\g<0>", text)


def describe_engine(engine: dict) -> str:
    """Say in a sentence what `engine` in `run.json` measured."""
    return (
        f"{engine['name']}, {'kept' if engine['accepted'] else 'not kept'}: on {engine['films']} "
        f"training radiographs the AUC moved by {engine['auc_moved']:.4f}, "
        f"{100 * engine['decisions_changed']:.1f} % of decisions changed, and no probability moved "
        f"by more than {engine['largest_move']:.2f}."
    )


def _describe_recalibration(facts: dict) -> str:
    told = facts["recalibrated"]
    change = "logit x {slope:.3f} + {intercept:.3f}"
    change = "a threshold of {threshold:.3f}" if told["how"] == "threshold" else change
    text = (
        "Made from run `{parent}` (SHA-256 of its run.json {parent_digest:.12}) on `{place}`: "
        "{films} films of {patients} patients, {positives} with the finding. Way: {how}, "
        f"{change}. The numbers above are of films of `{facts['study']}`, as this run scores them. "
        "The other patients of `{place}`, before and after:"
    ).format(**told)
    table = tabulate_metrics(told["measured"]).rename_axis("metric").reset_index()
    return f"\n### Recalibrated for another place\n\n{text}\n\n{_table(table)}\n"


def _calibration(metrics: dict) -> pd.DataFrame:
    """Return one row per set of patients."""
    rows = []
    for name, measured in metrics.items():
        parts = measured["calibration"]
        row = {"patients": SETS[name], "Brier score": format_interval(measured["brier"], 3)}
        row |= {x: f"{parts[x]:.3f}" for x in ("miscalibration", "discrimination", "uncertainty")}
        error = f"{parts['expected_calibration_error']:.3f} ({parts['bins']})"
        rows.append(row | {"expected calibration error (bins of equal count)": error})
    return pd.DataFrame(rows)


def _elsewhere(measured: dict) -> pd.DataFrame:
    prevalence = np.array([0.01, 0.05, 0.2])
    sensitivity, specificity = (measured[k]["value"] for k in ("sensitivity", "specificity"))
    worth = at_prevalence(sensitivity, specificity, prevalence)
    columns = {
        "prevalence": (prevalence, "g"),
        "ppv": (worth["ppv"], ".2f"),
        "false alarms per 100 films": (worth["false_alarms"], ".1f"),
    }
    texts = {name: [f"{x:{form}}" for x in values] for name, (values, form) in columns.items()}
    return pd.DataFrame(texts).replace("nan", "undefined")


def _table(frame: pd.DataFrame) -> str:
    rows = [list(frame), ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
