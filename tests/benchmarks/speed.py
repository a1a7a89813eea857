"""Measure scoring and reading against Keras' `model.predict` and TensorFlow's own reading.

    python tests/benchmarks/speed.py [--rounds 9] [--reading]

Every way is timed in every round, one after the other, so that other work on the machine falls on
all of them. Printed are means over the rounds: by the clock, and of the time that processors spent,
which other work disturbs less. Means, since `model.predict` keeps one core waiting in some calls
and not in others. A ratio is the time of `model.predict`, or of TensorFlow, divided by that of the
way: above 1 is faster. Films are read and scored at the run's size and at InceptionV3's own, 299
pixels. All ways of reading have a thread for each core, as `read_batch` has. JPEG files are those
of CXR_DATA where that is set, else the bundled films enlarged to 1,024 pixels; PNG files are made
of them. OpenCV reads where opencv-python-headless is installed. OpenVINO is measured where the
extra `fast` is, LiteRT where ai-edge-litert is; both are made here, of the run's model. The
operations of the network are two for each multiplication of its convolutions.
"""

import argparse
import importlib.util
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from cxrlib.data.images import read_image
from cxrlib.data.study import Study, choose_films, read_study
from cxrlib.deploy.engine import add_engine, load_fast
from cxrlib.model._keras import keras
from cxrlib.model.backbone import BATCH, join, load_backbone
from cxrlib.model.run import Run, load_run

ROOT = Path(__file__).parents[2]
SIDE = 1024  # pixels of the JPEG files that are read
OWN_SIZE = 299  # pixels that InceptionV3 was trained on
JPEGS = 24
MATRIX = 4096
MEASURED = ("films", "auc", "auc_moved", "decisions_changed", "largest_move", "accepted")


def list_jpegs(count: int, folder: Path) -> list[Path]:
    """Return real JPEG files, or the bundled films enlarged into `folder`."""
    data = os.environ.get("CXR_DATA")
    paths = sorted((Path(data or ROOT / "medical") / "images").iterdir())[:count]
    if data:
        return paths
    for path in paths:
        film = Image.open(path).convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        film.save(folder / f"{path.stem}.jpg", quality=90)
    return sorted(folder.iterdir())


def save_png(path: Path, folder: Path) -> Path:
    Image.open(path).convert("L").save(png := folder / f"{path.stem}.png")
    return png


def read_by_tensorflow(path: Path, size: int) -> np.ndarray:
    import tensorflow as tf

    content = tf.io.read_file(str(path))
    if path.suffix == ".png":
        film = tf.io.decode_png(content, channels=1)
    else:
        film = tf.io.decode_jpeg(content, channels=1, dct_method="INTEGER_ACCURATE")
    return tf.image.resize(film, (size, size), antialias=True).numpy()[..., 0] / 255


def read_by_opencv(path: Path, size: int) -> np.ndarray:
    import cv2

    cv2.setNumThreads(1)  # films are shared by threads
    film = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    small = cv2.resize(film, (size, size), interpolation=cv2.INTER_AREA)  # its antialiased way
    return small.astype(np.float32) / 255


def make_litert(model: keras.Model, folder: Path):
    """Return the model with 8-bit weights and activations quantised as they come, in LiteRT."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    model.export(str(folder / "saved"), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    content = converter.convert()
    interpreters = {}

    def predict(films):
        if len(films) not in interpreters:
            made = Interpreter(model_content=content, num_threads=os.cpu_count())
            made.resize_tensor_input(made.get_input_details()[0]["index"], films.shape)
            made.allocate_tensors()
            interpreters[len(films)] = made
        made = interpreters[len(films)]
        made.set_tensor(made.get_input_details()[0]["index"], films)
        made.invoke()
        return made.get_tensor(made.get_output_details()[0]["index"])

    return predict


def count_operations(model: keras.Model) -> int:
    """Return the floating-point operations of one film: two a multiplication of a convolution."""
    convolutions = [x for x in model.layers if type(x) is keras.layers.Conv2D]
    return sum(2 * np.prod(x.output.shape[1:3]) * np.prod(x.kernel.shape) for x in convolutions)


def time_side_by_side(ways: dict, rounds: int) -> pd.DataFrame:
    """Return the mean seconds, by the clock and of processors, of each way; a warm one each."""
    spent = {name: [] for name in ways}
    for number in tqdm(range(rounds + 1), leave=False):
        for name, way in ways.items():
            start, cpu = time.perf_counter(), time.process_time()
            way()
            took = time.perf_counter() - start, time.process_time() - cpu
            if number:
                spent[name].append(took)
    means = {name: np.mean(took, axis=0) for name, took in spent.items()}
    return pd.DataFrame(means, index=["seconds", "cpu"]).T


def resize_run(run: Run, size: int) -> Run:
    """Return a run whose frozen backbone takes films of another size; its head is the same."""
    used = run.facts["backbone"]
    backbone = load_backbone(used["name"], used["weights"], size, used["layer"], used["seed"])
    return replace(run, model=join(backbone, run.model.get_layer("head")))


def list_ways(run: Run) -> dict:
    """Return what turns films into scores in float32, by name."""
    return {
        "model.predict": lambda x: run.model.predict(x, batch_size=BATCH, verbose=0),
        "predict_on_batch": run.model.predict_on_batch,
        "default path": run.predict,
    }


def list_engines(run: Run, study: Study, folder: Path) -> dict:
    """Return the engines of 8 bits that are installed, by name, made here of the run's model."""
    ways = {}
    if importlib.util.find_spec("nncf"):
        copy = shutil.copytree(run.folder, folder / "run")
        measured = add_engine(replace(run, folder=copy), study).facts["engine"]
        print("OpenVINO, 8 bits, on training films:", {k: measured[k] for k in MEASURED})
        if measured["accepted"]:
            ways["OpenVINO, 8 bits"] = load_fast(copy).predict
    if importlib.util.find_spec("ai_edge_litert"):
        ways["LiteRT, 8 bits"] = make_litert(run.model, folder)
    return ways


