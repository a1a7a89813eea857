"""What is no frontal chest film gets a reason and no probability; films keep theirs."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy.ndimage import gaussian_filter
from threadpoolctl import threadpool_limits

import cxrlib as cxr  # lazily: most of these tests need no TensorFlow
import make_frontal
from cxrlib.audit.strangers import judge_strangers
from cxrlib.data import frontal as refuse
from cxrlib.data.frontal import (
    REASONS,
    TURNS,
    describe,
    find_reason_in_file,
    find_reasons,
    turn,
)
from cxrlib.data.images import read_image

pytestmark = pytest.mark.portable

TONES = [("black", "#fff0d0"), ("#101830", "white"), ("black", "#c0e0ff")]


@pytest.fixture(scope="module")
def paths(study):
    """Test patients' films of the bundled study; the check was fitted on others."""
    return study.films.query("split == 'test'")["path"].tolist()


@pytest.fixture(scope="module")
def films(paths):
    return np.stack([read_image(path, 256) for path in paths])


@pytest.fixture(scope="module")
def judged(films):
    return judge_strangers(films).set_index("kind")


def page():
    page = Image.new("L", (850, 1100), 255)
    for top in range(60, 1040, 30):
        text = "The heart is of normal size, the lungs are clear."
        ImageDraw.Draw(page).text((60, top), text, fill=0, font=ImageFont.load_default(size=20))
    return page


def landscape():
    """Sky, a hill and trees."""
    scene = Image.linear_gradient("L").resize((640, 480))
    draw = ImageDraw.Draw(scene)
    draw.ellipse((-200, 250, 700, 900), fill=70)
    draw.ellipse((480, 40, 560, 120), fill=250)
    for left in (60, 150, 330, 470):
        draw.rectangle((left + 18, 300, left + 26, 400), fill=30)
        draw.polygon([(left, 320), (left + 44, 320), (left + 22, 200)], fill=45)
    return scene


def tiles():
    return Image.fromarray(np.kron(np.eye(8, dtype=np.uint8), np.full((50, 50), 200, np.uint8)))


def clouds():
    smooth = gaussian_filter(np.random.default_rng(2).normal(size=(300, 400)), 12)
    return Image.fromarray(np.interp(smooth, [smooth.min(), smooth.max()], [20, 230]))


def test_films_are_accepted_and_strangers_are_not(judged):
    refused = judged["reason"].ne("").groupby("kind").mean()
    assert refused.pop("film") <= 0.02
    assert len(refused) == 8 and refused.min() >= 0.95, refused


def test_a_reason_stands_where_the_score_is_above_0(judged):
    assert (judged["reason"].ne("") == (judged["score"] > 0)).all()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(kind, REASONS[kind]) for kind in TURNS if kind != "upside down, mirrored"]
    + [("part", REASONS["part"])]
    + [("blank", "blank: hardly any contrast")]
    + [("saturated", "saturated: most of it is black or white")],
)
def test_the_reason_names_what_was_done(judged, kind, reason):
    assert judged.loc[kind, "reason"].eq(reason).mean() >= 0.9


@pytest.mark.parametrize("size", [128, 299, 512])
def test_any_size_of_film_serves(paths, size):
    films = np.stack([read_image(path, size) for path in paths[:20]])
    assert find_reasons(films)["reason"].ne("").sum() <= 1
    assert find_reasons(1 - films)["reason"].eq(REASONS["inverted"]).all()


def test_a_film_a_little_turned_or_cut_is_a_film(films):
    refused = find_reasons(make_frontal.jitter(films, seed=5))["reason"].ne("")
    assert refused.mean() <= 0.05


def test_turned_histograms_are_those_of_turned_films(films):
    some = films[:4, 20:230, 20:230]
    some = np.pad(some, [(0, 0), (9, 9), (9, 9)])
    turned = turn(describe(some))
    undone = [
        1 - some[:, 9:-9, 9:-9],
        some[:, ::-1, ::-1],
        some[:, ::-1],
        np.rot90(some, -1, (1, 2)),
        np.rot90(some, 1, (1, 2)),
    ]
    for name, back in zip(TURNS, undone, strict=True):
        np.testing.assert_allclose(turned[name], describe(back), atol=0.02, err_msg=name)


