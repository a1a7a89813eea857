"""Contract 4: one row a film, and the command `cxr` as people run it."""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import expit
from threadpoolctl import threadpool_limits

from cxrlib import cli
from cxrlib.data.files import walk_films
from cxrlib.data.images import read_image
from cxrlib.data.study import choose_films, digest_films, read_study
from cxrlib.model import predict as rows
from cxrlib.model.backbone import BATCH
from cxrlib.model.facts import digest_patients
from cxrlib.model.predict import SEEN, score_films, score_test
from cxrlib.model.run import Run, RunError, load_run
from cxrlib.scoring import write as score
from cxrlib.scoring.cluster import ClusterError
from cxrlib.scoring.tables import read_scores
from cxrlib.scoring.write import write_scores

pytestmark = pytest.mark.portable

COLUMNS = ["path", "status", "probability", "decision", "reason"]
CXR = Path(sys.executable).with_name("cxr")


@pytest.fixture(scope="module")
def run(small_run):
    return small_run


@pytest.fixture(scope="module")
def films(trained_run):
    """Ten films of the bundled study."""
    return [Path(path) for path in trained_run[1].films["path"][:10]]


@pytest.fixture
def mixed(tmp_path, films):
    """A folder with films in folders, broken ones among them."""
    folder = tmp_path / "mixed"
    (folder / "b" / "deep").mkdir(parents=True)
    shutil.copy(films[0], folder / "c.jpg")
    shutil.copy(films[1], folder / "b" / "deep" / "a.JPEG")
    (folder / "a.png").write_text("this is no picture")
    (folder / "b" / "cut.jpg").write_bytes(films[2].read_bytes()[:5000])
    (folder / "notes.txt").write_text("not a film")
    return folder


def with_threshold(run: Run, value: float) -> Run:
    return replace(run, facts=run.facts | {"threshold": run.facts["threshold"] | {"value": value}})


# ----------------------------------------------------------------------------------- list_films


def test_folders_are_searched_to_the_bottom_in_order(mixed, films):
    found = list(walk_films([films[3], mixed, mixed / "gone.png"]))
    inside = ["a.png", "b/cut.jpg", "b/deep/a.JPEG", "c.jpg"]
    assert found == [films[3], *(mixed / name for name in inside), mixed / "gone.png"]