def print_table(spent: pd.DataFrame, of: str) -> None:
    """Print milliseconds and how many times as fast each way is as the one whose name has `of`."""
    table = (1000 * spent).round(1)
    for column in spent:
        table[f"ratio, {column}"] = (spent.loc[of, column] / spent[column]).round(2)
    print(table.to_string())


def main():
    import tensorflow as tf

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", default=ROOT / "medical" / "models" / "cardiomegaly")
    parser.add_argument("--study", default=ROOT / "medical", help="that the run was trained on")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--reading", action="store_true", help="measure that alone")
    args = parser.parse_args()
    run = load_run(args.run)
    size = run.facts["image_size"]
    study = read_study(args.study)
    train = choose_films(study, run.facts["finding"]).query("split == 'train'")
    matrix = np.random.default_rng(0).random((MATRIX, MATRIX), np.float32)

    with tempfile.TemporaryDirectory() as folder:
        ways = {"TensorFlow": read_by_tensorflow, "read_image": read_image}
        if importlib.util.find_spec("cv2"):
            ways["OpenCV"] = read_by_opencv
        jpegs = list_jpegs(JPEGS, Path(folder))
        for paths in (jpegs, [save_png(path, Path(folder)) for path in jpegs]):
            reading = {
                f"{name}, {side} px": partial(read_all, read, paths, side)
                for side in (size, OWN_SIZE)
                for name, read in ways.items()
            }
            spent = time_side_by_side(reading, args.rounds) / len(paths)
            print(f"\n{len(paths)} {paths[0].suffix} of {Image.open(paths[0]).size}, ms a film")
            for side in (size, OWN_SIZE):
                print_table(spent.filter(like=f"{side} px", axis=0), f"TensorFlow, {side} px")
                away = [np.abs(read_image(x, side) - read_by_tensorflow(x, side)) for x in paths]
                print(f"mean distance at {side} px: {255 * np.mean(away):.2f} of 255 grey levels")
    if args.reading:
        return

    with tempfile.TemporaryDirectory() as folder:
        small = resize_run(run, OWN_SIZE)
        scoring = {
            OWN_SIZE: list_ways(small),
            size: list_ways(run) | list_engines(run, study, Path(folder)),
        }
        ways = {}
        for side, named in scoring.items():
            films = [read_image(path, side) for path in train["path"].iloc[:BATCH]]
            for count in (BATCH, 1):
                some = np.stack(films[:count])[..., None]
                ways |= {
                    f"{x}, {count} x {side} px": partial(way, some) for x, way in named.items()
                }
        ways["numpy's matmul"] = partial(np.matmul, matrix, matrix)
        tensor = tf.constant(matrix)
        ways["TensorFlow's matmul"] = lambda: tf.linalg.matmul(tensor, tensor).numpy()
        spent = time_side_by_side(ways, args.rounds)

    for count in (BATCH, 1):
        for side in scoring:
            print(f"\nmilliseconds for films, {count} x {side} px")
            these = spent.filter(like=f", {count} x {side} px", axis=0)
            print_table(these, f"model.predict, {count} x {side} px")
    matmuls = ["numpy's matmul", "TensorFlow's matmul"]
    work = dict.fromkeys(matmuls, 2 * MATRIX**3)
    for sized in (small, run):
        side = sized.model.input_shape[1]
        for name in ("model.predict", "default path"):
            work[f"{name}, {BATCH} x {side} px"] = BATCH * count_operations(sized.model)
            work[f"{name}, 1 x {side} px"] = count_operations(sized.model)
    rates = pd.DataFrame({name: work[name] / spent.loc[name] / 1e9 for name in work}).T
    shares = (rates / rates.loc[matmuls].max()).add_prefix("share, ")
    print(f"\nfloat32 GFLOP/s, and the share of the faster {MATRIX} x {MATRIX} product")
    print(rates.round(0).join(shares.round(2)).to_string())


def read_all(read, paths: list[Path], side: int) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda path: read(path, side), paths))


if __name__ == "__main__":
    main()
