"""Maps to hold against each other: evidence and Grad-CAM of many films, and of a random network."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from cxrlib.model._keras import keras
from cxrlib.model.backbone import join, load_backbone
from cxrlib.model.evidence import evidence_of, feature_maps, logit_and_gradient
from cxrlib.model.run import Run


def map_films(run: Run, paths: Sequence[str | Path]) -> dict[str, np.ndarray]:
    """Return maps of each film, over the padded square film; high where they speak for the finding.

    'Grad-CAM' (Selvaraju et al., ICCV 2017) is taken of the logit at the last layer of the
    backbone: its channels weighted by their mean gradient, and what is below 0 cut off.

    Returns
    -------
    dict of float32 arrays, (films, height, width)
        'evidence' as `map_evidence`, in logits; 'Grad-CAM', at least 0 and without a unit.

    Raises
    ------
    FileNotFoundError, ImageError
    """
    maps: dict[str, list] = {"evidence": [], "Grad-CAM": []}
    for channels in feature_maps(run, paths):
        maps["evidence"].append(evidence_of(run, channels)[0])
        _, gradient = logit_and_gradient(run.model, channels, ["grid", "head"])
        importance = gradient.mean(axis=(1, 2), keepdims=True)
        maps["Grad-CAM"].append(np.maximum((channels * importance).sum(axis=-1), 0))
    return {method: np.concatenate(parts) for method, parts in maps.items()}


def randomise(run: Run, seed: int = 0) -> Run:
    """Return a run with random weights in its backbone and a shuffled last layer of its head.

    A map that does not change under this tells nothing of what was learned (Adebayo et al.,
    NeurIPS 2018).
    """
    made_of = run.facts["backbone"]
    backbone = load_backbone(made_of["name"], None, run.image_size, made_of["layer"], seed)
    head = keras.models.clone_model(run.model.get_layer("head"))
    head.set_weights(run.model.get_layer("head").get_weights())
    kernel, bias = head.get_layer("logit").get_weights()
    shuffled = np.random.default_rng(seed).permutation(kernel.ravel()).reshape(kernel.shape)
    head.get_layer("logit").set_weights([shuffled, bias])
    return replace(run, model=join(backbone, head))
