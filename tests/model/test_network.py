"""A network of the user's own: from a `.keras` file to a run, with tokens or a map."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from cxrlib.audit.localise import randomise
from cxrlib.data.study import choose_films
from cxrlib.model._keras import keras
from cxrlib.model.backbone import BackboneError, extract_features, join, load_backbone
from cxrlib.model.evidence import evidence_of, feature_maps
from cxrlib.model.finetune import _trainable
from cxrlib.model.head import fit_head
from cxrlib.model.predict import score_films
from cxrlib.model.run import RunError, load_run
from cxrlib.model.save import save_run

SIDE, TOKENS, CHANNELS = 32, 16, 8
layers = keras.layers


@pytest.fixture(scope="module")
def vit():
    """A vision transformer of one block with a class token, which is all zeros at first."""
    keras.utils.set_random_seed(0)
    films = keras.Input((SIDE, SIDE, 3))
    patches = layers.Conv2D(CHANNELS, 8, 8)(layers.Rescaling(2, -1)(films))
    tokens = layers.Reshape((TOKENS, CHANNELS), name="patches")(patches)
    tokens = layers.ZeroPadding1D((1, 0))(tokens)
    seen = layers.MultiHeadAttention(2, 4)(tokens, tokens)
    tokens = layers.BatchNormalization()(layers.Add()([tokens, seen]))
    tokens = layers.LayerNormalization(name="tokens")(tokens)
    fifteen = layers.Cropping1D((0, 2), name="fifteen")(tokens)
    return keras.Model(films, [layers.GlobalAveragePooling1D(name="vector")(tokens), fifteen])


@pytest.fixture(scope="module")
def file(vit, tmp_path_factory):
    vit.save(path := tmp_path_factory.mktemp("own") / "vit.keras")
    return path


@pytest.fixture(scope="module")
def nested(vit, tmp_path_factory):
    """The same behind a layer of its own, as a network of KerasHub would be."""
    films = keras.Input((SIDE, SIDE, 3))
    tokens = keras.Model(vit.input, vit.get_layer("tokens").output, name="inner")
    outer = layers.Activation("linear", name="after")(tokens(layers.Rescaling(1.0)(films)))
    keras.Model(films, outer).save(path := tmp_path_factory.mktemp("own") / "nested.keras")
    return path


def load(file, layer="tokens", **knobs):
    return load_backbone("my ViT", **{"weights": file, "image_size": SIDE, "layer": layer} | knobs)


@pytest.mark.parametrize(("layer", "first"), [("patches", 0), ("tokens", 1), ("top", 1)])
def test_tokens_become_a_map_without_the_class_token(vit, file, nested, layer, first):
    file, cut = (nested, "tokens") if layer == "top" else (file, layer)
    films = np.random.default_rng(0).random((2, SIDE, SIDE, 1), np.float32)
    tokens = keras.Model(vit.input, vit.get_layer(cut).output)(np.repeat(films, 3, -1)).numpy()
    made = load(file, layer).model(films).numpy()
    np.testing.assert_allclose(made, tokens[:, first:].reshape(2, 4, 4, CHANNELS), atol=1e-6)


def test_a_map_of_a_network_for_one_channel_is_taken_as_it_is(tmp_path):
    films = keras.Input((SIDE, SIDE, 1))
    keras.Model(films, layers.Conv2D(3, 4, 4)(films)).save(path := tmp_path / "mine.keras")
    assert load(str(path), None).model.output_shape == (None, 8, 8, 3)


def test_a_run_on_it_scores_the_same_when_it_is_loaded(file, study, tmp_path):
    films = choose_films(study, "Cardiomegaly")
    train = films[films["split"] == "train"]
    backbone = load(mine := Path(shutil.copy(file, tmp_path)))
    fitted = fit_head(extract_features(backbone, train["path"], grid=2), train)
    saved = save_run(tmp_path / "run", study, films, "Cardiomegaly", backbone, fitted)
    paths = train["path"][:4].tolist()
    scores = score_films(saved, paths, check=False)
    loaded = load_run(tmp_path / "run")
    assert scores["probability"].notna().all() and scores.equals(
        score_films(loaded, paths, check=False)
    )
    (channels,) = feature_maps(loaded, paths[:1])
    assert evidence_of(loaded, channels)[0].shape == (1, 4, 4)
    drawn = randomise(loaded, 1).model.get_layer("network").get_weights()
    assert not np.allclose(drawn[0], loaded.model.get_layer("network").get_weights()[0])
    loaded.model.get_layer("network").save(mine)  # another file, at the same place
    with pytest.raises(RunError, match=r"other weights than '.*vit\.keras' gives now"):
        load_run(tmp_path / "run")
    mine.unlink()
    with pytest.raises(BackboneError, match=r"vit\.keras holds no network"):
        load_run(tmp_path / "run")


def test_fine_tuning_it_leaves_batch_normalisation_alone(file):
    backbone = load(file)
    head = keras.Sequential([keras.Input((2, 2, CHANNELS)), layers.Flatten()], name="head")
    head.add(layers.BatchNormalization(name="standardise"))
    head.add(layers.Dense(1, name="logit"))
    model = _trainable(join(backbone, head), "grey_to_rgb", keras.optimizers.Adam())
    parts = model.get_layer("network").layers
    trained = {type(layer).__name__ for layer in parts if layer.trainable_weights}
    assert trained == {"Conv2D", "MultiHeadAttention", "LayerNormalization"}


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"layer": "vector"}, r"layer 'vector' gives \(None, 8\)\. Cut at a map"),
        ({"layer": "fifteen"}, r"layer 'fifteen' gives \(None, 15, 8\)\. Cut at"),
        ({"layer": "mixed8"}, r"layer 'mixed8' is not in my ViT; it has .*patches"),
        ({"image_size": 48}, r"vit\.keras takes \(None, 32, 32, 3\), not radiographs of 48 pixels"),
        ({"weights": "README.keras"}, r"README\.keras holds no network that Keras can load"),
    ],
)
def test_errors_name_layer_shape_and_the_way_out(file, knobs, message):
    with pytest.raises(BackboneError, match=message):
        load(file, **knobs)


def test_a_network_within_a_network_is_cut_at_its_end_alone(nested):
    with pytest.raises(BackboneError, match="layer 'inner' is a network in itself"):
        load(nested, "inner")


def test_code_in_a_file_is_not_run(tmp_path):
    films = keras.Input((SIDE, SIDE, 3))
    network = keras.Model(films, layers.Lambda(lambda x: x[:, ::4, ::4])(films))
    network.save(path := tmp_path / "code.keras")
    with pytest.raises(BackboneError, match="code.keras holds no network .*Lambda|unsafe"):
        load(path, None)
