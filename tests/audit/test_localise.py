"""Maps against boxes, and films changed on purpose: on cases with known answers, then on a run."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import logit

from cxrlib.audit import localise
from cxrlib.audit.localise import (
    SIDE,
    boxed_films,
    compare_with_controls,
    locate,
    map_films,
    randomise,
    score_map,
    tabulate_locations,
)
from cxrlib.audit.perturb import CHANGES, add_controls, change_film, perturb_films, tabulate_changes
from cxrlib.data.images import read_image
from cxrlib.data.study import choose_films, read_study
from cxrlib.plots.evidence import resize_map


@pytest.fixture(scope="module")
def run(small_run):
    return small_run


@pytest.fixture(scope="module")
def sides(study):
    """Films of the question by split."""
    films = choose_films(study, "Cardiomegaly")
    return {side: part.reset_index(drop=True) for side, part in films.groupby("split")}


@pytest.fixture(scope="module")
def boxed(study, sides):
    return {side: boxed_films(study, part, "Cardiomegaly") for side, part in sides.items()}


def square(left, top, right, bottom):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top:bottom, left:right] = True
    return mask


# ------------------------------------------------------------------------------------ known cases


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((200, 200), (20, 60, 100, 180), (10, 30, 50, 90)),
        ((200, 100), (0, 0, 200, 100), (0, 25, 100, 75)),  # black above and below
        ((100, 200), (0, 0, 100, 200), (25, 0, 75, 100)),  # black on both sides
    ],
    ids=["square", "wide", "tall"],
)
def test_boxes_are_put_where_the_network_sees_them(make_tiny_study, tmp_path, size, box, expected):
    rows = [("a_0.png", "Mass", *box, "PA"), ("b_0.png", "No Finding")]
    study = read_study(make_tiny_study(tmp_path / "study", rows, size))
    films = boxed_films(study, choose_films(study, "Mass"), "Mass")
    assert films["filename"].tolist() == ["a_0.png"]
    assert (films["mask"][0] == square(*expected)).all()
    # The same as a white box on a black film, read as the network reads it.
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    Image.fromarray(pixels).save(tmp_path / "box.png")
    seen = read_image(tmp_path / "box.png", SIDE) > 0.5
    assert (seen == films["mask"][0]).mean() > 0.99


def test_two_boxes_of_a_film_are_joined(make_tiny_study, tmp_path):
    rows = [
        ("a_0.png", "Mass", 0, 0, 10, 10, "PA"),
        ("a_0.png", "Mass", 90, 90, 100, 100, "PA"),
        ("a_0.png", "Nodule", 40, 40, 60, 60, "PA"),  # of another finding
        ("b_0.png", "No Finding"),
    ]
    study = read_study(make_tiny_study(tmp_path / "study", rows, (100, 100)))
    films = boxed_films(study, choose_films(study, "Mass"), "Mass")
    assert (films["mask"][0] == (square(0, 0, 10, 10) | square(90, 90, 100, 100))).all()


def test_a_map_that_is_the_box_scores_full_marks():
    mask = square(20, 30, 60, 80)
    assert score_map(mask.astype(float), mask) == dict.fromkeys(localise.MEASURES, 1.0)
    assert score_map(1 - mask, mask) == dict.fromkeys(localise.MEASURES, 0.0)


def test_a_uniform_map_scores_the_area_of_the_box():
    mask = square(0, 0, 40, 50)
    scores = score_map(np.ones((5, 5)), mask)
    assert scores["energy in box"] == pytest.approx(0.2)
    assert scores["IoU at 0.5"] == pytest.approx(0.2)


def test_iou_at_each_share_of_the_maximum():
    heat = np.zeros((SIDE, SIDE))
    heat[:, :20], heat[:, 20:40], heat[:, 40:60] = 1.0, 0.6, 0.3
    scores = score_map(heat, square(0, 0, 40, 100))
    assert [scores[f"IoU at {s}"] for s in (0.25, 0.5, 0.75)] == pytest.approx([2 / 3, 1, 0.5])
    assert scores["energy in box"] == pytest.approx(1.6 / 1.9)
    assert scores["pointing game"] == 1


def test_evidence_against_the_finding_is_none_for_it():
    mask = square(0, 0, 50, 100)
    heat = np.array([[-5.0, -1.0], [-5.0, -2.0]])
    assert set(score_map(heat, mask).values()) == {0.0}
    heat[0, 1] = 1
    assert score_map(heat, mask)["pointing game"] == 0


def test_a_resized_map_keeps_its_cells_in_place():
    heat = np.zeros((5, 5))
    heat[1, 3] = 1
    fine = resize_map(heat, 100)
    assert np.unravel_index(fine.argmax(), fine.shape) in [
        (y, x) for y in (29, 30) for x in (69, 70)
    ]
    assert fine[:, :50].max() == 0


FILM = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)


@pytest.mark.parametrize(
    ("change", "hidden"),
    [
        ("box hidden", square(40, 40, 70, 90)),
        ("all but the box hidden", ~square(40, 40, 70, 90)),
        ("as much elsewhere hidden", square(0, 0, 30, 50)),
        ("border hidden", ~square(10, 10, 90, 90)),
        ("upper corners hidden", square(0, 0, 20, 25) | square(80, 0, 100, 25)),
    ],
)
def test_what_is_hidden_takes_the_mean_and_the_rest_stays(change, hidden):
    changed = change_film(FILM, square(40, 40, 70, 90))[change]
    assert (changed[hidden] == FILM.mean()).all()
    assert (changed[~hidden] == FILM[~hidden]).all()


def test_mirrored_twice_is_the_film():
    mask = square(40, 40, 70, 90)
    mirrored = change_film(FILM, mask)["mirrored"]
    assert (mirrored[:, 0] == FILM[:, -1]).all()
    assert (change_film(mirrored, mask)["mirrored"] == FILM).all()


@pytest.mark.parametrize("corner", [(0, 0), (60, 0), (0, 50), (60, 50)])
def test_the_patch_elsewhere_is_as_large_and_overlaps_least(corner):
    left, top = corner
    mask = square(left, top, left + 40, top + 50)
    changed = change_film(np.where(mask, 0.0, 1.0), mask)["as much elsewhere hidden"]
    hidden = (changed != 0) & (changed != 1)
    assert hidden.sum() == mask.sum() and not (hidden & mask).any()


def test_changes_are_tabulated():
    scores = pd.DataFrame({"patient": list("aabcde"), "target": [1, 1, 1, 0, 0, 0]})
    scores["unchanged"] = logit([0.9, 0.8, 0.7, 0.2, 0.3, 0.4])
    for change in CHANGES:
        scores[change] = scores["unchanged"]
    scores["mirrored"] = scores["unchanged"] - 2 * scores["target"]
    scores["box hidden"] = -scores["unchanged"]
    table = tabulate_changes(scores, 0.5)
    assert table.loc["border hidden", "logit, with the finding"] == "0.00 (0.00 to 0.00)"
    assert table.loc["mirrored", "logit, with the finding"] == "-2.00 (-2.00 to -2.00)"
    assert table.loc["mirrored", "logit, without"] == "0.00 (0.00 to 0.00)"
    assert table.loc["mirrored", "decisions changed"].startswith("0.33 (")  # 0.8 and 0.7 of six
    assert table.loc["box hidden", "AUC"].startswith("0.00 (")
    assert table.loc["box hidden", "AUC less unchanged"].startswith("-1.00 (")
    assert table.loc["box hidden", "decisions changed"].startswith("1.00 (")


# ------------------------------------------------------------------------------------- on a run


def test_locate_scores_every_film_by_every_method(run, boxed):
    films = boxed["test"].head(5)
    scores, maps = locate(run, films, boxed["train"])
    assert set(maps) == set(scores["method"])
    assert scores.groupby("method").size().eq(5).all()
    for method, heats in maps.items():
        part = scores[scores["method"] == method].reset_index(drop=True)
        for number, film in enumerate(films.itertuples()):
            expected = score_map(heats[number], film.mask)
            assert part.loc[number, localise.MEASURES].to_dict() == expected
    table = tabulate_locations(scores)
    mean = scores[scores["method"] == "evidence"]["energy in box"].mean()
    assert table.loc["evidence", "energy in box"].startswith(f"{mean:.2f} (")
    gaps = compare_with_controls(scores)
    centre = scores[scores["method"] == "centre"]["energy in box"].mean()
    assert gaps.loc["centre", "value"] == pytest.approx(mean - centre)
    assert (gaps["low"] <= gaps["value"]).all() and (gaps["value"] <= gaps["high"]).all()
    # Hearts lie in one place, so the average box is a strong guess.
    energy = scores.groupby("method")["energy in box"].mean()
    assert energy["average box"] > max(energy["centre"], energy["random weights"])


def test_random_weights_change_the_maps_and_leave_the_run_alone(run, boxed):
    paths = list(boxed["test"]["path"].head(3))
    before = map_films(run, paths)["evidence"]
    random = map_films(randomise(run, 1), paths)["evidence"]
    assert random.shape == before.shape
    assert abs(np.corrcoef(random.ravel(), before.ravel())[0, 1]) < 0.6
    assert (map_films(run, paths)["evidence"] == before).all()
    assert (map_films(randomise(run, 1), paths)["evidence"] == random).all()
    assert (map_films(randomise(run, 2), paths)["evidence"] != random).any()


def test_controls_are_healthy_films_with_boxes_of_training_patients(sides, boxed):
    films = add_controls(boxed["test"], sides["test"], boxed["train"], seed=3)
    count = len(boxed["test"])
    assert films["target"].tolist() == [1] * count + [0] * count
    assert (films["split"] == "test").all() and films["filename"].is_unique
    lent = {mask.tobytes() for mask in films["mask"][count:]}
    assert lent <= {mask.tobytes() for mask in boxed["train"]["mask"]}
    again = add_controls(boxed["test"], sides["test"], boxed["train"], seed=3)
    assert again["filename"].equals(films["filename"])


def test_each_change_is_scored_as_the_run_scores_a_film(run, sides, boxed):
    films = add_controls(boxed["test"].head(2), sides["test"], boxed["train"])
    films = films.iloc[[0, 1, 2]]
    scores = perturb_films(run, films)
    assert list(scores)[3:] == ["unchanged", *CHANGES]
    size = run.facts["image_size"]
    for row, film in enumerate(films.itertuples()):
        pixels = read_image(film.path, size)
        mask = resize_map(film.mask, size) > 0.5
        for change in ("unchanged", "box hidden", "mirrored"):
            seen = pixels if change == "unchanged" else change_film(pixels, mask)[change]
            expected = run.model.predict_on_batch(seen[None, ..., None].astype(np.float32))[0, 0]
            assert scores.loc[row, change] == pytest.approx(expected, abs=1e-3)
    assert scores[list(CHANGES)].sub(scores["unchanged"], axis=0).abs().max().gt(0.01).all()
