import numpy as np
import pytest
from PIL import Image

from cxrlib.data.images import ImageError, read_image
from cxrlib.data.study import choose_films
from cxrlib.model.evidence import evidence_of, feature_maps, map_evidence
from cxrlib.model.head import EPSILON

pytestmark = pytest.mark.portable


@pytest.fixture(scope="module")
def run(small_run):
    return small_run


@pytest.fixture(scope="module")
def positives(trained_run):
    """Test films with a box round the heart."""
    study = trained_run[1]
    films = choose_films(study, "Cardiomegaly").query("split == 'test' and target == 1")
    boxes = study.findings.query("label == 'Cardiomegaly'").dropna(subset="xmin")
    return films.merge(boxes[["filename", "xmin", "ymin", "xmax", "ymax"]], on="filename")


def test_map_and_remainder_are_the_logit(run, positives):
    remainders = []
    for path in positives["path"][:3]:
        evidence, remainder = map_evidence(run, path)
        assert evidence.shape == (16, 16)
        film = read_image(path, 128)[None, ..., None]
        logit = float(run.model.predict_on_batch(film)[0, 0])
        assert evidence.sum() + remainder == pytest.approx(logit, abs=1e-3)
        assert abs(evidence).max() > 0.01
        remainders.append(remainder)
    # Of the average training film, so the same for each.
    assert np.ptp(remainders) < 1e-3


def test_each_position_has_its_part_of_the_cells(run, positives):
    path = positives["path"][0]
    (channels,) = feature_maps(run, [path])
    side, head = channels.shape[1], run.model.get_layer("head")
    share = np.zeros((5, side))  # of a position in each cell, along one axis
    for cell in range(5):
        start, end = cell * side // 5, -(-(cell + 1) * side // 5)
        share[cell, start:end] = 1 / (end - start)
    mean, variance = (x.reshape(5, 5, -1) for x in head.get_layer("standardise").get_weights())
    slope = head.get_layer("logit").get_weights()[0].reshape(mean.shape) / np.sqrt(
        variance + EPSILON
    )
    parts = np.einsum("cp,dq,pqf,cdf->pq", share, share, channels[0], slope)
    average = np.einsum("cp,dq,cdf->pq", share, share, mean * slope)
    np.testing.assert_allclose(map_evidence(run, path)[0], parts - average, atol=1e-5)


def test_evidence_lies_in_the_heart(run, positives):
    assert len(positives) >= 10
    maps = feature_maps(run, positives["path"].tolist())
    maps = np.concatenate([evidence_of(run, channels)[0] for channels in maps])
    np.testing.assert_allclose(map_evidence(run, positives["path"][0])[0], maps[0], atol=1e-5)
    excess = []
    for film, evidence in zip(positives.itertuples(), maps, strict=True):
        fine = Image.fromarray(evidence).resize((film.width, film.height), Image.Resampling.NEAREST)
        inside = np.zeros((film.height, film.width), bool)
        inside[int(film.ymin) : int(film.ymax), int(film.xmin) : int(film.xmax)] = True
        values = np.asarray(fine)
        excess.append(values[inside].mean() - values[~inside].mean())
    assert np.mean(excess) > 0


def test_unreadable_film_is_named(run, tmp_path):
    (tmp_path / "film.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"film\.png"):
        map_evidence(run, tmp_path / "film.png")
    with pytest.raises(FileNotFoundError):
        map_evidence(run, tmp_path / "gone.png")
