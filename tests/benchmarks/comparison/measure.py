"""Features, scores and seconds of each way, kept on disk so that a call goes on."""

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
from heads import held_out_logits
from sklearn.metrics import roc_auc_score
from thorax import common_thorax, read_common
from tqdm import tqdm
from ways import AVERAGED, CHANNELS, CUT, DEFAULT, FINDINGS, KEPT, MORE, SEEDS, THORAX, Way, sources

import cxrlib as cxr
from cxrlib.data.images import read_ahead, read_image
from cxrlib.deploy.engine import quantise_backbone
from cxrlib.metrics.bootstrap import RESAMPLES, resample_patients
from cxrlib.model._keras import keras
from cxrlib.model.backbone import BATCH, _pool
from cxrlib.model.fast import PARTS, compile_engine
from cxrlib.model.folds import patient_folds
from cxrlib.model.store import gather

TIMED, ROUNDS = 8, 2  # films whose processor time is measured, and how often


class Network:
    """A network with a kept part per layer and grid, from paths to rows of all parts, joined."""

    def __init__(self, way: Way, parts: list[tuple], paths: list, folder: Path, common=None):
        last = max((layer for layer, _ in parts), key=list(CHANNELS).index)
        deepest = cxr.load_backbone(way.network, image_size=way.size, layer=last)
        self.size, self.common, self.engine = way.size, common, None
        self.settings = f"{deepest.digest} {parts} {way.precision}"
        source = deepest.model
        if way.precision == "fast":
            fast = quantise_backbone(deepest, paths, folder)
            self.engine, self.settings = compile_engine(fast.engine / PARTS[0]), fast.settings
            features = keras.Input(deepest.model.output_shape[1:])
            source = keras.Model(features, keras.layers.Identity()(features))
        if common is not None:
            self.settings += hashlib.sha256(common.tobytes()).hexdigest()
        rows, self.where, start = [], {}, 0
        for layer, grid in parts:
            inner = deepest.model.get_layer(layer).output
            shape = inner.shape[1:]
            if grid > min(shape[:2]):
                continue
            output = source.output if self.engine else inner
            pool = _pool(replace(deepest, model=keras.Model(deepest.model.input, inner)), grid)
            pool.name = f"{layer}_{grid}"  # a model wants names of their own
            rows.append(keras.layers.Flatten()(pool(output)))
            numbers = grid * grid * shape[2]
            self.where[layer, grid] = slice(start, start + numbers)
            start += numbers
        joined = keras.layers.Concatenate()(rows) if len(rows) > 1 else rows[0]
        self.model, self.shape = keras.Model(source.input, joined), (start,)

    def compute(self, tasks):
        def read(task, size, pool):
            one = partial(read_common, self.common) if self.common is not None else read_image
            return task[0], np.stack(list(pool.map(lambda path: one(path, size), task[1])))

        for numbers, films in read_ahead(read, tasks, self.size):
            films = films[..., None]
            forward = self.engine or (lambda film: film)
            yield numbers, [self.model.predict_on_batch(forward(film[None]))[0] for film in films]

    def time(self, paths: list) -> float:
        """Return the processor seconds that 1,000 films take, with reading; a batch warms up."""
        steps = self.compute(enumerate([paths] * (ROUNDS + 1)))
        next(steps)
        start = time.process_time()
        spent = sum(len(rows) for _, rows in steps)
        return 1000 * (time.process_time() - start) / spent


class Study:
    """The training films of all findings, with the features and scores of each way."""

    def __init__(self, folder: str, kept: Path):
        self.kept = kept
        study = cxr.read_study(folder)
        self.films = {}
        for finding in FINDINGS + MORE:
            films = cxr.choose_films(study, finding)
            self.films[finding] = films[films["split"] == "train"].reset_index(drop=True)
        few = self.join(FINDINGS)
        self.sets = {True: self.join(FINDINGS + MORE), False: few}
        self.calibration = self.films["Cardiomegaly"]["path"].tolist()
        self.weights = resample_patients(self.sets[True]["patient"], RESAMPLES, 0)

    def join(self, findings: list[str]) -> pd.DataFrame:
        films = pd.concat([self.films[finding] for finding in findings])
        return films.drop_duplicates("filename").sort_values("filename", ignore_index=True)

    @cache  # noqa: B019  one study per process
    def common(self) -> np.ndarray:
        return common_thorax(self.sets[False]["path"].tolist(), self.kept)

    def network(self, way: Way, parts: list[tuple]) -> Network:
        common = self.common() if way.thorax != "as it is" else None
        return Network(way, parts, self.calibration, self.kept, common)

    def extract(self, way: Way) -> tuple[np.ndarray, Network, pd.DataFrame]:
        """Return features of all parts that one pass over the films keeps."""
        parts = KEPT[way.network]
        if way.precision == "fast" or way.thorax != "as it is":
            parts = [(CUT[way.network], 5)]
        network = self.network(way, parts)
        films = self.sets[astuple(way)[4:] == astuple(DEFAULT)[4:] and way.size == DEFAULT.size]
        settings = hashlib.sha256(network.settings.encode()).hexdigest()
        rows = gather(settings, network.shape, films["path"], self.kept, network.compute, BATCH)
        return rows, network, films


