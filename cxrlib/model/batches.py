"""Films as batches for training, read ahead and augmented by threads."""

import os

import numpy as np
import pandas as pd
from sklearn.utils.class_weight import compute_sample_weight

from cxrlib.data.images import read_image
from cxrlib.model._keras import keras

READERS = max(2, os.cpu_count() or 1)


class TrainingFilms(keras.utils.PyDataset):
    """Batches of one size, (films, targets, weights); with `draw`, augmented by it and their place.

    Blank films of weight 0 fill up the last batch, so that devices share all evenly; weights make
    the mean of all batches that of the films.
    """

    def __init__(self, films: pd.DataFrame, size: int, batch: int, draw: list | None = None):
        super().__init__(workers=READERS, max_queue_size=2 * READERS)
        self.films, self.size, self.batch, self.draw = films, size, batch, draw
        filled = len(self) * batch / len(films)
        self.weights = compute_sample_weight("balanced", films["target"]) * filled

    def __len__(self):
        return -(-len(self.films) // self.batch)

    def __getitem__(self, index):
        rows = slice(index * self.batch, (index + 1) * self.batch)
        films = self.films[rows]
        pixels = np.stack([read_image(path, self.size) for path in films["path"]])[..., None]
        if self.draw:
            seed = int(np.random.SeedSequence([*self.draw, index]).generate_state(1)[0])
            for layer in (
                keras.layers.RandomRotation(5 / 360, "constant", seed=seed),
                keras.layers.RandomTranslation(0.04, 0.04, "constant", seed=seed),
                keras.layers.RandomZoom(0.08, fill_mode="constant", seed=seed),
                keras.layers.RandomContrast(0.15, value_range=(0, 1), seed=seed),
            ):
                pixels = layer(pixels, training=True)
        filling = [(0, self.batch - len(films)), (0, 0), (0, 0), (0, 0)]
        parts = pixels, films["target"].to_numpy()[:, None], self.weights[rows]
        return tuple(np.pad(part, filling[: np.ndim(part)]) for part in parts)
