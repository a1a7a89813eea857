"""JPEG, PNG, TIFF, BMP and DICOM files, 8 to 16 bit, to one float array in 0..1.

What reads a file raises FileNotFoundError, or ImageError with what is wrong.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from cxrlib.data import dicom
from cxrlib.data._pillow import exif_of_png
from cxrlib.data.bounds import LARGEST, TOO_LARGE, check_scans, room
from cxrlib.data.files import Film, file_digest, is_dicom, regular_file
from cxrlib.data.grey import BRIGHT, grey_of, load_pixels

# Part of every digest that depends on pixels: change it when what `read_image` returns changes, and
# not where only films that were read wrongly are mended: it would end every run.
PREPROCESSING = "grey in 0..1, longer side to image_size, antialiased bilinear, black padding; 2"

# No others: Pillow would hand EPS to Ghostscript, whatever the file's name.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP")


class ImageError(ValueError):
    """A file that cannot be read as an image; `reason` says why without naming the file."""

    def __init__(self, path: Film, reason: str):
        super().__init__(path, reason)  # as given, so that it comes back from a worker
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.reason}"


def read_header(path: Film) -> tuple[int, int, str | None]:
    """Return width, height as `read_image` turns the film, and its view, None of a picture."""
    if is_dicom(path):
        with _told(path):
            return dicom.read_header(path)
    with _opened(path) as image:
        turned = 5 <= _orientation(image) <= 8
        return *(image.size[::-1] if turned else image.size), None


def image_size(path: Film) -> tuple[int, int]:
    """Return (width, height) in pixels from the file's header, as `read_image` turns the film."""
    return read_header(path)[:2]


def view_of(path: str | Path) -> str:
    """Return 'PA', 'AP' or 'lateral' from a DICOM header, '' where that says nothing or is none."""
    return (read_header(path)[2] or "") if is_dicom(path) else ""


def film_digest(path: Film) -> str:
    """Return the SHA-256 of a film: of the file; of a DICOM file, of its grey values alone.

    A hash of a DICOM file would tell whoever holds the file which patient is meant, and would
    change with the header.
    """
    if is_dicom(path):
        with _decoded(path) as values:
            return hashlib.sha256(f"{values.shape}".encode() + values.tobytes()).hexdigest()
    with _told(path):
        return file_digest(path)


def short_digest(path: Film) -> str:
    """Return the first 16 hex digits of `film_digest`: enough to tell films apart."""
    return film_digest(path)[:16]


