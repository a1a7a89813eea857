"""`run.json`: what is malformed, changed or never ends is told in a sentence."""

import os
import shutil

import pytest

from cxrlib.model.facts import RunError, read_facts
from facts import edit


@pytest.fixture
def bundled(medical, tmp_path):
    """A copy of the bundled run, to be damaged."""
    return shutil.copytree(medical / "models" / "cardiomegaly", tmp_path / "run")


@pytest.mark.parametrize("name", ["head.keras", "predictions.csv", "history.csv"])
@pytest.mark.parametrize("change", ["edited", "missing"])
def test_changed_file_is_named(bundled, name, change):
    if change == "missing":
        (bundled / name).unlink()
    else:
        changed = bytearray((bundled / name).read_bytes())
        changed[-1] ^= 1
        (bundled / name).write_bytes(changed)
    with pytest.raises(RunError, match=rf"{name} is not the file that was saved. Train again"):
        read_facts(bundled)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"run\.json is no JSON"),
        ('{"format": 2,', r"run\.json is no JSON"),
        ("[" * 100_000, r"run\.json is no JSON"),
        (b"\xff\xfe", r"run\.json is no JSON"),
        ("[]", r"run\.json: format None is not known here\. Train again"),
        ('{"format": 1}', r"run\.json: format 1 is not known"),
        ('{"format": "' + "a" * 10**5 + '"}', r"run\.json: format 'a{,39} is not known"),
        ('{"format": 2, "stage": "head"}', r"run\.json lacks 'files'\. Train again"),
    ],
)
def test_run_json_that_is_none(bundled, text, message):
    (bundled / "run.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RunError, match=message):
        read_facts(bundled)


NO_CARD = r"run\.json is not as it was written \((Type|Attribute|Value|Index)Error"
NO_SHARE = "not a number from 0 to 1"


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["threshold"], 0.5, "threshold is 0.5, not an object"),
        (["threshold", "value"], float("nan"), f"threshold.value is nan, {NO_SHARE}"),
        (["threshold", "value"], float("inf"), f"threshold.value is inf, {NO_SHARE}"),
        (["threshold", "value"], 1e308, rf"threshold.value is 1e\+308, {NO_SHARE}"),
        (["threshold", "value"], -5, f"threshold.value is -5, {NO_SHARE}"),
        (["threshold", "value"], "0.5", f"threshold.value is '0.5', {NO_SHARE}"),
        (["threshold", "value"], True, f"threshold.value is True, {NO_SHARE}"),
        (["prevalence"], [0.4], f"prevalence is .*, {NO_SHARE}"),
        (["image_size"], 399.5, "image_size is 399.5, not a whole number"),
        (["image_size"], 10**12, "image_size is 1000000000000, not a whole number"),
        (["finding"], None, "finding is None, not a text"),
        (["negative"], {"a": 1}, "negative is .*, not a text"),
        (["stage"], ["head"], r"stage is \['head'\], not a text"),
        (["backbone"], "InceptionV3", r"backbone is 'InceptionV3', not an object"),
        (["backbone", "name"], 7, "backbone.name is 7, not a text"),
        (["preprocessing"], "old", "read otherwise than today"),
        (["metrics"], [], "metrics is .*, not an object"),
        (["metrics", "train"], 1, NO_CARD),
        (["metrics", "train", "auc"], "good", NO_CARD),
        (["metrics", "test", "subgroups"], None, NO_CARD),
        (["split", "patients"], [], NO_CARD),
        (["split", "patients", "train"], "", "split.patients has neither numbers nor lists"),
        (["fit", "calibration"], 1, NO_CARD),
        (["engine"], True, NO_CARD),
        (["engine"], {}, "lacks 'shift'"),
        (["engine"], {"shift": float("nan"), "files": []}, "a shift that is no number"),
        (["engine"], {"shift": 0, "files": [["engine.xml"]]}, "a file without a name"),
        (["engine"], {"shift": 0, "files": None}, NO_CARD),
        (["versions"], "3.15", "versions is '3.15', not an object"),
        (["files"], ["head.keras"], "files is .*, not an object"),
        (["files"], {}, "is not the file that was saved"),
        (["files", "/etc/passwd"], "0", "/etc/passwd is not the file that was saved"),
        (["files", "../run/run.json"], "0", "/../run/run.json is not the file that was saved"),
        (["files", ".."], "0", "is not the file that was saved"),
        (["files", "history.csv"], 5, "history.csv is not the file that was saved"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_run_json_that_is_malformed(bundled, keys, value, message):
    edit(bundled, *keys, value=value)
    with pytest.raises(RunError, match=message):
        read_facts(bundled)


def test_a_run_that_is_not_there(tmp_path):
    with pytest.raises(RunError, match=r"nothing holds no run\.json: train first"):
        read_facts(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["run.json", "predictions.csv", "head.keras"])
@pytest.mark.parametrize("other", ["pipe", "/dev/zero"])
def test_what_never_ends_is_not_read(bundled, name, other):
    (bundled / name).unlink()
    if other == "pipe":
        os.mkfifo(bundled / name)
    else:
        (bundled / name).symlink_to(other)
    with pytest.raises(RunError, match=r"no run\.json|is not the file that was saved"):
        read_facts(bundled)
