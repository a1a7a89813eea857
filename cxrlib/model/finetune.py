"""Train the upper layers of the backbone too, starting from a fitted head."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils.class_weight import compute_sample_weight
from tqdm.auto import tqdm

from cxrlib.data.images import read_image
from cxrlib.model._keras import keras
from cxrlib.model.backbone import Backbone, join
from cxrlib.model.head import Fitted, TrainError, calibrate, fit_uncalibrated, refuse_test_films

BATCH = 16
PATIENCE = 3  # epochs without a better validation loss before training stops
VALIDATION_FOLD = 0


def fine_tune(
    backbone: Backbone,
    features: np.ndarray,
    films: pd.DataFrame,
    fitted: Fitted,
    folder: str | Path,
    from_layer: str = "mixed6",
    learning_rate: float = 1e-5,
    epochs: int = 8,
    augment: bool = True,
    seed: int = 0,
    devices: Sequence[str] | None = None,
) -> Fitted:
    """Train backbone and head together on four folds of the training patients.

    The head is first fitted again on those four folds, so that large early gradients do not spoil
    the backbone (Kumar et al., ICLR 2022). The one left out decides when to stop and calibrates.
    Batch normalisation stays frozen. After each epoch everything is saved: a call that was
    interrupted goes on where it stopped, and one with other settings starts anew.

    Several devices share each batch of 16 (`tf.distribute.MirroredStrategy`): the steps are those
    of one device up to rounding, so an interrupted call may go on with more devices or fewer.

    Parameters
    ----------
    backbone, features, films, fitted : as given to and returned by `fit_head`
    folder : where epochs are kept
    from_layer : layers after this one are trained
    learning_rate : of Adam
    epochs : at most
    augment : turn by up to 5 degrees, shift by 4 %, zoom by 8 %, change contrast by 15 %; never a
        mirror image, since the heart lies on one side
    seed : of order and augmentation
    devices : names such as 'GPU:0' and 'GPU:1' to train on, the same in all calls of a process;
        None takes all GPUs where there are two or more, else what TensorFlow takes (GPU or CPU)

    Returns
    -------
    Fitted
        Of stage 'finetuned'; probabilities for the films of the fold left out alone. Epoch 0 of the
        history is the model before fine-tuning, and is what returns where no epoch is better.

    Raises
    ------
    TrainError
        A layer that the backbone does not have, a test patient's film, fewer than one epoch, or a
        device that TensorFlow does not see.
    """
    refuse_test_films(films)
    names = [layer.name for layer in backbone.model.layers]
    if from_layer not in names[:-1]:
        below = [name for name in names if name.startswith("mixed")] or names[-12:]
        raise TrainError(
            f"fine-tuning from layer '{from_layer}': give a layer of {backbone.name} below "
            f"'{backbone.layer}', such as {', '.join(below[:-1])}"
        )
    if epochs < 1:
        raise TrainError(f"fine-tuning for {epochs} epochs: give at least 1")
    strategy = _strategy(devices)
    facts = fitted.facts | {
        "from_layer": from_layer,
        "finetuning_rate": learning_rate,
        "augmented": augment,
        "held_out": "one patient-grouped fold, which also decided when to stop",
    }
    held_out = fitted.fold == VALIDATION_FOLD
    # Settings and inputs alone: the last digits of what the head was fitted to may differ.
    settings = {n: fact for n, fact in facts.items() if n not in ("calibration", "strength")}
    given = [features.shape, fitted.fold.tolist(), films[["filename", "target"]].to_csv()]
    key = [backbone.digest, settings, seed, *given]
    folder = Path(folder) / hashlib.sha256(json.dumps(key, default=str).encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)

    validation = _Films(films[held_out], backbone.image_size)
    if (folder / "history.csv").exists():
        history = pd.read_csv(folder / "history.csv")
    else:
        target = films["target"].to_numpy()
        head, _ = fit_uncalibrated(
            features[~held_out], target[~held_out], fitted.fold[~held_out], fitted.facts
        )
        model = _trainable(join(backbone, head), from_layer, learning_rate)
        start = model.evaluate(validation, verbose=0, return_dict=True)
        history = _keep(folder, model, None, {"epoch": 0} | _named(start, "val_"))
    # Read back even at the start: what `join` gave shares its layers with the caller's backbone.
    with strategy.scope():
        model = _load(folder, int(history["epoch"].max()))
    progress = tqdm(range(len(history), epochs + 1), desc="fine-tuning", unit="epoch")
    for epoch in progress:
        if epoch - _best(history) > PATIENCE:
            break
        training = _Films(films[~held_out], backbone.image_size, augment, seed * 1000 + epoch)
        # Keras would shuffle batches by Python's global, unseeded generator.
        log = model.fit(_share(training, strategy), shuffle=False, verbose=0).history
        end = model.evaluate(_share(validation, strategy), verbose=0, return_dict=True)
        row = {"epoch": epoch} | _named({k: v[0] for k, v in log.items()}, "")
        history = _keep(folder, model, history, row | _named(end, "val_"))
        progress.set_postfix(row)
    model = _load(folder, _best(history))
    logit = np.full(len(films), np.nan)
    logit[held_out] = model.predict(validation, verbose=0)[:, 0]
    facts |= {"finetuning_epochs": _best(history), "epochs_allowed": epochs, "patience": PATIENCE}
    tuned = replace(
        fitted, model=model, stage="finetuned", probability=logit, history=history, facts=facts
    )
    return calibrate(tuned, films["target"].to_numpy())


class _Films(keras.utils.PyDataset):
    """Batches of (films, targets, weights); order and augmentation follow from the seed alone."""

    def __init__(self, films: pd.DataFrame, size: int, augment: bool = False, seed=None):
        super().__init__()
        self.given = films, size, augment, seed
        shuffled = seed is not None
        self.films = films.sample(frac=1, random_state=seed) if shuffled else films
        self.weights = compute_sample_weight("balanced", self.films["target"])
        self.size = size
        self.augment = keras.Sequential(
            [
                keras.layers.RandomRotation(5 / 360, "constant", seed=seed),
                keras.layers.RandomTranslation(0.04, 0.04, "constant", seed=seed),
                keras.layers.RandomZoom(0.08, fill_mode="constant", seed=seed),
                keras.layers.RandomContrast(0.15, value_range=(0, 1), seed=seed),
            ]
            if augment
            else []
        )

    def __len__(self):
        return -(-len(self.films) // BATCH)

    def __getitem__(self, index):
        rows = slice(index * BATCH, (index + 1) * BATCH)
        batch = self.films[rows]
        pixels = np.stack([read_image(path, self.size) for path in batch["path"]])[..., None]
        pixels = self.augment(pixels, training=True) if self.augment.layers else pixels
        return pixels, batch["target"].to_numpy()[:, None], self.weights[rows]


def _strategy(devices: Sequence[str] | None):
    """Return how `devices` share the training: TensorFlow's default where they are not named."""
    import tensorflow as tf

    seen = [x.name.removeprefix("/device:") for x in tf.config.list_logical_devices()]
    gpus = [name for name in seen if name.startswith("GPU")]
    if devices is None and len(gpus) < 2:
        return tf.distribute.get_strategy()
    for name in devices or gpus:
        if name not in seen:
            raise TrainError(f"device '{name}': TensorFlow sees {', '.join(seen)}")
    return tf.distribute.MirroredStrategy(devices or gpus)