def colour_of(path: Film) -> float:
    """Return how coloured a picture is: the mean range of its channels, 0 (grey) to 1.

    Read at an eighth of its size or more. DICOM films are grey, or are not read at all.
    """
    if is_dicom(path):
        return 0.0
    with _opened(path) as image:
        if image.mode in ("1", "L", "LA") or image.mode.startswith(("I", "F")):
            return 0.0
        with room(image.width * image.height):
            check_scans(image)
            image.draft("RGB", (128, 128))
            colours = np.asarray(image.convert("RGB").reduce(max(1, min(image.size) // 128)))
    return float(np.ptp(colours / np.float32(255), axis=2).mean())


def read_image(path: Film, size: int | None = None) -> np.ndarray:
    """Read a radiograph as grey values.

    Colour becomes luma (ITU-R BT.601), transparency lies over black, and the orientation that an
    EXIF tag asks for is applied. White is 255 in 8 bits. In 16 bits it is the greatest value of 8,
    10, 12, 14 or 16 bits: the fewest that hold 99 % of the pixels (`cxrlib.data.grey.spread`).
    DICOM films appear as a viewer shows them (`cxrlib.data.grey.show`).

    Parameters
    ----------
    path : an image file, or a binary file object that can seek, read from its start
    size : side of the square to return, in pixels; None keeps the image as it is. The longer side
        is scaled to `size` by an antialiased bilinear reduction, and black is added beside the
        shorter one. A crop could cut off a costophrenic angle, and stretching would change the
        cardiothoracic ratio.

    Returns
    -------
    float32 array, (height, width) or (size, size), in 0..1

    Raises
    ------
    FileNotFoundError, ImageError
        The file is missing, not an image, cut short or of a kind that is not supported.

    Examples
    --------
    >>> import cxrlib as cxr
    >>> film = cxr.read_image("medical/images/00060001_000.jpg", size=299)
    >>> film.shape, film.dtype.name, bool(film.min() >= 0 and film.max() <= 1)
    ((299, 299), 'float32', True)
    """
    if is_dicom(path):
        with _decoded(path) as values:
            return _on_square(Image.fromarray(values), size)
    with _opened(path) as image, room(image.width * image.height):
        return _on_square(_read_picture(image, size), size)


def boxes_on_square(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return where boxes of a film lie on the square that `read_image` pads it to.

    Boxes (n, 4) are xmin, ymin, xmax, ymax in pixels of the film; there in shares of its side.
    """
    side = max(width, height)
    return (boxes + np.tile([side - width, side - height], 2) / 2) / side


def read_batch(paths: Iterable[str | Path], size: int, pool: ThreadPoolExecutor) -> np.ndarray:
    """Read images in parallel into one float32 array, (n, size, size, 1), in 0..1."""
    return np.stack(list(pool.map(lambda path: read_image(path, size), paths)))[..., None]


def read_ahead(read: Callable, batches: Iterable, size: int) -> Iterator:
    """Yield `read(batch, size, pool)` of each batch of films, reading the next one meanwhile."""
    with ThreadPoolExecutor() as readers, ThreadPoolExecutor(1) as ahead:
        jobs = (ahead.submit(read, batch, size, readers) for batch in batches)
        for job, _ in pairwise(chain(jobs, [None])):
            yield job.result()


@contextmanager
def _decoded(path: Film) -> Iterator[np.ndarray]:
    """Give the grey values of a DICOM film while there is room for them."""
    with _told(path):
        width, height, _ = dicom.read_header(path)
        with room(width * height):
            yield dicom.read_grey(path)


def _read_picture(image: ImageFile.ImageFile, size: int | None) -> Image.Image:
    """Return an opened picture in mode F, in 0..1; reduced, but at least `size`."""
    check_scans(image)
    turned = _orientation(image)
    if size:
        # JPEG alone: decodes at 1/2, 1/4 or 1/8 where that is still at least `size`.
        image.draft("L", _fit(image.size, size))
    cut = ";16" in f"{image.tile}" and image.mode.startswith("RGB")  # to the upper 8 bits
    grey = grey_of(load_pixels(image))
    if cut and np.mean(np.asarray(grey) > 0.25) <= BRIGHT:
        raise ValueError("fewer than 16 bits a channel in 16: save it as grey, not in colour")
    # The image's own EXIF may be damaged, and would then be read or written anew.
    grey.info.clear()
    grey.getexif()[ExifTags.Base.Orientation] = turned
    ImageOps.exif_transpose(grey, in_place=True)
    return grey


def _on_square(grey: Image.Image, size: int | None) -> np.ndarray:
    if not size:
        return np.asarray(grey)
    values = np.asarray(grey.resize(_fit(grey.size, size), Image.Resampling.BILINEAR))
    missing = np.subtract((size, size), values.shape)
    return np.pad(values, [(n // 2, n - n // 2) for n in missing])


def _orientation(image: ImageFile.ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8, before pixels are read; 1 where none can be read."""
    try:
        if image.format == "PNG" and (exif := exif_of_png(image.fp)):
            image.info["exif"] = exif
        return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:  # of many kinds; viewers pass over damaged EXIF, too
        return 1


@contextmanager
def _opened(path: Film) -> Iterator[ImageFile.ImageFile]:
    """Open a picture; what fails while it is read is an ImageError, too."""
    with _told(path), Image.open(regular_file(path), formats=FORMATS) as image:
        if image.width * image.height > LARGEST:
            raise ValueError(TOO_LARGE)
        if image.format != "MPO" and getattr(image, "is_animated", False):  # not a JPEG's preview
            raise ValueError("a file of several pages or frames: give single radiographs")
        yield image


@contextmanager
def _told(path: Film) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ImageError):
        raise
    except UnidentifiedImageError:
        raise ImageError(path, "no JPEG, PNG, TIFF, BMP or DICOM image") from None
    except Exception as error:  # of many kinds, where a file is damaged
        # Without the file's name, which on a worker may be another.
        reason = getattr(error, "strerror", None) or str(error)
        if " " not in reason or re.search(r"\bb['\"]", reason):  # it may quote the file
            reason = f"damaged, or of a kind that is not known here ({type(error).__name__})"
        raise ImageError(path, reason) from error


def _fit(shape: tuple[int, int], size: int) -> tuple[int, int]:
    """Return (width, height) with the longer side `size` and the aspect ratio kept."""
    scale = size / max(shape)
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
