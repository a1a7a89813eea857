"""Make `inception_v3.weights.h5`, the weights that come with cxrlib, from an npm package.

    python tools/make_weights.py            # fetches the package with `npm pack`
    python tools/make_weights.py FILE.tgz   # uses a copy that is already here

The package nsfwjs 4.4.0 (MIT licence, Infinite Red, Inc.) carries an InceptionV3 that started from
ImageNet and whose upper half was fine-tuned on photographs for content moderation. Its weights are
quantised to 8 bits. This script checks the package against its published hash, undoes the
quantisation, leaves the classifier out and writes float16, gzip-compressed.
"""

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import h5py
import keras
import numpy as np

PACKAGE = "nsfwjs@4.4.0"
PACKAGE_SHA512 = (
    "krC1fgeTLXtZwgdpKJ0jm7hqv0gTSRQQRL+FhOaxaJ9Wj92t42BO3csO2odwgTAgZgf2RvkwPtp0R8Aa7dc+MA=="
)
MODEL = "package/dist/models/inception_v3"
HERE = Path(__file__).parents[1] / "cxrlib" / "model" / "weights"


def read_package(archive: Path) -> dict[str, np.ndarray]:
    """Return the package's weights by TensorFlow.js name, dequantised to float32."""
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != PACKAGE_SHA512:
        raise ValueError(f"{archive} is not {PACKAGE}: its SHA-512 is {digest}")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        # Each file is a JavaScript module; Node, which npm brings, turns them into JSON.
        script = (
            "const m = require('./model.min.js').weightsManifest;"
            "for (const g of m) g.data = g.paths.map(p => require('./' + p + '.min.js'));"
            "process.stdout.write(JSON.stringify(m))"
        )
        manifest = json.loads(
            subprocess.run(
                ["node", "-e", script], cwd=Path(folder, MODEL), check=True, capture_output=True
            ).stdout
        )
    weights = {}
    for group in manifest:
        stream = b"".join(base64.b64decode(part) for part in group["data"])
        start = 0
        for spec in group["weights"]:
            size = int(np.prod(spec["shape"]))
            quantised = np.frombuffer(stream, np.uint8, size, start).reshape(spec["shape"])
            start += size
            q = spec["quantization"]
            weights[spec["name"]] = (quantised * q["scale"] + q["min"]).astype(np.float32)
    return weights


def fill_inception_v3(weights: dict[str, np.ndarray]) -> keras.Model:
    """Return InceptionV3 without its classifier, filled in the order its layers were created."""
    keras.utils.clear_session()  # so that layer names count from the start
    model = keras.applications.InceptionV3(include_top=False, weights=None)

    def numbered(layer_type, stem):
        layers = [layer for layer in model.layers if isinstance(layer, layer_type)]
        return enumerate(sorted(layers, key=lambda x: int(x.name[len(stem) + 1 :] or 0)), 1)

    for i, layer in numbered(keras.layers.Conv2D, "conv2d"):
        layer.set_weights([weights[f"conv2d_{i}/kernel"]])
    for i, layer in numbered(keras.layers.BatchNormalization, "batch_normalization"):
        names = ("beta", "moving_mean", "moving_variance")
        layer.set_weights([weights[f"batch_normalization_{i}/{name}"] for name in names])
    return model


def write_compressed(model: keras.Model, target: Path) -> None:
    """Write `model`'s weights as float16 with gzip, in the form that `load_weights` reads."""
    with tempfile.TemporaryDirectory() as folder:
        full = Path(folder, "full.weights.h5")
        model.save_weights(full)
        with h5py.File(full) as source, h5py.File(target, "w") as out:

            def copy(name, item):
                if isinstance(item, h5py.Dataset):
                    data = item[()].astype(np.float16)
                    out.create_dataset(name, data=data, compression="gzip", compression_opts=9)
                else:
                    out.require_group(name)
                out[name].attrs.update(item.attrs)

            source.visititems(copy)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 1:
            archive = Path(sys.argv[1])
        else:
            subprocess.run(["npm", "pack", PACKAGE], cwd=folder, check=True)
            (archive,) = Path(folder).glob("*.tgz")
        target = HERE / "inception_v3.weights.h5"
        write_compressed(fill_inception_v3(read_package(archive)), target)
    print(hashlib.sha256(target.read_bytes()).hexdigest(), target.name)


if __name__ == "__main__":
    main()
