import numpy as np
import pytest

from cxrlib.audit.localise import map_films
from cxrlib.data.images import read_image
from cxrlib.data.study import choose_films
from cxrlib.model._keras import keras
from cxrlib.model.evidence import map_evidence
from cxrlib.model.head import EPSILON


@pytest.fixture(scope="module")
def run(small_run):
    return small_run


@pytest.fixture(scope="module")
def paths(trained_run):
    """Test films: more than one batch."""
    films = choose_films(trained_run[1], "Cardiomegaly").query("split == 'test'")
    return list(films["path"][:20])


def test_maps_of_many_films_are_those_of_each(run, paths):
    assert len(paths) > 16
    evidence = map_films(run, paths)["evidence"]
    assert evidence.shape == (len(paths), 16, 16)
    for number in (0, 3, len(paths) - 1):
        alone, _ = map_evidence(run, paths[number])
        np.testing.assert_allclose(evidence[number], alone, atol=1e-4)


def test_grad_cam_of_a_linear_head_has_a_closed_form(run, paths):
    path = paths[0]
    found = map_films(run, [path])["Grad-CAM"][0]
    channels = keras.Model(run.model.input, run.model.get_layer("grid").input)
    features = channels(read_image(path, 128)[None, ..., None]).numpy()[0]
    head = run.model.get_layer("head")
    mean, variance = head.get_layer("standardise").get_weights()
    kernel, _ = head.get_layer("logit").get_weights()
    slopes = (kernel[:, 0] / np.sqrt(variance + EPSILON)).reshape(25, -1)
    # Pooling hands a cell's gradient out over its positions, and Grad-CAM takes their mean.
    importance = slopes.sum(axis=0) / features[..., 0].size
    expected = np.maximum(features @ importance, 0)
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())
    assert found.min() >= 0 and found.max() > 0
