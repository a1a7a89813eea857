"""Keras, imported quietly and alike for everyone: what that changes for a process is all here."""

import os
import warnings
from collections.abc import Callable
from weakref import WeakKeyDictionary

import numpy as np

# Sums are split among threads, so another number of them gives other last digits. A fixed one gives
# the same on any number of cores, in any worker; four cost two cores a few per cent.
THREADS = int(os.environ.get("CXR_THREADS", 4))

# TensorFlow 2.21 writes to stderr while it is imported, whatever its log level; a failed import
# still raises.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# What a user's keras.json or environment says otherwise is for other projects.
os.environ["KERAS_BACKEND"] = "tensorflow"
_stderr = os.dup(2)
_null = os.open(os.devnull, os.O_WRONLY)
os.dup2(_null, 2)
try:
    import keras
    import tensorflow as tf
finally:
    os.dup2(_stderr, 2)
    os.close(_stderr)
    os.close(_null)
keras.config.set_floatx("float32")
keras.config.set_image_data_format("channels_last")

try:
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
except RuntimeError:
    THREADS = os.cpu_count() or 1
    warnings.warn(
        "TensorFlow computed before cxrlib was imported, so it takes one thread per core, and last "
        "digits depend on their number. Import cxrlib's models first.",
        stacklevel=2,
    )

OUT_OF_MEMORY = (MemoryError, tf.errors.ResourceExhaustedError)
Forward = Callable[[np.ndarray], np.ndarray]
_frozen: WeakKeyDictionary = WeakKeyDictionary()  # seconds each, and copies of a run share a model


def freeze(model: keras.Model) -> Forward:
    """Return a model as a function of float32 films (n, size, size, 1) to logits (n, 1).

    With weights that cannot change TensorFlow multiplies batch normalisations into the convolutions
    before them: the same algebra, other rounding (a few 1e-6 of a logit).
    """
    if model in _frozen:
        return _frozen[model]
    films = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    weights = [
        [variable.numpy() for variable in variables]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    ]

    def forward(films):
        constants = [[tf.constant(weight) for weight in some] for some in weights]
        return model.stateless_call(*constants, films, training=False)[0]

    frozen = tf.function(forward, autograph=False).get_concrete_function(films)
    _frozen[model] = lambda films: frozen(tf.constant(films, tf.float32)).numpy()
    return _frozen[model]


def is_finite(model: keras.Model) -> bool:
    """Say whether all weights are finite numbers; without that, probabilities are none."""
    return all(np.isfinite(weight).all() for weight in model.get_weights())
