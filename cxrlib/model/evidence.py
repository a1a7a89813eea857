"""Where on a film the evidence for a decision comes from."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cxrlib.data.images import read_image
from cxrlib.model._keras import keras, tf
from cxrlib.model.backbone import BATCH
from cxrlib.model.run import Run


def map_evidence(run: Run, path: str | Path) -> tuple[np.ndarray, float]:
    """Split a film's logit over the cells of the feature grid.

    Each standardised feature times its weight on the logit, summed over channels. With a linear
    head this is exact: the map and the remainder sum to the logit, and the remainder is the logit
    of the average training features. With a dense head it is a first-order approximation
    (gradient times input, Ancona et al., ICLR 2018). A cell also sees its surroundings, up to the
    whole film at a late layer: the map hints at a place and does not outline it.

    Parameters
    ----------
    path : an image file, or a binary file object

    Returns
    -------
    evidence : float32 array, (grid, grid), in logits
        Positive speaks for the finding. The cells cover the padded square film.
    remainder : float, what the map leaves to the logit

    Raises
    ------
    FileNotFoundError, ImageError

    Examples
    --------
    >>> import cxrlib as cxr
    >>> run = cxr.load_run("medical/models/cardiomegaly")
    >>> evidence, remainder = cxr.map_evidence(run, "medical/images/00060001_000.jpg")
    >>> evidence.shape
    (5, 5)
    """
    (channels,) = feature_maps(run, [path])
    evidence, logit = evidence_of(run, channels)
    return evidence[0], float(logit[0] - evidence[0].sum())


def feature_maps(run: Run, paths: Sequence[str | Path]) -> Iterator[np.ndarray]:
    """Yield the output of the backbone, (films, height, width, channels), batch by batch."""
    backbone = keras.Model(run.model.input, run.model.get_layer("grid").input)
    for start in range(0, len(paths), BATCH):
        films = [read_image(path, run.image_size) for path in paths[start : start + BATCH]]
        yield backbone(np.stack(films)[..., None]).numpy()


def evidence_of(run: Run, channels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return evidence, (films, grid, grid), and logit, (films,)."""
    head = run.model.get_layer("head")
    cells = run.model.get_layer("grid")(channels)
    standardise = head.get_layer("standardise")
    standard = standardise(keras.ops.reshape(cells, (len(channels), -1))).numpy()
    names = [layer.name for layer in head.layers]
    logit, gradient = logit_and_gradient(head, standard, names[names.index("standardise") + 1 :])
    return (standard * gradient).reshape(cells.shape).sum(axis=-1), logit


def logit_and_gradient(model, inputs: np.ndarray, layers: list[str]):
    """Apply the named layers of `model` in turn; return the logit, (n,), and its gradient."""
    watched = tf.convert_to_tensor(inputs)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        outputs = watched
        for name in layers:
            outputs = model.get_layer(name)(outputs)
    return outputs.numpy()[:, 0], tape.gradient(outputs, watched).numpy()
