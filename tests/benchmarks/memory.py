"""Measure what scoring a hostile folder takes: small files that stand for gigabytes.

    python tests/benchmarks/memory.py

Each kind is scored by `write_scores` in a process of its own, six copies at a time, by a run that
costs next to nothing (see scale.py). Printed is the most memory that process held (VmHWM of Linux,
so Linux only) beyond what it held with the run loaded and one small film scored.
"""

import io
import multiprocessing
import os
import re
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import Dataset, encaps, uid
from pydicom.dataset import FileMetaDataset

from cxrlib.model.run import load_run
from cxrlib.scoring.write import write_scores

SIDE, COPIES, LIMIT = 7000, 6, 2048  # MiB
WINDOW = {"WindowCenter": 128, "WindowWidth": 256}


def dicom(path: Path, syntax: str, pixels: bytes, side=SIDE, bits=8, **elements) -> None:
    data, data.file_meta = Dataset(), FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    data.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID, data.Modality = uid.DigitalXRayImageStorageForPresentation, "DX"
    data.Rows = data.Columns = side
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = 0
    for name, value in elements.items():
        setattr(data, name, value)
    if uid.UID(syntax).is_encapsulated:
        pixels = encaps.encapsulate([pixels])
    data.PixelData = pixels
    data["PixelData"].VR = "OB" if bits == 8 else "OW"
    data["PixelData"].is_undefined_length = uid.UID(syntax).is_encapsulated
    data.save_as(path, enforce_file_format=True)


def deflated_bomb(path: Path, gigabytes: int = 4) -> None:
    """Write a deflated DICOM file whose pixels go on for gigabytes."""
    dicom(path, uid.ExplicitVRLittleEndian, b"", 64)
    content = path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99", 1)
    place = content.index(b"\2\0\x10\0UI") + 6
    start = content.index(b"\x08\0\x16\0UI", place)
    content = content[:place] + struct.pack("<H", 22) + content[place + 2 :]
    length = struct.unpack_from("<I", content, 140)[0] + 2
    content = content[:140] + struct.pack("<I", length) + content[144:]
    deflate = zlib.compressobj(9, wbits=-15)
    whole = [content[: start + 2], deflate.compress(content[start + 2 : -4] + b"\xff\xff\xff\x7f")]
    whole += [deflate.compress(bytes(2**20)) for _ in range(1024 * gigabytes)]
    path.write_bytes(b"".join([*whole, deflate.flush()]))


def jpeg2000(side: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "JPEG2000", no_jp2=True)
    return buffer.getvalue()


def picture(mode: str, color, **how) -> Callable[[Path], None]:
    return lambda path: Image.new(mode, (SIDE, SIDE), color).save(path, **how)


def rle(*segments: bytes) -> bytes:
    places = np.cumsum([64, *map(len, segments[:-1])])
    header = struct.pack("<16I", len(segments), *places.tolist(), *[0] * (15 - len(segments)))
    return header + b"".join(segments)


RUNS = b"\x81\0" * (-(-SIDE * SIDE // 128))  # each of 128 bytes
BLACK = bytes(SIDE * SIDE)
KINDS = {
    "rgba.png": picture("RGBA", (90, 90, 90, 255)),
    "la.png": picture("LA", (90, 255)),
    "16.png": picture("I;16", 3),
    "palette.png": picture("P", 3),
    "cmyk.tif": picture("CMYK", 3, compression="tiff_lzw"),
    "float.tif": picture("F", 0.5, compression="tiff_lzw"),
    "progressive.jpg": picture("RGB", (90, 90, 90), progressive=True, subsampling=0),
    "raw.dcm": lambda p: dicom(p, uid.ExplicitVRLittleEndian, BLACK * 2, bits=16, **WINDOW),
    "deflated.dcm": lambda p: dicom(p, uid.DeflatedExplicitVRLittleEndian, BLACK, **WINDOW),
    "sigmoid.dcm": lambda p: dicom(
        p, uid.DeflatedExplicitVRLittleEndian, BLACK, VOILUTFunction="SIGMOID", **WINDOW
    ),
    "signed.dcm": lambda p: dicom(
        p, uid.DeflatedExplicitVRLittleEndian, BLACK * 2, bits=16, PixelRepresentation=1
    ),
    "bomb.dcm": deflated_bomb,
    "j2k.dcm": lambda p: dicom(p, uid.JPEG2000Lossless, jpeg2000(SIDE)),
    "j2k-16000.dcm": lambda p: dicom(p, uid.JPEG2000Lossless, jpeg2000(16_000), 64),
    "rle.dcm": lambda p: dicom(p, uid.RLELossless, rle(RUNS)),
    "rle-bomb.dcm": lambda p: dicom(p, uid.RLELossless, rle(RUNS * 40), 64),
}


def status(name: str) -> float:
    """Return a figure of this process in MiB."""
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]
    return int(found) / 1024


def measure(run: Path, films: Path, small: Path) -> tuple[float, dict]:
    classifier = load_run(run)
    write_scores(classifier, [small], films / "warm.csv")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status("VmRSS")
    counts = write_scores(classifier, [films], films / "scores.csv")
    return status("VmHWM") - before, dict(counts)


def main():
    from scale import ROOT, make_run

    worst = 0
    small = ROOT / "medical" / "images" / "00060001_000.jpg"
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        make_run(folder / "run")
        for name in sys.argv[1:] or KINDS:
            place = folder / name
            place.mkdir()
            KINDS[name](place / f"0{name}")
            for n in range(1, COPIES):
                os.link(place / f"0{name}", place / f"{n}{name}")
            kib, start = (place / f"0{name}").stat().st_size / 1024, time.perf_counter()
            with multiprocessing.get_context("spawn").Pool(1) as process:
                peak, counts = process.apply(measure, (folder / "run", place, small))
            worst = max(worst, peak)
            seconds = time.perf_counter() - start
            print(
                f"{name:18}{kib:9,.0f} KiB: {peak:5.0f} MiB, {seconds:.0f} s, {counts}", flush=True
            )
    print(f"most: {worst:.0f} MiB, allowed: {LIMIT}")
    sys.exit(worst > LIMIT)


if __name__ == "__main__":
    main()
