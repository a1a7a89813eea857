"""Features of any number of films, computed by several processes or machines into one store."""

import os
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from cxrlib import versions
from cxrlib.model._keras import THREADS
from cxrlib.model.backbone import Backbone, compute_features, feature_shape, load_backbone
from cxrlib.model.run import KNOWN_WEIGHTS
from cxrlib.model.store import Rows, gather
from cxrlib.scoring.cluster import ClusterError, Scheduler, one_part, refuse_other, spread

PART = 32  # films: what a worker is sent; what it sends back has 2 MB


def extract_on_workers(
    backbone: Backbone,
    paths: Iterable[str | Path],
    grid: int = 5,
    cache: Path | None = None,
    scheduler: Scheduler = None,
    workers: int | None = None,
) -> "np.ndarray | Rows":
    """Return what `cxr.extract_features` does, computed by `workers`, or by those of a `scheduler`.

    The cache is the same, to the last byte, whoever computed which film: an extraction that was
    begun in one way goes on in another. Films of a worker that is lost are given to another one.
    `scheduler` and `workers` are as for `cluster.spread`; other machines need films and weights
    under the same paths. Raises the errors of both, and ClusterError where a worker has other
    weights or versions than this process.
    """
    weights, fast = backbone.weights, backbone.engine
    if weights not in KNOWN_WEIGHTS:
        weights = os.path.abspath(weights)
    made_of = backbone.name, weights, backbone.image_size, backbone.layer, backbone.seed
    wanted = backbone.settings, str(versions()), THREADS
    there = partial(_compute_part, made_of, fast and fast.absolute(), wanted, grid)

    def compute(tasks):
        sent = ((numbers, list(map(os.path.abspath, films))) for numbers, films in tasks)
        try:
            yield from spread(there, sent, scheduler, workers)
        except FileNotFoundError as error:
            if not os.path.exists(error.filename or ""):
                raise
            raise ClusterError(
                f"a worker does not find {error.filename}, which is there: its machine must see "
                "films and weights under the same paths as this one"
            ) from error

    shape = feature_shape(backbone, grid)
    return gather(backbone.settings, shape, paths, cache, compute, PART)


def _compute_part(made_of: tuple, fast: Path | None, wanted: tuple, grid: int, films: list[str]):
    """Return the features of films, (n, grid, grid, channels); what a worker runs."""
    with one_part:
        backbone = _load_once(made_of, fast, wanted)
        ((_, rows),) = compute_features(backbone, grid, [(0, films)])
        return np.stack(rows).astype(np.float16)


@lru_cache(1)
def _load_once(made_of: tuple, fast: Path | None, wanted: tuple) -> Backbone:
    backbone = replace(load_backbone(*made_of), engine=fast)
    refuse_other((backbone.settings, str(versions()), THREADS), wanted, "other weights")
    return backbone
