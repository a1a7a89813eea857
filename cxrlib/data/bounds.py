"""What is asked of a file before it is decoded, since a small one can stand for gigabytes."""

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from threading import Condition
from typing import BinaryIO

from PIL.ImageFile import ImageFile

LARGEST = 50_000_000  # pixels of any film; detectors have up to about 20 million
TOO_LARGE = f"too large to be a radiograph: more than {LARGEST:,} pixels"
BYTES, HEADER = 2**27, 2**23  # of a DICOM file; of what is inflated of it before the pixels
DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
FRAME_STARTS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers of JPEG and JPEG-LS

SCANS = 500  # of a JPEG; progressive ones have about ten, and each takes as long as a whole film

_free, _turn = [LARGEST], Condition()


@contextmanager
def room(pixels: int) -> Iterator[None]:
    """Wait until all films being decoded in this process, this one included, fit in `LARGEST`.

    Each pixel takes up to 24 bytes meanwhile, so a thread per core is not bounded enough.
    """
    with _turn:
        _turn.wait_for(lambda: pixels <= _free[0])
        _free[0] -= pixels
    try:
        yield
    finally:
        with _turn:
            _free[0] += pixels
            _turn.notify_all()


def inflate(file: BinaryIO, most: int) -> BinaryIO:
    """Return a file as it is; of a deflated one (PS3.5 A.5) up to `most` bytes of its elements."""
    from pydicom.filereader import _read_file_meta_info, read_preamble

    file.seek(0)
    read_preamble(file, force=True)
    if _read_file_meta_info(file).get("TransferSyntaxUID") == DEFLATED:
        return io.BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(most), most))
    file.seek(0)
    return file


def frame_size(frame: bytes) -> tuple[int, ...]:
    """Return height, width and components, as the header of a compressed frame says."""
    at = 2
    if frame[:2] == b"\xff\xd8":  # JPEG and JPEG-LS: segments up to the one that starts the frame
        while frame[at + 1] not in FRAME_STARTS:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4])
        return struct.unpack(">HHB", frame[at + 5 : at + 10])
    at = 12 if frame[4:8] == b"jP  " else -8  # JPEG 2000: in boxes, or as it is
    while at > 0 and frame[at + 4 : at + 8] != b"jp2c":
        length = int.from_bytes(frame[at : at + 4])
        if length < 8:  # pydicom 3.0 would never step over 0
            raise ValueError
        at += length
    if frame[at + 8 : at + 12] != b"\xff\x4f\xff\x51":
        raise ValueError
    right, bottom, left, top = struct.unpack(">4I", frame[at + 16 : at + 32])
    return bottom - top, right - left, int.from_bytes(frame[at + 48 : at + 50])


def check_scans(image: ImageFile) -> None:
    """Raise where a JPEG has more than `SCANS`; in its data the marker stands for nothing else."""
    if image.format not in ("JPEG", "MPO"):
        return
    image.fp.seek(0)  # decoding seeks anew
    blocks = iter(lambda: image.fp.read(2**20), b"")
    if sum(block.count(b"\xff\xda") for block in blocks) > SCANS:
        raise ValueError(f"a JPEG of more than {SCANS} scans: save it anew")


def check_runs(frame: bytes, pixels: int) -> None:
    """Raise where a segment of RLE (PS3.5 annex G) holds more bytes than pixels and padding."""
    count, *offsets = struct.unpack("<16I", frame[:64])
    for at, end in pairwise([*offsets[:count], len(frame)]):
        left = pixels + 1
        while at < end and left >= 0:
            run = frame[at]
            left -= run + 1 if run < 128 else (257 - run) % 129
            at += run + 2 if run < 128 else 2 - (run == 128)
        if left < 0:
            raise ValueError