def score(study: Study, ways: list[Way]) -> None:
    """Score what is not yet in the cache, way by way; time a fit of those that are averaged."""
    (study.kept / "scores").mkdir(exist_ok=True)
    made: dict = {}
    for way in tqdm(ways, desc="ways"):
        file = study.kept / "scores" / f"{way}.csv"
        old = [pd.read_csv(file)] if file.exists() else []
        done = set(zip(old[0]["finding"], old[0]["seed"], strict=True)) if old else set()
        for finding in FINDINGS + (MORE if way in AVERAGED else []):
            seeds = [seed for seed in SEEDS if (finding, seed) not in done]
            if not seeds:
                continue
            made = {x: made.get(x) or study.extract(x) for x in sources(way)}
            films, blocks = study.films[finding], []
            for rows, network, all_films in made.values():
                place = pd.Index(all_films["filename"]).get_indexer(films["filename"])
                blocks.append(rows[:, network.where[way.layer, way.grid]][place])
            features, target = np.concatenate(blocks, axis=1), films["target"].to_numpy()

            def held_out(seed, features=features, films=films, target=target):
                return held_out_logits(features, target, patient_folds(films, seed))

            with ThreadPoolExecutor(2) as pool:
                for seed, logit in zip(seeds, pool.map(held_out, seeds), strict=True):
                    told = {"finding": finding, "seed": seed, "logit": logit}
                    old.append(films[["filename"]].assign(**told))
            pd.concat(old).to_csv(file, index=False)
            if finding == FINDINGS[0] and way in AVERAGED:
                time_fit(study.kept / "fits.csv", features, films, old[0])


def time_fit(file: Path, features: np.ndarray, films: pd.DataFrame, scores: pd.DataFrame) -> None:
    """Record the processor seconds of `fit_head`, and how far its AUC is from that of `heads`."""
    known = [pd.read_csv(file)] if file.exists() else []
    if known and features.shape[1] in set(known[0]["numbers"]):
        return
    start = time.process_time()
    head = cxr.fit_head(features, films, seed=SEEDS[0])
    row = {"numbers": features.shape[1], "seconds": time.process_time() - start}
    logit = scores.query("finding == @FINDINGS[0] and seed == @SEEDS[0]")["logit"]
    areas = [roc_auc_score(films["target"], x) for x in (logit, head.probability)]
    known.append(pd.DataFrame([row | {"moved": abs(areas[0] - areas[1])}]))
    pd.concat(known).to_csv(file, index=False)


def is_kept(study: Study, way: Way) -> bool:
    """Say whether scores and seconds of a way are in the cache."""
    file, times = study.kept / "scores" / f"{way}.csv", study.kept / "seconds.csv"
    if not (file.exists() and times.exists()):
        return False
    scored = set(pd.read_csv(file)["finding"]) >= set(FINDINGS)
    return scored and set(map(str, timed_parts(way))) <= set(pd.read_csv(times)["way"])


def timed_parts(way: Way) -> list[Way]:
    """Return what is timed for a way: the grid costs nothing."""
    return [replace(way, grid=1, thorax=thorax) for thorax in THORAX[way.thorax]]


def seconds(study: Study, ways: list[Way]) -> dict[Way, float]:
    """Return the processor seconds that features of 1,000 films take."""
    file = study.kept / "seconds.csv"
    known = pd.read_csv(file, index_col=0)["seconds"].to_dict() if file.exists() else {}
    paths = study.calibration[:TIMED]
    result = {}
    for way in tqdm(ways, desc="seconds"):
        parts = timed_parts(way)
        for part in parts:
            if str(part) not in known:
                network = study.network(part, [(part.layer, 1)])
                known[str(part)] = network.time(paths)
                pd.Series(known, name="seconds").rename_axis("way").to_csv(file)
        result[way] = sum(known[str(part)] for part in parts)
    return result
