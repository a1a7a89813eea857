"""A network trained on photographs, cut at a layer, and the features it makes of radiographs."""

import hashlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from cxrlib.data.files import file_digest
from cxrlib.data.images import PREPROCESSING, read_ahead, read_batch
from cxrlib.model._keras import keras
from cxrlib.model.fast import PARTS, compile_engine
from cxrlib.model.network import (
    BRINGS,
    BackboneError,
    EfficientNetLite2,
    as_map,
    build_network,
    cut_network,
    load_network,
)
from cxrlib.model.store import Rows, gather

CUT = {"InceptionV3": "mixed8", "EfficientNetLite2": "stage5"}
BATCH = 16


@dataclass(frozen=True)
class Backbone:
    """A network cut at `layer`, from films (n, size, size, 1) in 0..1 to a map of channels.

    `digest` is the SHA-256 of the architecture and all weights up to the cut. `engine` is a folder
    with the network in 8 bits, see `cxrlib.deploy.engine.quantise_backbone`; features then are of
    that one, in training and in the run's scores.
    """

    name: str
    weights: str | None
    layer: str
    image_size: int
    seed: int
    model: keras.Model
    digest: str
    engine: Path | None = None

    @property
    def settings(self) -> str:
        """Digest of what decides features beside the film and the grid."""
        if self.engine is None:
            return self.digest
        parts = [self.digest, *(file_digest(self.engine / name) for name in PARTS)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def load_backbone(
    name: str = "InceptionV3",
    weights: str | None = "bundled",
    image_size: int = 399,
    layer: str | None = None,
    seed: int = 0,
) -> Backbone:
    """Load a network and cut it at a layer: one of `keras.applications`, or one of your own.

    Grey values are repeated over three channels. A network of `keras.applications` gets them in
    the range it was trained on: -1..1 for InceptionV3 (Szegedy et al., CVPR 2016). One of your own
    is given 0..1: it brings what it needs beyond that as its first layers.

    Parameters
    ----------
    name : a network of `keras.applications`, such as InceptionV3, DenseNet121 or ResNet50V2; or
        EfficientNetLite2 (Tan and Le, ICML 2019), see `cxrlib.model.network`; any name of your own
    weights : 'bundled' comes with cxrlib, for InceptionV3 and EfficientNetLite2. 'imagenet' is
        downloaded by Keras. None is random, by `seed`. Else it is the path of a `.weights.h5` file,
        or of Keras' own `..._notop.h5`. The path of a `.keras` file is a whole network of your own,
        from (n, image_size, image_size, 3 or 1); a run points to it, so keep it.
    image_size : side of the square films, in pixels
    layer : name of the layer whose output is the features; 'top' is the last. None is mixed8 of
        InceptionV3, stage5 of EfficientNetLite2, and the last of others. Tokens that fill a square
        become a map; one more in front is taken for a class token and left out.
    seed : of random weights

    Raises
    ------
    BackboneError
        Unknown network or layer, a size that it cannot take, or weights that cannot be had. An
        output that is neither a map nor tokens that fill a square.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> backbone = cxr.load_backbone(weights=None, image_size=75, layer="mixed0")
    >>> backbone.model.output_shape
    (None, 7, 7, 256)
    """
    films = keras.Input((image_size, image_size, 1), name="films")
    colour = keras.layers.Concatenate(name="grey_to_rgb")([films] * 3)
    if own := str(weights).endswith(".keras"):
        network = load_network(weights, image_size)
    else:
        build = _architecture(name, weights)
        # Each network brings its own preprocessing, an affine map of 0..255 in each channel.
        preprocess = sys.modules[build.__module__].preprocess_input
        black, white = (preprocess(np.full((1, 1, 1, 3), v, np.float32)).ravel() for v in (0, 255))
        to_range = keras.layers.Rescaling((white - black).tolist(), black.tolist(), name="to_range")
        if weights is None:
            keras.utils.set_random_seed(seed)
        network = build_network(build, to_range(colour), weights)
    layer = layer or CUT.get(name, "top")
    features = network.layers[-1].name if layer == "top" else layer
    names = [x.name for x in network.layers]
    if features not in names:
        blocks = [x for x in names if x.startswith(("mixed", "stage"))] or names[-12:]
        raise BackboneError(f"layer '{layer}' is not in {name}; it has {', '.join(blocks)}")
    output = network.get_layer(features).output
    if own:
        output = cut_network(network, features)(films if network.input_shape[-1] == 1 else colour)
    model = keras.Model(films, as_map(output, features), name=f"{name}_{features}")
    digest = _digest(model, [file_digest(weights)] if own else [to_range.scale, to_range.offset])
    return Backbone(name, weights, features, image_size, seed, model, digest)


def _architecture(name: str, weights: str | None):
    """Return what builds a network that is known by name, if it has such weights."""
    networks = sorted({x for x in dir(keras.applications) if x[0].isupper()} | {*BRINGS})
    if name not in networks:
        raise BackboneError(
            f"backbone '{name}' is not one of {', '.join(networks)}. For one of your own give its "
            "`.keras` file as weights."
        )
    if weights == "bundled" and name not in BRINGS:
        raise BackboneError(
            f"weights 'bundled' are those of {' and '.join(BRINGS)}; for {name} give 'imagenet', "
            "the path of a weights file, or None for random weights"
        )
    if name != "EfficientNetLite2":
        return getattr(keras.applications, name)
    if weights == "imagenet":
        raise BackboneError(f"the ImageNet weights of {name} are those that are 'bundled'")
    return EfficientNetLite2


def extract_features(
    backbone: Backbone, paths: Iterable[str | Path], grid: int = 5, cache: Path | None = None
) -> "np.ndarray | Rows":
    """Return the features of films, averaged over a grid so that position survives.

    Parameters
    ----------
    grid : cells per side; 1 is global average pooling
    cache : folder that keeps features, in one file per backbone and grid (`cxrlib.model.store`);
        an interrupted call goes on where it stopped, with the same bytes on one machine. Damaged
        rows are made anew, with one warning. None keeps nothing.

    Returns
    -------
    float16 array, (films, grid, grid, channels)
        Beyond 1 GiB with a cache it is a `Rows`, which stays on disk. Both have `shape`, `len`, and
        indices, slices and masks, which give arrays; `fit_head`, `fine_tune` and `learning_curve`
        take both. `features[:]` is an array of all, in memory.

    Raises
    ------
    FileNotFoundError, ImageError
        Naming the first file that cannot be read; the features before it are in the cache.
    StoreError
        The cache cannot be written, as on a full disk; what is done is kept.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> backbone = cxr.load_backbone("EfficientNetLite2", image_size=75, layer="stage1")
    >>> cxr.extract_features(backbone, ["medical/images/00060001_000.jpg"], grid=3).shape
    (1, 3, 3, 16)
    """
    shape, compute = feature_shape(backbone, grid), partial(compute_features, backbone, grid)
    return gather(backbone.settings, shape, paths, cache, compute, BATCH)


def feature_shape(backbone: Backbone, grid: int) -> tuple[int, int, int]:
    """Return the shape of a film's features; BackboneError where the map has fewer cells."""
    height, width, channels = backbone.model.output_shape[1:]
    if not 1 <= grid <= min(height, width):
        raise BackboneError(
            f"grid {grid}: at image_size {backbone.image_size}, {backbone.layer} has {height} x "
            f"{width} positions. Give larger films, a smaller grid or an earlier layer."
        )
    return grid, grid, channels


def compute_features(backbone: Backbone, grid: int, tasks: Iterable[tuple]) -> Iterator[tuple]:
    """Yield (numbers, features of each film) of tasks, (numbers, paths of films), in order."""
    forward = _pooled(backbone, grid).predict_on_batch
    if backbone.engine:
        engine, channels = compile_engine(backbone.engine / PARTS[0]), backbone.model.output_shape
        pool = keras.Sequential([keras.Input(channels[1:]), _pool(backbone, grid)])
        forward = lambda film: pool.predict_on_batch(engine(film))  # noqa: E731

    def read(task, size, pool):
        return task[0], read_batch(task[1], size, pool)

    for numbers, pixels in read_ahead(read, tasks, backbone.image_size):
        # One by one: in a batch the last digits would depend on the other films.
        yield numbers, [forward(film[None])[0] for film in pixels]


def join(backbone: Backbone, head: keras.Model) -> keras.Model:
    """Return one model from films, (n, size, size, 1) in 0..1, to the head's logit, (n, 1)."""
    features = _pooled(backbone, head.input_shape[1])
    return keras.Model(features.input, head(features.output), name="classifier")


@lru_cache(1)  # tracing it takes seconds, and workers compute part by part
def _pooled(backbone: Backbone, grid: int) -> keras.Model:
    return keras.Model(backbone.model.input, _pool(backbone, grid)(backbone.model.output))


def _pool(backbone: Backbone, grid: int) -> keras.Layer:
    height, width = backbone.model.output_shape[1:3]
    if height % grid or width % grid:
        return keras.layers.AdaptiveAveragePooling2D(grid, name="grid")
    # Keras' adaptive layer fails on some of these, a grid of 1 among them
    return keras.layers.AveragePooling2D((height // grid, width // grid), name="grid")


def _digest(model: keras.Model, made_of: list) -> str:
    # Layers stand in the order of the graph; their names count from the start of the session.
    layers = [type(layer).__name__ for layer in model.layers]
    facts = [PREPROCESSING, *made_of, model.input_shape, layers]
    digest = hashlib.sha256(repr(facts).encode())
    for weight in model.get_weights():
        digest.update(weight.tobytes())
    return digest.hexdigest()
