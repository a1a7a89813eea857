"""Where on a film the evidence for a decision comes from."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from cxrlib.data.images import read_image
from cxrlib.model._keras import keras
from cxrlib.model.backbone import BATCH, join, load_backbone
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
    channels = next(_feature_maps(run, [path]))
    evidence, logit = _evidence(run, channels)
    return evidence[0], float(logit[0] - evidence[0].sum())


def map_films(run: Run, paths: Sequence[str | Path]) -> dict[str, np.ndarray]:
    """Return maps of each film, over the padded square film; high where they speak for the finding.

    'Grad-CAM' (Selvaraju et al., ICCV 2017) is taken of the logit at the last layer of the
    backbone: its channels weighted by their mean gradient, and what is below 0 cut off.

    Parameters
    ----------
    run : Run, of a head or fine-tuned
    paths : image files

    Returns
    -------
    dict of float32 arrays, (films, height, width)
        'evidence' as `map_evidence`, in logits; 'Grad-CAM', at least 0 and without a unit.

    Raises
    ------
    FileNotFoundError, ImageError
    """
    maps: dict[str, list] = {"evidence": [], "Grad-CAM": []}
    for channels in _feature_maps(run, paths):
        maps["evidence"].append(_evidence(run, channels)[0])
        _, gradient = _logit_and_gradient(run.model, channels, ["grid", "head"])
        importance = gradient.mean(axis=(1, 2), keepdims=True)
        maps["Grad-CAM"].append(np.maximum((channels * importance).sum(axis=-1), 0))
    return {method: np.concatenate(parts) for method, parts in maps.items()}


def randomise(run: Run, seed: int = 0) -> Run:
    """Return a run with random weights in its backbone and a shuffled last layer of its head.

    A map that does not change under this tells nothing of what was learned (Adebayo et al.,
    NeurIPS 2018).
    """
    made_of = run.facts["backbone"]
    backbone = load_backbone(made_of["name"], None, run.facts["image_size"], made_of["layer"], seed)
    head = keras.models.clone_model(run.model.get_layer("head"))
    head.set_weights(run.model.get_layer("head").get_weights())
    kernel, bias = head.get_layer("logit").get_weights()
    shuffled = np.random.default_rng(seed).permutation(kernel.ravel()).reshape(kernel.shape)
    head.get_layer("logit").set_weights([shuffled, bias])
    return replace(run, model=join(backbone, head))


def resize_map(heat: np.ndarray, side: int) -> np.ndarray:
    """Return a map, (height, width), at (side, side), interpolated between the cells' centres."""
    image = Image.fromarray(np.asarray(heat, np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def _feature_maps(run: Run, paths: Sequence[str | Path]) -> Iterator[np.ndarray]:
    """Yield the output of the backbone, (films, height, width, channels), batch by batch."""
    backbone = keras.Model(run.model.input, run.model.get_layer("grid").input)
    for start in range(0, len(paths), BATCH):
        films = [read_image(path, run.facts["image_size"]) for path in paths[start : start + BATCH]]
        yield backbone(np.stack(films)[..., None]).numpy()


def _evidence(run: Run, channels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return evidence, (films, grid, grid), and logit, (films,)."""
    head = run.model.get_layer("head")
    cells = run.model.get_layer("grid")(channels)
    standardise = head.get_layer("standardise")
    standard = standardise(keras.ops.reshape(cells, (len(channels), -1))).numpy()
    names = [layer.name for layer in head.layers]
    logit, gradient = _logit_and_gradient(head, standard, names[names.index("standardise") + 1 :])
    return (standard * gradient).reshape(cells.shape).sum(axis=-1), logit


def _logit_and_gradient(model, inputs: np.ndarray, layers: list[str]):
    """Apply the named layers of `model` in turn; return the logit, (n,), and its gradient."""
    import tensorflow as tf

    watched = tf.convert_to_tensor(inputs)
    with tf.GradientTape() as tape:
        tape.watch(watched)
        outputs = watched
        for name in layers:
            outputs = model.get_layer(name)(outputs)
    return outputs.numpy()[:, 0], tape.gradient(outputs, watched).numpy()
