"""`cxr doctor`: all in order, or the very step that is not."""

import hashlib
import io
import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import make_golden as make
from cxrlib import cli
from cxrlib.data.images import read_image
from cxrlib.deploy import doctor
from cxrlib.deploy.doctor import FEATURES, FILM, GOLDEN, HEAD, STEPS, examine
from cxrlib.model import backbone
from cxrlib.model.network import BUNDLED

NAMES, _, ADVICE = zip(*STEPS, strict=True)

pytestmark = pytest.mark.portable


@pytest.fixture(scope="module")
def network():
    return backbone.load_backbone(image_size=doctor.SIZE)


@pytest.fixture
def given(monkeypatch, network):
    """What the network, which is there already, gives: as stored, to spoil."""
    golden = json.loads((GOLDEN / "golden.json").read_text())
    given = {"features": np.load(FEATURES), "probability": golden["probability"]}
    monkeypatch.setattr(doctor, "load_backbone", lambda **_: network)
    monkeypatch.setattr(doctor, "apply_network", lambda *_: tuple(given.values()))
    return given


def assert_step_differs(step, found):
    """Assert that `step` is the one that is named, with what to do."""
    steps = examine()
    assert tuple(steps["step"]) == NAMES[: NAMES.index(step) + 1]
    assert steps["same"].tolist() == [True] * (len(steps) - 1) + [False]
    assert found in steps["found"].iloc[-1]
    assert steps["advice"].tolist() == [""] * (len(steps) - 1) + [ADVICE[NAMES.index(step)]]


def test_all_is_in_order(network, monkeypatch, capsys):
    given = []
    monkeypatch.setattr(doctor, "load_backbone", lambda **how: given.append(how) or network)
    cli.main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    for name in ("cxrlib", "tensorflow", "keras", "python", "platform", "devices"):
        assert any(line.startswith(f"{name} ") for line in lines)
    assert [line[:14].rstrip() for line in lines if line[14:17] == "ok "] == list(NAMES)
    assert lines[-1].startswith("all 9 steps are as stored (")
    assert given == [{"image_size": doctor.SIZE}]  # as `network` was loaded


def test_the_command_fails_with_the_step_and_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "FILM", GOLDEN / "film1.png")
    with pytest.raises(
        SystemExit, match=r"cxr: step 'film file' differs \(\d+ seconds\)\. The file"
    ):
        cli.main(["doctor"])
    assert "film file     DIFFERS  SHA-256 31f1d2eb5881 and not " in capsys.readouterr().out


def test_another_weights_file(tmp_path, monkeypatch):
    weights = tmp_path / "inception_v3.weights.h5"
    weights.write_bytes(BUNDLED.read_bytes()[:-1])
    monkeypatch.setattr(doctor, "BUNDLED", weights)
    assert_step_differs("weights file", "and not 3413b7fb283b")
    weights.unlink()
    assert_step_differs("weights file", "No such file")


@pytest.mark.parametrize("name", ["FILM", "HEAD", "CHECK_FILE"])
def test_a_file_whose_bytes_changed(name, tmp_path, monkeypatch):
    path = getattr(doctor, name)
    changed = tmp_path / path.name
    changed.write_bytes(path.read_bytes() + b"0")  # of the film, the same pixels
    monkeypatch.setattr(doctor, name, changed)
    assert_step_differs(f"{name.removesuffix('_FILE').lower()} file", "and not ")


def test_a_check_that_refuses_a_chest_film(given, monkeypatch):
    refused = pd.DataFrame({"reason": ["a lateral chest film"]})
    monkeypatch.setattr(doctor, "find_reasons", lambda _: refused)
    assert_step_differs("check", "a lateral chest film")


def test_a_decoder_that_gives_other_pixels(monkeypatch):
    def read(path, size):
        jpeg = io.BytesIO()
        Image.open(path).save(jpeg, "JPEG", quality=95)
        return read_image(jpeg, size)

    monkeypatch.setattr(doctor, "read_image", read)
    assert_step_differs("grey values", "tiles are off by up to 0.")

    def read_brighter(path, size):
        return read_image(path, size) + np.float32(10 / 255)

    monkeypatch.setattr(doctor, "read_image", read_brighter)
    assert_step_differs("grey values", "means of 7 x 7 tiles are off by up to 10.000 of 255")


def test_another_network(monkeypatch):
    other = backbone.load_backbone("EfficientNetLite2", image_size=doctor.SIZE)
    monkeypatch.setattr(doctor, "load_backbone", lambda **_: other)
    assert_step_differs("network", f"SHA-256 {other.digest[:12]} and not ")


@pytest.mark.parametrize("change", [0.06, -0.06, np.nan])
def test_features_that_differ(given, change):
    given["features"][1, 1, 5] += given["features"].std(dtype=float) * change
    assert_step_differs("features", f"off by up to {abs(change):.1g}")


def test_features_that_differ_by_rounding(given):
    given["features"] += np.random.default_rng(0).normal(0, 1e-3, (3, 3, 1280)).astype(np.float16)
    steps = examine()
    assert steps["same"].all() and " and not " in steps["found"].iloc[6]


def test_a_network_that_cannot_be_built(monkeypatch):
    def fail(**_):
        raise TypeError("unexpected keyword argument")

    monkeypatch.setattr(doctor, "load_backbone", fail)
    assert_step_differs("network", "TypeError: unexpected keyword argument")


def test_another_score(given):
    given["probability"] += 0.0021
    assert_step_differs("score", "off by 0.0021, 0.002 allowed")


def test_what_is_stored_can_be_made_again(monkeypatch):
    monkeypatch.setattr(make, "FILMS", 1)
    ((name, film),) = make.simulate_films().items()
    # On another processor a rounding may shift the stream of random numbers, and all noise after it
    # is another. The means of blocks then move by 0.2 grey levels; a heart 1 % larger moves them
    # by 1.2.
    off = film - np.asarray(Image.open(GOLDEN / name), float)
    assert abs(off.reshape(15, 32, 16, 32).mean(axis=(1, 3))).max() < 0.5
    assert all("no person" in Image.open(p).text["Comment"] for p in GOLDEN.glob("*.png"))
    golden = json.loads((GOLDEN / "golden.json").read_text())
    assert golden["weights"] in BUNDLED.with_name("README.md").read_text()
    assert hashlib.sha256(np.load(FEATURES).tobytes()).hexdigest() == golden["features"]
    assert 0.1 < golden["probability"] < 0.9  # where a score moves with the logit
    assert FILM.exists() and HEAD.exists()
