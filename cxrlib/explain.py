"""Which cells of the feature grid the evidence for a decision comes from."""

from pathlib import Path

import numpy as np

from cxrlib.backbone import keras
from cxrlib.images import read_image
from cxrlib.run import Run


def map_evidence(run: Run, path: str | Path) -> tuple[np.ndarray, float]:
    """Split a film's logit over the cells of the feature grid.

    Each standardised feature times its weight on the logit, summed over channels. With a linear
    head this is exact: the map and the remainder sum to the logit, and the remainder is the logit
    of the average training features. With a dense head it is a first-order approximation
    (gradient times input, Ancona et al., ICLR 2018). A cell also sees its surroundings, up to the
    whole film at a late layer: the map hints at a place and does not outline it.

    Parameters
    ----------
    run : Run
    path : an image file, or a binary file object

    Returns
    -------
    evidence : float32 array, (grid, grid)
        In logits; positive speaks for the finding. The cells cover the padded square film.
    remainder : float
        What the map leaves to the logit.

    Raises
    ------
    FileNotFoundError, ImageError
    """
    head = run.model.get_layer("head")
    features = keras.Model(run.model.input, run.model.get_layer("grid").output)
    film = read_image(path, run.facts["image_size"])[None, ..., None]
    cells = features(film)
    standardise = head.get_layer("standardise")
    standard = standardise(keras.ops.reshape(cells, (1, -1)))
    logit, gradient = _gradient(head.layers[head.layers.index(standardise) + 1 :], standard)
    evidence = (standard * gradient).numpy().reshape(cells.shape[1:]).sum(axis=-1)
    return evidence, logit - float(evidence.sum())


def _gradient(layers: list, inputs) -> tuple[float, object]:
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = inputs
        for layer in layers:
            outputs = layer(outputs)
    return float(outputs[0, 0]), tape.gradient(outputs, inputs)
