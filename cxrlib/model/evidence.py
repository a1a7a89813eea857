"""Where on a film the evidence for a decision comes from."""

from collections.abc import Iterator, Sequence

import numpy as np

from cxrlib.data.files import Film
from cxrlib.data.images import read_image
from cxrlib.model._keras import keras, tf
from cxrlib.model.backbone import BATCH
from cxrlib.model.run import Run


def map_evidence(run: Run, path: Film) -> tuple[np.ndarray, float]:
    """Split a film's logit over the positions of the network's last layer.

    It is each standardised feature times its weight on the logit, summed over channels. A feature
    is an average over positions, so each position gets its part of it. With a linear head this is
    exact: the map and the remainder sum to the logit. The remainder is the logit of the average
    training features. With a dense head it is a first-order approximation (gradient times input,
    Ancona et al., ICLR 2018). A position also sees its surroundings, at a late layer up to the
    whole film. So the map hints at a place and does not outline it.

    Parameters
    ----------
    path : an image file, or a binary file object

    Returns
    -------
    evidence : float32 array, (height, width) of the layer, in logits
        Positive speaks for the finding. The positions cover the padded square film.
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
    (11, 11)
    """
    (channels,) = feature_maps(run, [path])
    evidence, logit, _ = evidence_of(run, channels)
    return evidence[0], float(logit[0] - evidence[0].sum())


def feature_maps(run: Run, paths: Sequence[Film]) -> Iterator[np.ndarray]:
    """Yield the output of the backbone, (films, height, width, channels), batch by batch."""
    backbone = keras.Model(run.model.input, run.model.get_layer("grid").input)
    for start in range(0, len(paths), BATCH):
        films = [read_image(path, run.image_size) for path in paths[start : start + BATCH]]
        yield backbone(np.stack(films)[..., None]).numpy()


def evidence_of(run: Run, channels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return evidence, (films, height, width), logit, (films,), and its gradient by `channels`."""
    head = run.model.get_layer("head")
    with tf.GradientTape(persistent=True) as tape:
        positions = tf.convert_to_tensor(channels)
        tape.watch(positions)
        cells = run.model.get_layer("grid")(positions)
        logit = head(cells)
    of_cells = tape.gradient(logit, cells)
    average = tf.reshape(head.get_layer("standardise").moving_mean, cells.shape[1:])
    # What belongs to a cell is handed out over its positions.
    slope, baseline = (
        tape.gradient(cells, positions, part).numpy() for part in (of_cells, of_cells * average)
    )
    return (channels * slope).sum(axis=-1) - baseline.sum(axis=-1), logit.numpy()[:, 0], slope
