"""Pillow as radiographs need it. What importing cxrlib changes of Pillow for a process is here."""

import os
from typing import BinaryIO

from PIL import Image, TiffImagePlugin

# Pillow would give the memory of each image back and wait for new pages, a third of the time that
# reading takes. This keeps eight blocks; of smaller ones glibc would keep all a thread ever had.
Image.core.set_blocks_max(8)
Image.core.set_block_size(33 * 2**20)

TIFF: dict = TiffImagePlugin.OPEN_INFO
for order, raw in ((TiffImagePlugin.II, "F;64F"), (TiffImagePlugin.MM, "F;64BF")):
    TIFF.pop((order, 1, (2,), 1, (8,), ()), None)  # signed, and Pillow reads it as unsigned
    TIFF[order, 1, (3,), 1, (64,), ()] = ("F", raw)
for (order, zero, *rest), modes in list(TIFF.items()):
    if zero == 1 and modes[0][0] in "IF":  # where white is zero, `grey_of` turns it over
        TIFF.setdefault((order, 0, *rest), modes)


def exif_of_png(file: BinaryIO) -> bytes:
    """Return the eXIf chunk of a PNG; behind the pixels Pillow would decode them to get there."""
    place, exif = file.tell(), b""
    file.seek(8)
    while not exif and len(head := file.read(8)) == 8:
        length = int.from_bytes(head[:4])
        if head[4:] == b"eXIf":
            exif = file.read(length)
        file.seek(length + 4, os.SEEK_CUR)
    file.seek(place)
    return exif
