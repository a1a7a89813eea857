"""Networks: those of `keras.applications`, EfficientNetLite2, and the user's own `.keras` file."""

import socket
from pathlib import Path

from cxrlib.model._keras import OUT_OF_MEMORY, keras

BUNDLED = Path(__file__).parent / "weights" / "inception_v3.weights.h5"
LITE = BUNDLED.with_name("efficientnet_lite2.weights.h5")
BRINGS = {"InceptionV3": BUNDLED, "EfficientNetLite2": LITE}  # weights come with cxrlib
DOWNLOAD_WAIT = 10  # seconds without a byte, after which a download has failed
# Per stage: blocks, kernel, stride, expansion, channels (Tan and Le, ICML 2019, at width 1.1 and
# depth 1.2). Lite has no squeeze-and-excitation, and ReLU6 instead of swish.
STAGES = (
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
)


class BackboneError(ValueError):
    """A backbone that cannot be had, with the ways that can."""


def build_network(build, pixels, weights: str | None) -> keras.Model:
    """Build a network of a known architecture on `pixels`, (n, size, size, 3), without its top."""
    path = BRINGS[build.__name__] if weights == "bundled" else Path(str(weights))
    if weights not in (None, "imagenet") and not path.is_file():
        raise BackboneError(
            f"weights '{path}' is no file. Give 'bundled', 'imagenet', the path of a weights file, "
            "or None for random weights."
        )
    size = pixels.shape[1]
    wait = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_WAIT)
    try:
        network = build(
            include_top=False,
            weights="imagenet" if weights == "imagenet" else None,
            input_tensor=pixels,
            input_shape=(size, size, 3),
        )
    except OUT_OF_MEMORY:
        raise
    except Exception as error:  # Keras raises a bare Exception when a download fails
        if isinstance(error, ValueError) and "file hash" not in str(error):
            raise BackboneError(f"{build.__name__} at image_size {size}: {error}") from error
        raise BackboneError(
            f"the ImageNet weights of {build.__name__} could not be downloaded ({error}). Without "
            "a network use weights='bundled' (InceptionV3), or the path of a weights file."
        ) from error
    finally:
        socket.setdefaulttimeout(wait)
    if weights in (None, "imagenet"):
        return network
    try:
        network.load_weights(path)
    except (AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        told = f"{path} does not hold weights of {build.__name__}: {error!s:.200}"
        raise BackboneError(told) from error
    return network


def load_network(path: str | Path, size: int) -> keras.Model:
    """Load a user's own network; BackboneError where it does not take films of `size` pixels."""
    try:
        network = keras.models.load_model(path, compile=False, safe_mode=True)
    except OUT_OF_MEMORY:
        raise
    except Exception as error:  # Keras, h5py and zipfile raise a dozen kinds
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise BackboneError(
            f"{path} holds no network that Keras can load ({reason:.200}). Layers of another "
            "package need its import first, own ones `keras.saving.register_keras_serializable`."
        ) from error
    shape = getattr(network, "input_shape", None)
    if shape not in [(None, size, size, channels) for channels in (1, 3)]:
        raise BackboneError(
            f"{path} takes {shape}, not radiographs of {size} pixels: its input must be (None, "
            f"{size}, {size}, 3), or 1 for 3, and image_size must be the same."
        )
    return network


def cut_network(network: keras.Model, layer: str) -> keras.Model:
    """Return a user's network up to a layer, to be used as one layer of another."""
    # The output of a layer that is a network is that of its own input, and not of this one's.
    last = layer == network.layers[-1].name and len(network.outputs) == 1
    output = network.output if last else network.get_layer(layer).output
    try:
        return keras.Model(network.input, output, name="network")
    except ValueError as error:
        raise BackboneError(
            f"layer '{layer}' is a network in itself, and not the last layer: cut at another one"
        ) from error


def as_map(output, layer: str):
    """Return the output of a layer as (n, height, width, channels): tokens on a square, by rows."""
    match shape := getattr(output, "shape", None):  # a network may give several
        case (_, int(), int(), int()):
            return output
        case (_, int(tokens), int(channels)) if tokens - (side := int(tokens**0.5)) ** 2 < 2:
            if tokens > side**2:
                output = keras.layers.Cropping1D((1, 0), name="without_class_token")(output)
            return keras.layers.Reshape((side, side, channels), name="tokens_on_square")(output)
    raise BackboneError(
        f"layer '{layer}' gives {shape or output}. Cut at a map, (None, height, width, channels), "
        "or at tokens, (None, tokens, channels), that fill a square, with or without a class token."
    )


def parts_of(layer: keras.Layer) -> list[keras.Layer]:
    """Return a layer, or the layers of the network that it is."""
    return [part for inner in getattr(layer, "layers", []) for part in parts_of(inner)] or [layer]


def preprocess_input(pixels):
    """Bring grey values, 0..255, to the range that `EfficientNetLite2` was trained on."""
    return (pixels - 127) / 128


def EfficientNetLite2(include_top=False, weights=None, input_tensor=None, input_shape=None):
    """Build the network up to its fifth stage of seven, as `keras.applications` build theirs.

    Layers `stage1` to `stage5` end the stages. `stage5` has 120 channels at 1/16 of the side.
    """
    x = _convolve(keras.layers.Conv2D(32, 3, 2, "same", use_bias=False), input_tensor)
    for number, (blocks, kernel, stride, expansion, channels) in enumerate(STAGES, 1):
        for block in range(blocks):
            name = f"stage{number}" if block == blocks - 1 else None
            x = _block(x, kernel, 1 if block else stride, expansion, channels, name)
    return keras.Model(keras.utils.get_source_inputs(input_tensor), x)


def _block(x, kernel: int, stride: int, expansion: int, channels: int, name: str | None):
    """Widen, filter each channel, narrow; add what came in where shapes agree."""
    start = x
    if expansion > 1:
        x = _convolve(keras.layers.Conv2D(expansion * x.shape[-1], 1, use_bias=False), x)
    x = _convolve(keras.layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False), x)
    adds = stride == 1 and start.shape[-1] == channels
    x = keras.layers.Conv2D(channels, 1, use_bias=False)(x)
    x = keras.layers.BatchNormalization(name=None if adds else name)(x)
    return keras.layers.Add(name=name)([x, start]) if adds else x


def _convolve(layer, x):
    return keras.layers.ReLU(6)(keras.layers.BatchNormalization()(layer(x)))