def _share(films: _Films, strategy):
    """Return `films` as they are for one device, for several in batches that split evenly.

    Keras takes the mean of each device's share and then of the devices, which is the mean of the
    batch only where all shares are equal. Blank films of weight 0 make them so; larger weights of
    the rest make up for them, over the batch in training (an optimiser's step is one batch), over
    all films in validation. So the loss that `fit` logs counts a filled last batch a little more.
    """
    import tensorflow as tf

    if not isinstance(strategy, tf.distribute.MirroredStrategy):
        return films
    replicas, training = strategy.num_replicas_in_sync, films.given[-1] is not None
    blanks = [-len(films.films[i * BATCH : (i + 1) * BATCH]) % replicas for i in range(len(films))]

    def batches():
        # Keras begins more than one pass: each has seeds of its own, which are two batches on when
        # it starts, as Keras has them on one device.
        again = _Films(*films.given)
        for index in range(min(2, len(again))):
            again[index]
        for index, missing in enumerate(blanks):
            pixels, target, weights = again[index]
            more = missing / len(weights) if training else sum(blanks) / len(films.films)
            batch = pixels, target, weights * (1 + more)
            yield tuple(np.pad(x, [(0, missing)] + [(0, 0)] * (np.ndim(x) - 1)) for x in batch)

    shapes = (None, films.size, films.size, 1), (None, 1), (None,)
    kinds = tf.float32, tf.int64, tf.float64
    signature = tuple(map(tf.TensorSpec, shapes, kinds))
    shared = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return shared.apply(tf.data.experimental.assert_cardinality(len(films))).prefetch(1)


def _trainable(model: keras.Model, from_layer: str, learning_rate: float) -> keras.Model:
    """Compile `model` so that what lies above `from_layer` is trained, its statistics not."""
    above = False
    for layer in model.layers:
        # Under `fit` a trainable batch normalisation would take the statistics of each batch.
        layer.trainable = above and not isinstance(layer, keras.layers.BatchNormalization)
        above = above or layer.name == from_layer
    model.get_layer("head").get_layer("standardise").trainable = False
    model.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.BinaryCrossentropy(from_logits=True),
        weighted_metrics=[keras.metrics.AUC(from_logits=True, name="auc")],
    )
    model.optimizer.build(model.trainable_variables)  # so that epoch 0 is saved with its state
    return model


def _keep(folder: Path, model: keras.Model, history, row: dict) -> pd.DataFrame:
    """Save an epoch, then the history that vouches for it, then drop what is no longer needed."""
    model.save(folder / "part.keras")
    os.replace(folder / "part.keras", folder / f"epoch{row['epoch']}.keras")
    history = pd.concat([history, pd.DataFrame([row])], ignore_index=True)
    history.to_csv(folder / "history.part", index=False)
    os.replace(folder / "history.part", folder / "history.csv")
    for old in set(history["epoch"]) - {_best(history), row["epoch"]}:
        (folder / f"epoch{old}.keras").unlink(missing_ok=True)
    return history


def _load(folder: Path, epoch: int) -> keras.Model:
    return keras.models.load_model(folder / f"epoch{epoch}.keras", safe_mode=True)


def _best(history: pd.DataFrame) -> int:
    return int(history.loc[history["val_loss"].idxmin(), "epoch"])


def _named(logs: dict, prefix: str) -> dict:
    return {f"{prefix}{name}": float(logs[name]) for name in ("loss", "auc")}