def test_black_borders_do_not_matter(films):
    bordered = np.pad(films[:10], [(0, 0), (0, 0), (40, 90)])
    square = np.pad(bordered, [(0, 0), (65, 65), (0, 0)])
    assert find_reasons(square)["reason"].eq("").all()


def test_simulated_laterals_are_laterals(monkeypatch):
    # In slices of 1 cm, which move the score by 0.01 and take less than half of the time.
    monkeypatch.setattr("cxrlib.phantom.film.SLICE", 1.0)
    laterals = make_frontal.simulate_laterals(2, seed=33).astype(np.float32) / 255
    assert find_reasons(laterals)["reason"].eq(REASONS["lateral"]).all()


def test_pictures_get_no_probability(run, tmp_path):
    for draw in (page, landscape, tiles, clouds):
        grey = draw().convert("L")
        grey.save(tmp_path / f"{draw.__name__}.png")
        coloured = ImageOps.colorize(grey, "#204020", "#d0e0ff")
        coloured.save(tmp_path / f"{draw.__name__} in colour.png")
    scores = cxr.score_films(run, [tmp_path])
    assert scores["status"].tolist() == ["refused"] * 8
    assert scores["probability"].isna().all() and scores["decision"].eq("").all()
    by_colour = scores["reason"] == "coloured: radiographs are grey"
    assert by_colour.tolist() == scores["path"].str.contains("in colour").tolist()
    assert scores["reason"].ne("").all()


def test_a_refused_film_changes_nothing_for_the_others(run, paths, tmp_path):
    inverted = tmp_path / "inverted.png"
    ImageOps.invert(Image.open(paths[0]).convert("L")).save(inverted)
    scores = cxr.score_films(run, [paths[0], inverted, paths[1]])
    assert scores["status"].tolist() == ["ok", "refused", "ok"]
    assert scores["reason"][1] == REASONS["inverted"] and np.isnan(scores["probability"][1])
    alone = cxr.score_films(run, paths[:2])["probability"]
    assert scores["probability"].dropna().tolist() == alone.tolist()
    unchecked = cxr.score_films(run, [inverted], check=False)
    assert unchecked["status"].tolist() == ["ok"] and unchecked["probability"].between(0, 1).all()


@pytest.mark.parametrize("tone", TONES)
def test_tinted_films_are_refused_and_grey_ones_in_colour_files_are_not(paths, tmp_path, tone):
    film = Image.open(paths[0]).convert("L")
    ImageOps.colorize(film, *tone).save(tmp_path / "tinted.jpg")
    film.convert("RGB").save(tmp_path / "grey.jpg")
    assert find_reason_in_file(tmp_path / "tinted.jpg") == "coloured: radiographs are grey"
    assert find_reason_in_file(tmp_path / "grey.jpg") == ""


def test_a_check_is_fitted_written_and_read(films, paths, tmp_path, monkeypatch):
    films = films[:40]
    patients = np.array([path.rsplit("/", 1)[1].split("_")[0] for path in paths[:40]])
    narrow = np.pad(films[:20, :, ::2], [(0, 0), (0, 0), (64, 64)])
    with threadpool_limits(1):  # on a busy machine, threads of BLAS wait for each other
        check = make_frontal.fit_check(films, patients, narrow)
    make_frontal.save_check(check, tmp_path / "check.npz")
    monkeypatch.setattr(refuse, "BUNDLED", tmp_path / "check.npz")
    refuse.load_check.cache_clear()
    try:
        reread = refuse.load_check()
        assert find_reasons(films)["reason"].eq("").mean() >= 0.95
        assert find_reasons(1 - films)["reason"].eq(REASONS["inverted"]).mean() > 0.9
    finally:
        refuse.load_check.cache_clear()
    assert reread.margins == pytest.approx(check.margins)
    rows = describe(films[:9])
    for name, density in check.densities.items():
        expected = density.surprise(rows)
        np.testing.assert_allclose(reread.densities[name].surprise(rows), expected, atol=0.01)
