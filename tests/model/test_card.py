import json
import re

import pytest

from cxrlib.metrics.report import format_interval
from cxrlib.model.card import SIMULATED, model_card


@pytest.fixture
def facts(medical):
    """What `run.json` of the bundled run says."""
    return json.loads((medical / "models" / "cardiomegaly" / "run.json").read_text())


def test_model_card_is_made_of_run_json_alone(facts, medical):
    card = (medical / "models" / "cardiomegaly" / "MODEL_CARD.md").read_text()
    assert card == model_card(facts)
    auc = facts["metrics"]["test"]["auc"]
    for name in ("auc", "sensitivity", "specificity", "ppv", "npv", "auc_PA", "auc_AP"):
        assert f"| {name} |" in card
    assert f"{auc['value']:.2f} ({auc['low']:.2f} to {auc['high']:.2f})" in card
    assert "Not a medical device" in card
    sections = re.findall(r"^## (.+)$", card, re.M)
    assert sections == [  # of Mitchell et al., FAT* 2019
        *("Model details", "Intended use", "Factors", "Metrics", "Training data"),
        *("Evaluation data", "Quantitative analyses", "Ethical considerations"),
        "Caveats and recommendations",
    ]
    for subgroup in facts["metrics"]["test"]["subgroups"]:
        line = f"| {subgroup['group']} | {subgroup['name']} | {subgroup['films']} |"
        assert line in card and format_interval(subgroup["auc"]) in card


@pytest.mark.parametrize(
    ("keys", "value", "line"),
    [
        (("metrics", "train", "films"), 123456, "| films | 123456 |"),
        (("metrics", "train", "calibration", "miscalibration"), 0.4321, "| 0.432 |"),
        (("metrics", "test", "sensitivity", "value"), 0.0, "| 0.01 | 0.00 |"),
        (("metrics", "test", "subgroups", 0, "films"), 654321, "| 654321 |"),
        (("metrics", "train", "positives"), 1234, "1234 with the finding"),
        (("threshold", "value"), 0.98765, "positive from 0.988"),
        (("prevalence",), 0.77, "prevalence of 0.77"),
        (("fit", "calibration", "method"), "Isotonic", "Calibrated by Isotonic"),
        (("data", "rows_left_out"), 4711, "4711 rows"),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_each_number_of_the_card_follows_run_json(facts, keys, value, line):
    assert line not in model_card(facts)
    place = facts
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    assert line in model_card(facts)


@pytest.mark.parametrize(
    ("known", "sentence"),
    [
        (("view", "sex", "age"), ""),
        (("view", "sex"), " The patients' age is not known."),
        (("view",), " The patients' sex and age are not known."),
    ],
)
def test_the_card_says_what_is_not_known_of_the_patients(facts, known, sentence):
    groups = facts["metrics"]["test"]["subgroups"]
    facts["metrics"]["test"]["subgroups"] = [groups[0] | {"group": name} for name in known]
    named = ", ".join(sorted(known))
    assert f"Measured by {named}, see below.{sentence} Sites, devices" in model_card(facts)


@pytest.mark.parametrize("simulated", [True, False])
def test_the_card_warns_of_simulated_radiographs(facts, simulated):
    assert (SIMULATED in model_card(facts | {"simulated": simulated})) is simulated


def test_the_card_before_the_test_patients_are_scored(facts):
    del facts["metrics"]["test"]
    card = model_card(facts)
    assert "32 other patients of the same study, not scored yet" in card
    assert "### Subgroups, training, held out" in card
    assert "| metric | training, held out |\n" in card


@pytest.mark.parametrize("name", ["# Safe\n\n## Approved for use", "<h1>Safe</h1>", "a|b\u2028# c"])
def test_a_name_writes_no_heading_and_no_markup(facts, name):
    before = model_card(facts)
    plain = re.findall("^#+ .*", before, re.M)
    facts["finding"] = facts["negative"] = facts["study"] = facts["backbone"]["weights"] = name
    facts["metrics"]["test"]["subgroups"][0]["name"] = name
    card = model_card(facts)
    assert len(re.findall("^ *#+ .*", card, re.M)) == len(plain)
    assert re.findall("^#+ .*", card, re.M)[1:] == plain[1:]
    assert "<" not in card and len(card.splitlines()) == len(before.splitlines())
    (row,) = [line for line in card.splitlines() if line.startswith("| view | ") and "26" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 9


def test_the_card_says_what_a_run_reveals(facts):
    card = model_card(facts)
    assert "predictions.csv" in card and "burned into their pixels" in card
