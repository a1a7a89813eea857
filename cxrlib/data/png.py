"""PNG, the format of NIH ChestX-ray14: pixels decoded fast."""

import os
from contextlib import suppress
from functools import cache
from typing import Any

from PIL import Image
from PIL.ImageFile import ImageFile

from cxrlib.data.bounds import BYTES

FAST = {("L", "L"), ("I;16", "I;16B")}  # modes: 8 and 16 bits of grey, in memory and in the file


def load_pixels(image: ImageFile) -> Image.Image:
    """Return an opened picture with its pixels.

    Of a grey PNG they come from kornia-rs where the extra `fast` is installed, in a third of the
    time. What it cannot read is left to Pillow, which says what is wrong.
    """
    grey = image.format == "PNG" and image.tile and (image.mode, image.tile[0].args) in FAST
    if grey and (decode := _decoder()):
        place = image.fp.tell()
        most = min(BYTES, image.fp.seek(0, os.SEEK_END))  # asked for more, Python gets more
        image.fp.seek(0)
        content = image.fp.read(most)
        image.fp.seek(place)
        with suppress(Exception):  # of many kinds
            values = decode(content, "L").numpy()[..., 0]
            # Behind the pixels, too, where Pillow minds it and kornia-rs does not.
            if values.shape == image.size[::-1] and b"tRNS" not in content:
                return Image.fromarray(values)
    image.load()
    return image


@cache
def _decoder() -> Any:
    try:
        # Not kornia_rs.io's, which would keep other threads waiting.
        from kornia_rs.image import Image as KorniaImage
    except ImportError:
        return None
    return KorniaImage.decode
