"""EfficientNet-Lite2: a network at a quarter of InceptionV3's cost, which Keras does not have."""

from pathlib import Path

from cxrlib.model._keras import keras

BUNDLED = Path(__file__).parent / "weights" / "efficientnet_lite2.weights.h5"
# Per stage: blocks, kernel, stride, expansion, channels (Tan and Le, ICML 2019, at width 1.1 and
# depth 1.2). Lite has no squeeze-and-excitation, and ReLU6 instead of swish.
STAGES = (
    (1, 3, 1, 1, 16),
    (3, 3, 2, 6, 24),
    (3, 5, 2, 6, 48),
    (4, 3, 2, 6, 88),
    (4, 5, 1, 6, 120),
)


def preprocess_input(pixels):
    """Bring grey values, 0..255, to the range that the network was trained on."""
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
