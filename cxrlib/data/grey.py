"""From stored values to grey in 0..1: one rule for every depth, and what a file's header says."""

import os
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile

from cxrlib.data.bounds import BYTES

DEPTHS = (8, 10, 12, 14)  # bits of detectors and scanners, fewer than the 16 of their files
OF_8_BITS = (np.arange(256, dtype=np.float32) / np.float32(255)).tolist()
FAST = {("L", "L"), ("I;16", "I;16B")}  # modes: 8 and 16 bits of grey, in memory and in the file
BRIGHT = 0.01  # this share of the pixels decides nothing: letters, markers, defects


def spread(values: np.ndarray, bits: int = 16, inverted: bool = False) -> np.ndarray:
    """Return stored values as grey, so that one film looks the same at every depth.

    Detectors of 10, 12 or 14 bits are often stored in more as they are, so what a file states is
    the most. White is the greatest value of 8, 10, 12 or 14 bits or of those stated, whichever are
    the fewest that hold 99 % of the pixels; brighter pixels are white. A film of 16 bits that stays
    below a quarter of white cannot be told from one of 14.

    `values` are integers of any shape, below 0 black; `bits` as the file states them. Where
    `inverted`, white is stored as 0, and black as the greatest value of the bits used or stated.
    The result is float32 of the same shape, in 0..1.
    """
    values = np.array(values, np.float32)  # and in place, since films are large
    if inverted:
        np.subtract(_white(values, bits), values, out=values)
    values /= np.float32(_white(values, bits))
    return np.clip(values, 0, 1, out=values)


def grey_of(image: Image.Image) -> Image.Image:
    """Return a picture that is not DICOM in mode F, in 0..1."""
    # Pillow turns white-is-zero TIFF over at 1 to 8 bits only.
    inverted = getattr(image, "tag_v2", {}).get(ExifTags.Base.PhotometricInterpretation) == 0
    if image.mode[0] in "IF":
        values = np.asarray(image)
    if image.mode.startswith("I"):
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("integers outside 0..65535: rescale them to 16 bits")
        return Image.fromarray(spread(values, inverted=inverted))
    if image.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ValueError("floating-point values outside 0..1: rescale them")
        return Image.fromarray(1 - values) if inverted else image
    if image.has_transparency_data:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA"))
    elif image.mode == "P":
        image = image.convert("RGB")
    # In floating point before it is reduced, so that 8 and 16 bits of one film give one result.
    grey = image if image.mode == "L" else image.convert("L")  # which would copy it
    return grey.point(OF_8_BITS, "F")


def load_pixels(image: ImageFile) -> Image.Image:
    """Return an opened picture with its pixels.

    Of a grey PNG they come from kornia-rs where the extra `fast` is installed, in a third of the
    time. What it cannot read is left to Pillow, which says what is wrong.
    """
    grey = image.format == "PNG" and image.tile and (image.mode, image.tile[0].args) in FAST
    if grey and (decode := _decoder()):
        most = min(BYTES, image.fp.seek(0, os.SEEK_END))  # asked for more, Python gets more
        image.fp.seek(0)
        content = image.fp.read(most)  # decoding seeks anew
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


def show(data, stored: np.ndarray) -> np.ndarray:
    """Return stored values of a DICOM film (a pydicom Dataset) as a viewer shows them, in 0..1.

    They pass rescale slope and intercept or modality LUT, then the first VOI LUT or window (PS3.3
    C.11.1 and C.11.2). Without either, and where a window has no width, `spread` decides.
    """
    from pydicom.pixels import apply_modality_lut, apply_voi

    # Not by pydicom: it inverts about the film's own maximum, and not for MONOCHROME1 alone.
    inverted = data.PhotometricInterpretation == "MONOCHROME1"
    inverted |= str(data.get("PresentationLUTShape")).strip().upper() == "INVERSE"
    slope = float(data.get("RescaleSlope", 0)) or 1.0
    window = _window(data)
    if lut := data.get("ModalityLUTSequence"):
        values = apply_modality_lut(stored, data)
    elif "VOILUTSequence" in data or window:
        values = stored * slope
        values += float(data.get("RescaleIntercept", 0))
    if "VOILUTSequence" in data:
        lut = data.VOILUTSequence
        values = apply_voi(np.rint(values).astype(np.int32), data)
    elif window:
        shown = _through(*window, np.asarray(values, float))
        return np.subtract(1, shown, out=shown) if inverted else shown
    if lut:
        return spread(values, lut[0].LUTDescriptor[2], inverted)
    return spread(_unsign(stored, data.BitsStored), data.BitsStored, inverted != (slope < 0))


def _window(data) -> tuple[str, float, float] | None:
    """Return function, centre and width of the first window, None where it has no width."""
    function = str(data.get("VOILUTFunction", "LINEAR")).strip().upper()
    width = np.ravel(data.get("WindowWidth", 0))[0]
    if "WindowCenter" not in data or width <= 0 or width < (function == "LINEAR"):
        return None
    return function, np.ravel(data.WindowCenter)[0], width


def _through(function: str, centre: float, width: float, values: np.ndarray) -> np.ndarray:
    """Return values through a window (PS3.3 C.11.2.1)."""
    if function == "SIGMOID":
        shown = -4 * (values - centre) / width
        np.exp(shown, out=shown)
        shown += 1
        return np.divide(1, shown, out=shown)
    less = float(function == "LINEAR")
    shown = (values - centre + less / 2) / max(width - less, 1e-9) + 0.5
    return np.clip(shown, 0, 1, out=shown)


def _unsign(values: np.ndarray, bits: int) -> np.ndarray:
    """Return signed values with the least that their bits hold moved to 0."""
    if values.dtype.kind != "i" or (bits == 16 and np.mean(values < 0) <= BRIGHT):
        return values
    wide = values.astype(np.int32)
    white = _white(2 * np.maximum(wide, ~wide), bits) if bits == 16 else 2**bits - 1
    return wide + (white + 1) // 2


def _white(values: np.ndarray, bits: int) -> int:
    few, fewer = BRIGHT * values.size, [depth for depth in DEPTHS if depth < bits]
    return 2 ** next((b for b in fewer if np.count_nonzero(values >= 2**b) <= few), bits) - 1
