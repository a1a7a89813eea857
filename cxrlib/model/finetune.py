"""Train the upper layers of the backbone too, starting from a fitted head."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from cxrlib.data.files import whole_file
from cxrlib.model._keras import keras, tf
from cxrlib.model.backbone import Backbone, join
from cxrlib.model.batches import TrainingFilms
from cxrlib.model.folds import TrainError, refuse_test_films
from cxrlib.model.head import Fitted, calibrate, fit_uncalibrated
from cxrlib.model.network import parts_of

BATCH = 16
PATIENCE = 3  # epochs without a better validation loss before training stops
VALIDATION_FOLD = 0
FULL = "float32"
ScaledLoss = keras.optimizers.LossScaleOptimizer


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
    warm_up: float = 0,
    decay: bool = False,
    weight_decay: float = 0,
) -> Fitted:
    """Train backbone and head together on four folds of the training patients.

    The head is first fitted again on those four folds, so that large early gradients do not spoil
    the backbone (Kumar et al., ICLR 2022). The one left out decides when to stop and calibrates.
    Batch normalisation stays frozen. After each epoch everything is saved: a call that was
    interrupted goes on where it stopped, and one with other settings starts anew.

    Several devices share each batch of 16, rounded up to a multiple of their number
    (`tf.distribute.MirroredStrategy`). The steps are those of one device up to rounding, so an
    interrupted call may go on with more devices or fewer. GPUs with units for it compute in 16 bits
    (mixed precision, Micikevicius et al., ICLR 2018); weights, head and the model that returns have
    32.

    Parameters
    ----------
    backbone, features, films, fitted : as given to and returned by `fit_head`
    folder : where epochs are kept
    from_layer : layers after this one are trained
    learning_rate : of Adam, the highest
    epochs : at most
    augment : turn by up to 5 degrees, shift by 4 %, zoom by 8 %, change contrast by 15 %. There is
        never a mirror image, since the heart lies on one side.
    seed : of order and augmentation
    devices : names such as 'GPU:0' and 'GPU:1' to train on, the same in all calls of a process.
        None takes all GPUs where there are two or more, else what TensorFlow takes (GPU or CPU).
    warm_up : epochs over which the learning rate rises from 0 to its height
    decay : whether it then falls to 0 along a cosine (Loshchilov and Hutter, ICLR 2017)
    weight_decay : of all trained weights, per step and learning rate (AdamW, same, ICLR 2019)

    Returns
    -------
    Fitted
        Of stage 'finetuned'; probabilities for the films of the fold left out alone. Epoch 0 of the
        history is the model before fine-tuning, and is what returns where no epoch is better.

    Raises
    ------
    TrainError
        A layer that the backbone does not have, a test patient's film, fewer than one epoch, a
        warm-up as long as the training, a device that TensorFlow does not see, or embeddings.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> from tempfile import mkdtemp
    >>> films = cxr.choose_films(cxr.read_study("medical"), "Cardiomegaly")
    >>> few = films[films["split"] == "train"][:32]
    >>> backbone = cxr.load_backbone("EfficientNetLite2", image_size=75, layer="stage1")
    >>> features = cxr.extract_features(backbone, few["path"], grid=2)
    >>> head = cxr.fit_head(features, few)
    >>> tuned = cxr.fine_tune(
    ...     backbone, features, few, head, mkdtemp(), "to_range", epochs=1, augment=False
    ... )
    >>> tuned.history["epoch"].tolist()
    [0, 1]
    """
    if not isinstance(backbone, Backbone) or len(features.shape) != 4:
        raise TrainError(
            "fine-tuning changes the network that reads the images, and embeddings come without: "
            "give a backbone of load_backbone and features of extract_features, or stay with "
            "fit_head, which takes any features"
        )
    refuse_test_films(films)
    names = [layer.name for layer in backbone.model.layers]
    if from_layer not in names[:-1]:
        below = [name for name in names if name.startswith(("mixed", "stage"))] or names[-12:]
        raise TrainError(
            f"fine-tuning from layer '{from_layer}': give a layer of {backbone.name} below "
            f"'{backbone.layer}', such as {', '.join(below[:-1])}"
        )
    if epochs < 1:
        raise TrainError(f"fine-tuning for {epochs} epochs: give at least 1")
    if not 0 <= warm_up < epochs:
        raise TrainError(f"warm_up is {warm_up}: give 0 or more, and fewer than {epochs} epochs")
    strategy, precision = _strategy(devices), _precision(devices)
    facts = fitted.facts | {
        "from_layer": from_layer,
        "finetuning_rate": learning_rate,
        "augmented": augment,
        **{"warm_up": warm_up, "decay": decay, "weight_decay": weight_decay},
        "held_out": "one patient-grouped fold, which also decided when to stop",
    }
    held_out, rest = fitted.fold == VALIDATION_FOLD, fitted.fold != VALIDATION_FOLD
    target = films["target"].to_numpy()
    # Settings and inputs alone: the last digits of what the head was fitted to may differ.
    settings = {n: fact for n, fact in facts.items() if n not in ("calibration", "strength")}
    given = [features.shape, fitted.fold.tolist(), films[["filename", "target"]].to_csv()]
    key = json.dumps([backbone.digest, settings, seed, *given], default=str)
    folder = Path(folder) / hashlib.sha256(key.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)

    batch = -(-BATCH // strategy.num_replicas_in_sync) * strategy.num_replicas_in_sync
    validation = TrainingFilms(films[held_out], backbone.image_size, batch)
    if (folder / "history.csv").exists():
        history = pd.read_csv(folder / "history.csv")
    else:
        head, _ = fit_uncalibrated(features[rest], target[rest], fitted.fold[rest], fitted.facts)
        steps, rate = -(-int(rest.sum()) // batch), learning_rate
        if warm_up or decay:
            rising, end = round(steps * warm_up), 0.0 if decay else 1.0
            rate = keras.optimizers.schedules.CosineDecay(
                0.0, steps * epochs - rising, end, warmup_target=learning_rate, warmup_steps=rising
            )
        optimizer = keras.optimizers.Adam(rate, weight_decay=weight_decay or None)
        if precision == "mixed_float16":
            optimizer = ScaledLoss(optimizer)
        model = _trainable(join(backbone, head), from_layer, optimizer)
        start = model.evaluate(validation, verbose=0, return_dict=True)
        row = {"epoch": 0} | {f"val_{name}": start[name] for name in ("loss", "auc")}
        history = _keep(folder, model, None, row)
    with strategy.scope():
        # Read back even at the start: `join` shares its layers with the caller's backbone.
        model = _load(folder, int(history["epoch"].max()), precision)
        progress = tqdm(range(len(history), epochs + 1), desc="fine-tuning", unit="epoch")
        for epoch in progress:
            if epoch - _best(history) > PATIENCE:
                break
            draw = [seed, epoch]
            order = films[rest].sample(frac=1, random_state=np.random.default_rng(draw))
            training = TrainingFilms(order, backbone.image_size, batch, draw if augment else None)
            # Keras would shuffle batches by Python's global, unseeded generator.
            log = model.fit(training, validation_data=validation, shuffle=False, verbose=0).history
            row = {"epoch": epoch} | {name: values[0] for name, values in sorted(log.items())}
            history = _keep(folder, model, history, row)
            progress.set_postfix(row)
    best = _best(history)
    model = _load(folder, best)
    logit = np.full(len(films), np.nan)
    logit[held_out] = model.predict(validation, verbose=0)[: held_out.sum(), 0]
    probability, facts["calibration"] = calibrate(model, logit, target)
    facts |= {"finetuning_precision": precision, "finetuning_epochs": best}
    facts |= {"epochs_allowed": epochs, "patience": PATIENCE}
    return Fitted(model, "finetuned", probability, fitted.fold, history, facts)


def _strategy(devices: Sequence[str] | None):
    """Return how `devices` share the training: TensorFlow's default where they are not named."""
    seen = [x.name.removeprefix("/device:") for x in tf.config.list_logical_devices()]
    gpus = [name for name in seen if name.startswith("GPU")]
    devices = devices or (gpus if len(gpus) > 1 else [])
    if unknown := [name for name in devices if name not in seen]:
        raise TrainError(f"device '{unknown[0]}': TensorFlow sees {', '.join(seen)}")
    return tf.distribute.MirroredStrategy(devices) if devices else tf.distribute.get_strategy()


