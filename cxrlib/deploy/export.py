"""Take a run's classifier away, in a format that other software runs, once it is checked."""

import json
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy.special import expit

from cxrlib import versions
from cxrlib.data.files import file_digest, place_to_write, whole_folder
from cxrlib.data.images import read_image
from cxrlib.deploy.doctor import GOLDEN
from cxrlib.model._keras import keras
from cxrlib.model.facts import is_fast
from cxrlib.model.fast import EngineError, compile_engine, import_openvino
from cxrlib.model.run import Run

TOLERANCE = 1e-3  # in probability
# Name of the file, and the packages that write and run it.
FORMATS = {
    "keras": ("model.keras", ["keras"]),
    "onnx": ("model.onnx", ["onnxruntime", "onnx", "tf2onnx"]),
    "litert": ("model.tflite", ["ai-edge-litert"]),
    "openvino": ("model.xml", ["openvino"]),
}
NOTE = "Not a medical device: no decision about a patient may rest on it."


class ExportError(ValueError):
    """A classifier that cannot be taken away, with the reason."""


def export_run(run: Run, form: str, out: str | Path) -> dict:
    """Write a run's whole classifier, from films to the probability, in full precision.

    The file's own runtime scores the bundled films of simulated patients, one alone and all as a
    batch. The folder `out`, new or empty, is written only if the scores agree with the run's.
    `form` is 'keras', 'onnx' (onnx.ai), 'litert' (ai.google.dev/edge/litert) or 'openvino'. Returns
    the content of `card.json`, which is written beside the model. ExportError at another format, a
    package that is not installed, a folder that holds files, or an exported model that gives other
    probabilities than the run.
    """
    if form not in FORMATS:
        raise ExportError(f"format '{form}': give {', '.join(FORMATS)}")
    name, packages = FORMATS[form]
    try:
        for package in packages:  # openvino before Keras does, which would let it report its use
            module = package.replace("-", "_")
            import_openvino() if package == "openvino" else import_module(module)
    except (ImportError, EngineError) as error:
        raise ExportError(
            f"format '{form}' needs {package} ({error}): pip install '.[export]' in a clone or "
            "archive of cxrlib"
        ) from error
    runtime = f"{packages[0]} {version(packages[0])}"
    if is_fast(run.facts):
        raise ExportError(
            f"{run.folder} was trained on features in 8 bits, and what is exported computes in "
            "full: its scores would be others. Train with precision 'full', and export that."
        )
    place_to_write(out, "out")  # before what takes long
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ExportError(f"{out} is there already: give an empty or a new folder")
    if not out.absolute().parent.is_dir():
        raise ExportError(f"{out} cannot be written: {out.parent} is no folder")
    films = np.stack([read_image(path, run.image_size) for path in sorted(GOLDEN.glob("*.png"))])
    films = films[..., None]
    wanted = expit(run.model.predict_on_batch(films)[:, 0])
    with whole_folder(out) as part:
        _write(run.model, form, part / name, films)
        found = np.concatenate([_read_back(form, part / name, x)[:, 0] for x in (films, films[:1])])
        off = abs(found - np.append(wanted, wanted[0])).max()
        if not off <= TOLERANCE:
            raise ExportError(
                f"{form}: run by {runtime} the exported model gives {found.round(4).tolist()} on "
                f"films to which the run gives {wanted.round(4).tolist()}, off by up to {off:.2g} "
                f"where {TOLERANCE} is allowed. Nothing was written."
            )
        check = {"runtime": runtime, "films": len(films), "tolerance": TOLERANCE}
        check |= {"largest_difference": float(off), "probabilities": wanted.tolist()}
        files = {file.name: file_digest(file) for file in sorted(part.iterdir())}
        card = _card(run, form) | {"files": files, "check": check}
        (part / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    return card


def _write(model: keras.Model, form: str, path: Path, films: np.ndarray) -> None:
    probability = keras.layers.Activation("sigmoid", name="probability")(model.output)
    classifier = keras.Model(model.input, probability, name="classifier")
    if form == "keras":
        classifier.save(path)
    else:
        classifier(films[:1])  # Keras exports no model that was never called
        classifier.export(str(path), format=form, verbose=False)


def _read_back(form: str, path: Path, films: np.ndarray) -> np.ndarray:
    """Return what the exported file gives for films, by its own runtime, (n, 1)."""
    if form == "keras":
        return keras.models.load_model(path, safe_mode=True).predict_on_batch(films)
    if form == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: films})[0]
    if form == "litert":
        from ai_edge_litert.interpreter import Interpreter

        runner = Interpreter(str(path)).get_signature_runner()
        (given,) = runner(**dict.fromkeys(runner.get_input_details(), films)).values()
        return given
    return compile_engine(path)(films)


def _card(run: Run, form: str) -> dict:
    facts, films = run.facts, run.model.input
    meaning = f"probability of {run.finding} at a prevalence of {run.prevalence:.3f}"
    digest = file_digest(run.folder / "run.json")
    return {
        "note": f"{NOTE} {run.caution}".rstrip(),
        "finding": run.finding,
        "negative": facts["negative"],
        "run": {"study": facts["study"], "made": facts["made"], "digest": digest},
        "format": form,
        "input": {
            "name": films.name,
            "shape": list(films.shape),
            "dtype": films.dtype,
            "range": [0, 1],
            "preprocessing": facts["preprocessing"],
        },
        "output": {"shape": [None, 1], "meaning": meaning},
        "threshold": facts["threshold"] | {"decision": "positive from value on"},
        "versions": versions(),
    }
