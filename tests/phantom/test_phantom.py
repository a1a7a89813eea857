import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from cxrlib.phantom import study as phantom
from cxrlib.phantom.anatomy import Chest, Patient, Visit
from cxrlib.phantom.film import PIXELS, SOURCE, Camera, project, simulate_film
from cxrlib.phantom.site import SITES, cardiothoracic_ratio, draw_films
from cxrlib.phantom.study import claim_folder, label_film, make_study

BOX = ["xmin", "ymin", "xmax", "ymax"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    return out, make_study(out, patients=1, seed=8, workers=1)  # of two films


@pytest.fixture(scope="module")
def drawn():
    """Films of many patients, drawn and not taken."""
    return [film for k in range(1, 161) for film in draw_films(0, k)]


@pytest.fixture
def organs(monkeypatch):
    """Projections show organs alone, by slices of 5 mm: enough for where an organ ends."""
    monkeypatch.setattr("cxrlib.phantom.film.SLICE", 0.5)
    for part in ("bones", "vessels", "airways"):
        monkeypatch.setattr(f"cxrlib.phantom.skeleton.{part}", lambda chest: [])


def content(folder):
    return {path.name: path.read_bytes() for path in (folder / "images").iterdir()}


def test_study_is_the_same_whatever_workers_and_patients(study, tmp_path):
    out, labels = study
    more = make_study(tmp_path, patients=2, seed=8, workers=2)
    films = content(out)
    assert films.items() <= content(tmp_path).items()
    assert len(films) < len(content(tmp_path))
    pd.testing.assert_frame_equal(labels, more.iloc[: len(labels)])
    assert not any(draw_films(4, 1)[0][1] == draw_films(8, k)[0][1] for k in (1, 2))


def test_the_bundled_study_is_what_this_program_draws(medical, drawn, tmp_path):
    record = tmp_path / "phantom.json"
    record.write_bytes((medical / "phantom.json").read_bytes())
    with claim_folder(tmp_path, phantom._record(0)):  # the same version and settings
        pass  # so that it can be continued
    assert record.read_bytes() == (medical / "phantom.json").read_bytes()
    films = [film for film in drawn if film[0] < "00060031"]  # thirty patients
    rows = [row for film in films for row in label_film(*film)]
    labels = pd.DataFrame(rows)[phantom.COLUMNS].astype(dict.fromkeys(BOX, "Int64"))
    assert (medical / "labels.csv").read_text().startswith(labels.to_csv(index=False))
    truth = pd.DataFrame([{"filename": film[0]} | film[3] for film in films])
    assert (medical / "truth.csv").read_text().startswith(truth.to_csv(index=False))
    jpeg, (name, patient, visit, _) = io.BytesIO(), films[0]
    Image.fromarray(simulate_film(patient, visit)).save(jpeg, "JPEG", quality=phantom.QUALITY)
    made, bundled = (np.asarray(Image.open(x), int) for x in (jpeg, medical / "images" / name))
    # Another machine rounds otherwise, and a rounding may become another photon.
    assert np.abs(made - bundled).mean() < 0.1


def test_files_hold_the_contract(study):
    out, labels = study
    read = pd.read_csv(out / "labels.csv")
    assert list(read) == "filename,height,width,label,xmin,ymin,xmax,ymax,view,sex".split(",")
    pd.testing.assert_frame_equal(read, labels, check_dtype=False)
    assert set(read.filename) == set(content(out))
    truth = pd.read_csv(out / "truth.csv")
    known = "filename ctr cardiomegaly_true effusion_true label_flipped pixel_mm"
    assert list(truth) == known.split()
    assert set(truth.filename) == set(read.filename)
    assert "simulated" in json.loads((out / "phantom.json").read_text())["note"]
    for filename in read.filename:
        with Image.open(out / "images" / filename) as image:
            assert (image.size, image.mode) == ((PIXELS, PIXELS), "L")
            assert b"simulated" in image.info["comment"]


def test_labels_follow_from_the_truth(drawn):
    for film in drawn:
        _, patient, visit, truth = film
        rows = {row["label"]: row for row in label_film(*film)}
        ratio = cardiothoracic_ratio(patient, visit.growth)
        assert truth["ctr"] == round(ratio, 4)
        assert truth["cardiomegaly_true"] == (ratio > 0.5)
        assert ("Cardiomegaly" in rows) == (truth["cardiomegaly_true"] ^ truth["label_flipped"])
        assert ("Effusion" in rows) == truth["effusion_true"]
        assert ("No Finding" in rows) == (len(rows) == 1 and "xmin" not in [*rows.values()][0])
        for row in rows.values():
            if row["label"] != "No Finding":
                xmin, ymin, xmax, ymax = (row[side] for side in BOX)
                assert 0 <= xmin < xmax < PIXELS and 0 <= ymin < ymax < PIXELS


def test_shares_of_a_study(drawn):
    truth = pd.DataFrame([film[3] for film in drawn])
    view = np.array([film[2].view for film in drawn])
    assert 1.6 < len(drawn) / 160 < 2.1
    assert 0.28 < truth.cardiomegaly_true.mean() < 0.45
    assert 0.01 < truth.label_flipped.mean() < 0.06
    assert 0.32 < np.mean(view == "AP") < 0.48
    sick, well = (view[truth.cardiomegaly_true == side] == "AP" for side in (True, False))
    assert 0.52 < 0.5 + (sick.mean() - well.mean()) / 2 < 0.68  # AUC of the view alone
    # One continuum: films lie on both sides close to the limit, with no gap between the groups.
    counts = np.histogram(truth.ctr, np.arange(0.40, 0.60, 0.02))[0]
    assert counts.min() > 0.25 * counts.max()
    # The patient's number says nothing.
    number = np.array([int(film[0][:8]) for film in drawn])
    assert abs(np.corrcoef(number, truth.ctr)[0, 1]) < 0.2


def test_a_second_site_has_other_patients_and_films(drawn, study, tmp_path):
    films = [film for k in range(1, 161) for film in draw_films(0, k, SITES["B"])]
    assert min(film[0] for film in films) > "00200000"  # A's largest study ends below
    assert not {film[1] for film in films} & {film[1] for film in drawn}
    for of in (
        lambda film: film[2].view == "AP",
        lambda film: not film[3]["cardiomegaly_true"],
        lambda film: film[2].brightness,
        lambda film: 1 / film[2].contrast,
        lambda film: 1 / film[2].photons,
        lambda film: sum(film[2].shutter),
    ):
        assert np.mean([*map(of, films)]) > 1.1 * np.mean([*map(of, drawn)])
    make_study(tmp_path, patients=1, workers=1, site="B")
    assert json.loads((tmp_path / "phantom.json").read_text())["site"] == "B"
    for folder, site in ((tmp_path, "A"), (study[0], "B")):
        with pytest.raises(ValueError, match="give another folder"):
            make_study(folder, patients=1, seed=0 if site == "A" else 8, site=site)


def test_box_is_around_the_heart(organs):
    patient = Patient(heart=1.2, fat_pad=0.2)
    visit = Visit(rotation=4, shift=(1.0, -0.5))
    without = replace(patient, heart=1e-3)
    heart = project(without, visit)["lung"] - project(patient, visit)["lung"]
    rows, columns = np.nonzero(heart > 0.3)  # cm of lung that the heart takes the place of
    box = Camera(patient, visit).box(Chest(patient, visit).heart_surface())
    assert abs(columns.min() - box[0]) <= 4
    assert abs(columns.max() - box[2]) <= 4
    assert box[1] - 4 <= rows.min() and rows.max() <= box[3] + 4  # the rest hides in other organs


def test_fluid_lies_in_its_box(organs):
    patient, visit = Patient(), Visit(effusion=(0.0, 4.0))
    rows, columns = np.nonzero(project(patient, visit)["fluid"] > 0.3)
    xmin, ymin, xmax, ymax = Camera(patient, visit).box(Chest(patient, visit).fluid_points())
    assert PIXELS / 2 - 20 < xmin  # the patient's left is image right
    assert abs(columns.max() - xmax) <= 6 and abs(rows.min() - ymin) <= 6
    assert xmin - 6 <= columns.min() and rows.max() <= ymax + 6


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_magnification_is_source_to_detector_over_source_to_object(view):
    patient, visit = Patient(), Visit(view=view)
    camera = Camera(patient, visit)
    source = camera.detector - SOURCE[view] * (1 if view == "PA" else -1)
    columns, _, magnification = camera.project(np.array([[-1.0, 3, 9], [1, 3, 9]]))
    expected = SOURCE[view] / abs(3 - source)
    assert magnification == pytest.approx(expected)
    assert np.ptp(columns) == pytest.approx(2 * expected * PIXELS / 40)


def test_ap_enlarges_the_heart_on_the_film_by_the_ratio_of_magnifications(organs):
    patient, widths, factors = Patient(heart=1.1, fat_pad=0.2), {}, {}
    for view in SOURCE:
        visit = Visit(view=view)
        without = replace(patient, heart=1e-3)
        heart = project(without, visit)["lung"] - project(patient, visit)["lung"]
        widths[view] = np.ptp(np.nonzero(heart > 0.3)[1])
        factors[view] = Camera(patient, visit).magnification(2.0)
    assert widths["AP"] / widths["PA"] == pytest.approx(factors["AP"] / factors["PA"], abs=0.03)
    assert widths["AP"] > 1.05 * widths["PA"]


def test_film_looks_like_a_chest():
    film = simulate_film(Patient(), Visit(marker=("R", 40, 60)))
    assert film.dtype == np.uint8 and film.shape == (PIXELS, PIXELS)
    air, lung, heart, abdomen = (
        film[5:40, 5:40],
        film[200:240, 120:170],
        film[320:350, 270:310],
        film[480:, 200:300],
    )
    assert air.mean() < 40 < lung.mean() < heart.mean() - 50 < abdomen.mean()
    assert film[320:350, 290:340].mean() > film[320:350, 160:190].mean() + 30  # apex to the right
    assert film[50:70, 30:50].max() > int(air.max()) + 80  # the marker


def start_study(folder, workers):
    """Start a process that makes the study `folder`, and wait for its first film."""
    code = "import sys\nfrom cxrlib.phantom.study import make_study\nif __name__ == '__main__':\n"
    script = folder.with_suffix(".py")
    script.write_text(f"{code}    make_study(sys.argv[1], patients=9, seed=3, workers={workers})\n")
    process = subprocess.Popen([sys.executable, script, folder], stderr=subprocess.DEVNULL)
    wait_for(lambda: list(folder.glob("images/*.jpg")))
    return process


def wait_for(done, seconds=300):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_killed_study_leaves_no_process_and_goes_on(tmp_path):
    study, images = tmp_path / "study", tmp_path / "study" / "images"
    process = start_study(study, workers=2)
    left = psutil.Process(process.pid).children(recursive=True)
    assert len(left) >= 2
    with pytest.raises(FileExistsError, match="another process writes .*study"):
        make_study(study, patients=9, seed=3)
    process.kill()
    process.wait()
    wait_for(lambda: not any(alive(child) for child in left), seconds=10)
    (images / "00060001_000.jpg.123.part").write_bytes(b"half")
    kept = {path: path.stat().st_mtime_ns for path in images.glob("*.jpg")}
    assert kept and not (study / "labels.csv").exists()
    total = sum(len(draw_films(3, k)) for k in (1, 2))
    make_study(study, patients=2, seed=3, workers=1)
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    assert len([path for path in images.iterdir() if path.name < "00060003"]) == total
    assert not list(study.rglob("*.part")) and not (study / "lock").exists()


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("record", ["{", "[1]", "pipe", "part"])
def test_a_record_that_is_none(tmp_path, record):
    study = tmp_path / "study"
    study.mkdir()
    if record == "part":  # a kill before the first whole file
        (study / "phantom.json.7.part").write_text("{")
        with claim_folder(study, {}):
            assert not list(study.rglob("*.part"))
        return
    if record == "pipe":
        os.mkfifo(study / "phantom.json")
    else:
        (study / "phantom.json").write_text(record)
    with pytest.raises((ValueError, FileExistsError), match="study.* give an"):
        make_study(study, patients=1)


@pytest.mark.parametrize(
    "wrong", [{"patients": 0}, {"seed": -1}, {"workers": 0}, {"patients": 10**9}, {"site": "C"}]
)
def test_numbers_out_of_bounds(tmp_path, wrong):
    with pytest.raises(ValueError, match=f"{[*wrong][0]} is .*: give"):
        make_study(tmp_path, **wrong)
    assert not any(tmp_path.iterdir())


def test_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="no simulated study: give an empty"):
        make_study(tmp_path, patients=1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_study_of_another_seed_or_other_settings_is_left_alone(study, monkeypatch):
    out, _ = study
    before = content(out)
    with pytest.raises(ValueError, match="seed 8, not 5: give another folder"):
        make_study(out, patients=2, seed=5)
    monkeypatch.setattr(phantom, "KNOBS", (*phantom.KNOBS, "another"))
    with pytest.raises(ValueError, match="settings .* give another folder"):
        make_study(out, patients=2, seed=8)
    assert content(out) == before
