"""Train the upper layers of the backbone too, starting from a fitted head."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.utils.class_weight import compute_sample_weight
from tqdm.auto import tqdm

from cxrlib.backbone import Backbone, join, keras
from cxrlib.images import read_image
from cxrlib.train import Fitted, TrainError, calibrate, fit_uncalibrated, refuse_test_films

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
) -> Fitted:
    """Train backbone and head together on four folds of the training patients.

    The head is first fitted again on those four folds, so that large early gradients do not spoil
    the backbone (Kumar et al., ICLR 2022). The one left out decides when to stop and calibrates.
    Batch normalisation stays frozen. After each epoch everything is saved: a call that was
    interrupted goes on where it stopped, and one with other settings starts anew.

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

    Returns
    -------
    Fitted
        Of stage 'finetuned'; probabilities for the films of the fold left out alone. Epoch 0 of the
        history is the model before fine-tuning, and is what returns where no epoch is better.

    Raises
    ------
    TrainError
        A layer that the backbone does not have, a test patient's film, or fewer than one epoch.
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
    facts = fitted.facts | {
        "from_layer": from_layer,
        "finetuning_rate": learning_rate,
        "augmented": augment,
        "held_out": "one patient-grouped fold, which also decided when to stop",
    }
    held_out = fitted.fold == VALIDATION_FOLD
    key = [backbone.digest, facts, seed, films[["filename", "target"]].to_csv()]
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
    model = _load(folder, int(history["epoch"].max()))
    progress = tqdm(range(len(history), epochs + 1), desc="fine-tuning", unit="epoch")
    for epoch in progress:
        if epoch - _best(history) > PATIENCE:
            break
        training = _Films(films[~held_out], backbone.image_size, augment, seed * 1000 + epoch)
        # Keras would shuffle batches by Python's global, unseeded generator.
        log = model.fit(training, shuffle=False, verbose=0).history
        end = model.evaluate(validation, verbose=0, return_dict=True)
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
