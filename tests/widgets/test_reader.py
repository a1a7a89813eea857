"""The Reader as Python holds it; test_browser.py drives it on a page."""

import base64
import io
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from cxrlib import Reader
from cxrlib.data.study import choose_films
from cxrlib.model.predict import SEEN, score_films
from cxrlib.widgets import reader as reader_module


@pytest.fixture
def opened_for_writing():
    """Files that Python opens for writing while a test runs."""
    seen, watching = [], True

    def hook(event, arguments):
        if watching and event == "open" and isinstance(arguments[1], str):
            if set(arguments[1]) & set("wax+"):
                seen.append(arguments[0])

    sys.addaudithook(hook)  # there is no way to take one out again
    yield seen
    watching = False


def test_the_reader_scores_from_memory_as_from_a_file(run, study, opened_for_writing):
    path = choose_films(study, "Cardiomegaly")["path"].iloc[0]
    expected = score_films(run, [path]).loc[0, "probability"]
    opened_for_writing.clear()
    reader = Reader(run, path)
    assert reader.scores.loc[0, "probability"] == pytest.approx(expected, abs=1e-6)
    assert opened_for_writing == []
    assert SEEN in reader.result["sentence"] and reader.scores.loc[0, "reason"] == SEEN
    reader.read("x.png", b"no film")
    assert reader.evidence is None and "x.png gets no score" in reader.result["sentence"]


def test_the_reader_refuses_what_is_no_chest_film(run, study):
    reader = Reader(run)
    film = Image.open(study.films["path"].iloc[0]).convert("L")
    garden = Image.effect_mandelbrot((300, 200), (-2, -1, 1, 1), 60)
    for picture, name in ((ImageOps.invert(film), "inverted.png"), (garden, "garden.png")):
        content = io.BytesIO()
        picture.save(content, "PNG")
        reader.read(name, content.getvalue())
        assert reader.scores["status"].tolist() == ["refused"] and reader.evidence is None
        assert reader.scores["probability"].isna().all()
        sentence = reader.result["sentence"]
        assert sentence == f"{name} gets no score: {reader.scores.loc[0, 'reason']}."
        assert "probability" not in sentence
    assert reader.result["looks"][0][1] > 0  # what is refused looks more like something else
    assert reader.worklist["status"].tolist() == ["refused", "refused"]
    reader.read("film.jpg", Path(study.films["path"].iloc[0]).read_bytes())
    sentence = reader.result["sentence"]
    assert reader.evidence is not None and "probability" in sentence
    reader.chosen = 0
    assert reader.scores.loc[0, "path"] == "inverted.png" and reader.evidence is None
    assert "simulated" in run.caution and sentence.endswith(f"Not a diagnosis. {run.caution}")


def test_only_the_latest_files_are_kept(run, medical, monkeypatch):
    films = sorted((medical / "images").iterdir())[:2]
    monkeypatch.setattr(reader_module, "KEPT", films[1].stat().st_size)
    reader = Reader(run, films[0])
    reader.read(films[1].name, films[1].read_bytes())
    told = []
    reader.send = lambda content, buffers=(): told.append(content["kind"])
    reader.chosen = 0
    reader.chosen = 1
    assert told == ["nothing", "film"] and len(reader.worklist) == 2


def test_the_reader_carries_a_picture_and_a_small_state(run):
    reader = Reader(run)
    data, _ = reader._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert len(repr(reader.get_state())) < 60_000