def _precision(devices: Sequence[str] | None) -> str:
    """Return the policy of layers that suits the GPUs; float32 where another device takes part."""
    gpus = tf.config.list_physical_devices("GPU")
    if any(not name.startswith("GPU") for name in devices or ()):
        gpus = []
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    oldest = min((x.get("compute_capability", (0, 0)) for x in details), default=(0, 0))
    return "mixed_bfloat16" if oldest >= (8, 0) else "mixed_float16" if oldest >= (7, 0) else FULL


def _trainable(model: keras.Model, from_layer: str, optimizer) -> keras.Model:
    """Compile `model` so that what lies above `from_layer` is trained, its statistics not."""
    above = False
    for layer in model.layers:
        layer.trainable = above
        # Under `fit` a trainable batch normalisation would take the statistics of each batch.
        for part in parts_of(layer):
            part.trainable &= not isinstance(part, keras.layers.BatchNormalization)
        above = above or layer.name == from_layer
    model.compile(
        optimizer,
        keras.losses.BinaryCrossentropy(from_logits=True),
        weighted_metrics=[keras.metrics.AUC(from_logits=True, name="auc")],
    )
    model.optimizer.build(model.trainable_variables)  # so that epoch 0 is saved with its state
    return model


def _keep(folder: Path, model: keras.Model, history, row: dict) -> pd.DataFrame:
    """Save an epoch, then the history that vouches for it, then drop what is no longer needed."""
    with whole_file(folder / f"epoch{row['epoch']}.keras") as part:
        model.save(part)
    history = pd.concat([history, pd.DataFrame([row])], ignore_index=True)
    with whole_file(folder / "history.csv") as part:
        history.to_csv(part, index=False)
    for old in set(history["epoch"]) - {_best(history), row["epoch"]}:
        (folder / f"epoch{old}.keras").unlink(missing_ok=True)
    return history


def _load(folder: Path, epoch: int, precision: str = FULL) -> keras.Model:
    """Load what an epoch left, to compute by `precision`, whichever it was trained by."""
    model = keras.models.load_model(folder / f"epoch{epoch}.keras", safe_mode=True)
    if precision == "mixed_float16" and not isinstance(model.optimizer, ScaledLoss):
        precision = FULL  # begun elsewhere: small gradients would be lost
    for layer in (part for whole in model.layers for part in parts_of(whole)):
        layer.dtype_policy = FULL if layer.name == "logit" else precision
    return model


def _best(history: pd.DataFrame) -> int:
    return int(history.loc[history["val_loss"].idxmin(), "epoch"])