def test_nothing_to_score(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no image file \(\.bmp, \.dcm, \.dicom, "):
        list(walk_films([tmp_path]))
    with pytest.raises(FileNotFoundError, match="no film to score: give image files or folders"):
        list(walk_films([]))


# ---------------------------------------------------------------------------------- score_films


def test_one_row_a_film_and_a_reason_where_there_is_no_score(
    run, mixed, films, trained_run, tmp_path
):
    out = tmp_path / "scores.csv"
    new = trained_run[1].films.query("split == 'test'")["path"].iloc[0]
    shutil.copy(new, mixed / "b" / "deep" / "a.JPEG")
    paths = [films[3], mixed, tmp_path / "gone.png", tmp_path]
    write_scores(run, paths[:3], out)
    scores = read_scores(out)
    assert scores.columns.tolist() == COLUMNS
    assert scores["path"].tolist() == [str(path) for path in list(walk_films(paths[:3]))]
    assert scores["status"].tolist() == ["ok", *["unreadable"] * 2, "ok", "ok", "unreadable"]
    ok = scores["status"] == "ok"
    assert scores.loc[ok, "probability"].between(0, 1).all()
    assert scores.loc[ok, "decision"].isin(["positive", "negative"]).all()
    assert scores.loc[ok, "reason"].tolist() == [SEEN, "", SEEN]  # by content, names aside
    assert scores.loc[~ok, "probability"].isna().all() and scores.loc[~ok, "decision"].eq("").all()
    reasons = scores.loc[~ok, "reason"].tolist()
    assert reasons[0] == "no JPEG, PNG, TIFF, BMP or DICOM image"
    assert "truncated" in reasons[1]
    assert reasons[2] == "the file does not exist"
    text = dict.fromkeys(("path", "decision", "reason"), str)
    written = pd.read_csv(out, dtype=text, na_values={"probability": [""]}, keep_default_na=False)
    pd.testing.assert_frame_equal(written, scores, check_exact=True, check_dtype=False)


def test_one_path_is_itself_and_a_link_that_leads_nowhere_gets_a_row(run, films, tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone" / "a.jpg")
    (tmp_path / "b.jpg").symlink_to("b.jpg")
    shutil.copy(films[0], tmp_path / "c\rd.jpg")
    write_scores(run, str(tmp_path), tmp_path / "scores.csv")
    scores = read_scores(tmp_path / "scores.csv")
    assert scores["path"].tolist() == [f"{tmp_path}/{n}" for n in ("a.jpg", "b.jpg", r"c\rd.jpg")]
    assert scores["status"].tolist() == ["unreadable", "unreadable", "ok"]
    assert scores["reason"][0] == "the file does not exist"
    assert str(tmp_path) not in scores["reason"][1]


def test_only_unreadable_films(run, tmp_path):
    scores = score_films(run, [tmp_path / "a.png", tmp_path / "b.png"])
    assert scores["status"].tolist() == ["unreadable"] * 2


def test_the_probability_is_the_models(run, films):
    pixels = np.stack([read_image(path, run.facts["image_size"]) for path in films])[..., None]
    expected = expit(run.model.predict(pixels, verbose=0)[:, 0])
    np.testing.assert_allclose(score_films(run, films)["probability"], expected, atol=1e-4)


def test_a_film_scores_the_same_in_any_company(run, films, mixed):
    alone = {path: score_films(run, [path])["probability"].item() for path in films[:3]}
    crowd = [*films, mixed, *films[3:], *films, *films[::-1]]
    scores = score_films(run, crowd).set_index("path")["probability"]
    assert len(scores) > 2 * BATCH
    for path, probability in alone.items():
        assert set(scores[str(path)]) == {probability}


def test_a_film_in_memory_has_no_place_in_a_file(run, films, tmp_path):
    with open(films[0], "rb") as film, pytest.raises(TypeError, match="jpg is in memory: `score_"):
        write_scores(run, [film], tmp_path / "scores.csv")
    assert not list(tmp_path.iterdir())


def test_a_decision_follows_the_probability_that_is_written(run, films, monkeypatch):
    monkeypatch.setattr(Run, "predict", lambda *_: np.float32([0.4999996]))
    scores = score_films(with_threshold(run, 0.5), films[:1])
    assert scores["probability"].item() == 0.5 and scores["decision"].item() == "positive"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_never_ok(run, films, monkeypatch, tmp_path, value):
    monkeypatch.setattr(Run, "predict", lambda *_: np.float32([value]))
    for score_them in (score_films, lambda *given: write_scores(*given, tmp_path / "scores.csv")):
        with pytest.raises(RunError, match="gives (nan|-?inf) for .*, not a probability: its mode"):
            score_them(run, films[:1])
    assert not list(tmp_path.iterdir())


def test_a_film_at_the_threshold_is_positive(run, films):
    probability = score_films(run, films)["probability"]
    middle = float(np.sort(probability)[5])
    decided = score_films(with_threshold(run, middle), films)
    assert decided["decision"].eq("positive").tolist() == (probability >= middle).tolist()
    assert set(decided["decision"]) == {"positive", "negative"}


def test_the_format_of_the_file_does_not_decide(run, films, tmp_path):
    pixels = Image.open(films[0]).convert("L")
    pixels.save(tmp_path / "film.png")
    pixels.save(tmp_path / "film.jpg", quality=100)
    Image.fromarray(np.asarray(pixels, np.uint16) * 257).save(tmp_path / "film16.png")
    jpeg, png, png16 = score_films(run, [tmp_path])["probability"]
    assert png16 == pytest.approx(png, abs=1e-4)
    assert jpeg == pytest.approx(png, abs=0.03)  # decoded at a lower resolution to save time


def test_an_output_that_cannot_be_is_refused_before_scoring(run, films, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "read_image", lambda *_: pytest.fail("a film was read"))
    for out in (tmp_path, tmp_path / "nowhere" / "scores.csv"):
        with pytest.raises(FileNotFoundError, match="give a file in a folder that exists"):
            write_scores(run, films, out)


def test_parts_of_another_check_are_not_mixed(run, films, tmp_path, monkeypatch):
    before = score._settings(run, True)
    other = tmp_path / "frontal.npz"
    other.write_bytes(score.CHECK_FILE.read_bytes() + b"0")
    monkeypatch.setattr(score, "CHECK_FILE", other)
    assert score._settings(run, True)["check"] not in (before["check"], "")
    assert score._settings(run, False)["check"] == ""
    with pytest.raises(ClusterError, match="a worker has another run"):
        score._score_part(load_run, str(run.folder), before, [str(films[0])])


@pytest.mark.parametrize("where", ["reading", "writing"])
def test_an_interruption_leaves_the_old_scores_alone(run, films, tmp_path, monkeypatch, where):
    out = tmp_path / "scores.csv"
    earlier = f"{','.join(COLUMNS)}\n"
    out.write_text(earlier)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    if where == "reading":
        monkeypatch.setattr(rows, "read_image", interrupt)
    else:
        monkeypatch.setattr(score.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_scores(run, films, out)
    assert out.read_text() == earlier
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text elsewhere")
def test_a_name_that_is_no_utf8_stops_nothing(run, films, tmp_path):
    (tmp_path / "films").mkdir()
    shutil.copy(films[0], bytes(tmp_path / "films") + b"/\xe9.jpg")
    assert write_scores(run, [tmp_path / "films"], tmp_path / "scores.csv") == {"ok": 1}
    assert r"\udce9.jpg" in (tmp_path / "scores.csv").read_text(encoding="utf-8")


# ----------------------------------------------------------------------------------- score_test


@pytest.fixture
def own_run(run, tmp_path):
    """A copy of the run, to write to."""
    return replace(run, folder=shutil.copytree(run.folder, tmp_path / "run"))


def test_the_bundled_run_scores_as_it_recorded(medical):
    run = load_run(medical / "models" / "cardiomegaly")
    recorded = run.predictions.query("split == 'test'").head(4)
    scores = score_films(run, medical / recorded["path"].map(Path))
    assert scores["probability"].to_numpy() == pytest.approx(recorded["probability"], abs=0.01)


def test_a_test_film_that_cannot_be_decoded_stops_the_test(own_run, make_tiny_study, tmp_path):
    rows = [("1_0.jpg", "Cardiomegaly"), ("4_0.jpg", "No Finding")]  # both belong to test
    study = read_study(make_tiny_study(tmp_path / "study", rows, size=(200, 200)))
    films = choose_films(study, "Cardiomegaly")
    cut = Path(films["path"][1])
    cut.write_bytes(cut.read_bytes()[:5000])
    facts = {
        "data": own_run.facts["data"] | {"digest": digest_films(films)},
        "split": own_run.facts["split"] | {"digest": digest_patients(films)},
    }
    with pytest.raises(RunError, match=f"test film {cut}: .*truncated"):
        score_test(replace(own_run, facts=own_run.facts | facts), study)
    assert "test" not in load_run(own_run.folder).facts["metrics"]


# ------------------------------------------------------------------------- the command, for real


def cxr(*arguments, **how):
    command = [CXR, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **how)


def one_core():
    if sys.platform == "linux":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def test_cxr_score_on_any_cores_and_threads(trained_run, run, mixed, films, tmp_path):
    here, there, paths = tmp_path / "here.csv", tmp_path / "there.csv", [mixed, "gone.png", *films]
    environment = os.environ | {"TF_NUM_INTRAOP_THREADS": "1"}
    how = {"env": environment, "preexec_fn": one_core, "cwd": tmp_path}
    done = cxr("score", trained_run[0], *paths, "--out", there, **how)
    assert (done.returncode, done.stdout) == (0, f"{there}: 12 ok, 3 unreadable\n")
    # The progress bar alone, none of TensorFlow's notices
    said = ("scores: ", "cxr: Trained on simulated radiographs")
    assert all(line.startswith(said) for line in done.stderr.split("\n") if line)
    written, memory = pd.read_csv(there, keep_default_na=False), score_films(run, paths)
    assert written.columns.tolist() == COLUMNS
    same = ["path", "status", "decision", "reason"]
    assert written[same].equals(memory[same])
    assert pd.to_numeric(written["probability"]).equals(memory["probability"])
    with threadpool_limits(os.cpu_count()):  # conftest.py leaves OpenBLAS one thread
        write_scores(run, paths, here)
    assert there.read_bytes() == here.read_bytes()


def test_cxr_score_interrupted_writes_nothing(trained_run, films, tmp_path):
    (tmp_path / "films").mkdir()
    for n in range(400):
        (tmp_path / "films" / f"{n}.jpg").symlink_to(films[n % 10])
    out = tmp_path / "scores.csv"
    command = [CXR, "score", trained_run[0], tmp_path / "films", "--out", out]
    # Tests that were started in the background ignore this signal, and a child would with them.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        signal.signal(signal.SIGINT, before)
        shown = ""
        for character in iter(lambda: process.stderr.read(1), ""):
            shown += character
            if re.search(r" [1-9]\d*/400", shown):  # a first batch is done
                break
        process.send_signal(signal.SIGINT)
        shown += process.stderr.read()
    assert process.returncode == 1
    assert shown.rstrip().endswith("cxr: interrupted") and "Traceback" not in shown
    assert [path.name for path in tmp_path.iterdir()] == ["films"]


def test_cxr_phantom(tmp_path):
    done = cxr("phantom", "--patients", 1, "--seed", 5, "--out", tmp_path / "made")
    study = read_study(tmp_path / "made", decode=True)
    assert done.returncode == 0
    assert done.stdout == f"{tmp_path / 'made'}: {len(study.films)} simulated radiographs\n"
    assert study.problems.empty


def test_a_missing_run_is_said_in_one_sentence(films, tmp_path):
    with pytest.raises(SystemExit) as ended:
        cli.main(["score", f"{tmp_path}/none", str(films[0]), "--out", f"{tmp_path}/scores.csv"])
    # Python prints it to stderr and ends with status 1.
    expected = f"cxr: {tmp_path}/none holds no run.json: train first, or give a run's folder"
    assert ended.value.code == expected
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("the server is away: try again"), "cxr: the server is away: try again"),
        (KeyboardInterrupt(), "cxr: interrupted"),
    ],
)
def test_a_download_that_fails_is_said_in_one_sentence(monkeypatch, tmp_path, error, message):
    def fail(out):
        raise error

    monkeypatch.setattr("cxrlib.data.download.download_nih_sample", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main(["download", "nih-sample", "--out", str(tmp_path)])
    assert ended.value.code == message


def test_download_says_where_the_study_is(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("cxrlib.data.download.download_nih_sample", lambda out: out)
    cli.main(["download", "nih-sample", "--out", str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path} is complete and checked\n"
