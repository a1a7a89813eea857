"""A radiograph in a DICOM file: its grey values, view and modality, and nothing else of its header.

Only elements that describe pixels are read, so no name or date of a patient is ever in memory, and
the patient's number only while `patient_key` hashes it. pydicom's errors and warnings can quote
what a file holds: errors are replaced by sentences of our own, and warnings are not shown.
"""

import hmac
import logging
import os
import warnings
from collections.abc import Iterable
from contextlib import suppress

import numpy as np

from cxrlib.data import bounds
from cxrlib.data.files import Film, is_dicom, opened
from cxrlib.data.grey import show
from cxrlib.data.table import name_view

NEEDED = "PhotometricInterpretation SamplesPerPixel BitsAllocated BitsStored PixelRepresentation"
PIXELS = """
    Rows Columns NumberOfFrames HighBit PlanarConfiguration RescaleSlope RescaleIntercept
    ModalityLUTSequence VOILUTSequence WindowCenter WindowWidth VOILUTFunction PresentationLUTShape
    PixelPaddingValue PixelAspectRatio ImagerPixelSpacing Modality ViewPosition PixelData
    ExtendedOffsetTable ExtendedOffsetTableLengths """
# OT and none at all: secondary captures. RG: film scanners and old CR. HC: a printed film.
RADIOGRAPHS = {*"CR DX DR XR RG OT HC SC".split(), ""}
# Of others the name is told, since it is not the file's own word.
OTHERS = (
    "CT MR US NM PT MG XA RF XC ES OP IO PX SR RTIMAGE RTDOSE RTPLAN RTSTRUCT ECG SEG PR KO DOC"
)
# Transfer syntax of a file that names none, by (implicit VR, little endian) as found.
SYNTAXES = {(True, True): "1.2.840.10008.1.2", (False, True): "1.2.840.10008.1.2.1"}
SYNTAXES |= {(False, False): "1.2.840.10008.1.2.2"}
# Fixed, so that a patient keeps the key, and with it the side of the split, on every machine.
PATIENT_KEY = b"cxrlib patient"
NEEDS = "reading DICOM needs more packages: pip install '.[dicom]' in a clone or archive of cxrlib"


def read_header(path: Film) -> tuple[int, int, str]:
    """Return width and height in pixels of a DICOM file, and 'PA', 'AP', 'lateral' or ''.

    A ValueError says why it is not a single grey radiograph, and nothing of what it holds.
    """
    header = _read(path, pixels=False)
    return int(header.Columns), int(header.Rows), name_view(_word(header, "ViewPosition"))


def read_spacing(path: Film) -> float | None:
    """Return mm per pixel: at the patient where that is known, else at the detector; or None."""
    names = "PixelSpacing", "ImagerPixelSpacing"
    data = _read_elements(path, names)
    for name in names:
        with suppress(Exception):  # of many kinds, where a value is damaged
            if 0.01 < (spacing := float(data[name][0])) < 10:
                return spacing
    return None


def patient_key(path: Film) -> str:
    """Return a pseudonym for the patient of a DICOM film, '' where no PatientID says who it is.

    The first 16 hexadecimal digits of HMAC-SHA-256 (RFC 2104) of the PatientID without blanks, case
    and leading zeros. Who has `PATIENT_KEY` and a PatientID can compute it.
    """
    if not is_dicom(path):
        return ""
    number = "".join(_word(_read_elements(path, ["PatientID"]), "PatientID").casefold().split())
    number = number.lstrip("0") or number[:1]
    content = number.encode(errors="backslashreplace")
    return hmac.digest(PATIENT_KEY, content, "sha256").hex()[:16] if number else ""


def read_grey(path: Film) -> np.ndarray:
    """Return the grey values of a radiograph as a viewer shows them, float32 (height, width), 0..1.

    Padding is black. See `cxrlib.data.grey.show`. A ValueError is as that of `read_header`.
    """
    header = _read(path, pixels=False)
    data = _read(path, pixels=True, most=bounds.HEADER + 4 * header.Rows * header.Columns)
    try:
        stored = _decode(data)
        padding = stored == data.get("PixelPaddingValue")
        if padding.any() and not padding.all():
            stored[padding] = np.median(stored[~padding])  # so that padding sets no scale
        values = show(data, stored).astype(np.float32, copy=False)
        values[padding] = 0
    except Exception:  # of many kinds; each may quote the file
        raise ValueError(
            "the DICOM pixels are missing, damaged, or encoded in a way that is not known here"
        ) from None
    if not np.isfinite(values).all():
        raise ValueError("the DICOM rescaling or window gives no finite grey values")
    return values


def _decode(data) -> np.ndarray:
    """Return stored values (height, width) without what old files keep in unused bits."""
    from pydicom.encaps import generate_frames

    if data["PixelData"].is_undefined_length:
        frame = next(generate_frames(data.PixelData, number_of_frames=1))
        # A decoder goes by the frame, whatever the header says.
        if data.file_meta.TransferSyntaxUID == bounds.RLE:
            bounds.check_runs(frame, data.Rows * data.Columns)
        elif bounds.frame_size(frame) != (data.Rows, data.Columns, 1):
            raise ValueError
        elif frame.count(b"\xff\xda") > bounds.SCANS:
            raise ValueError
    elif data.get("HighBit", 0) >= data.BitsStored:
        if np.frombuffer(data.PixelData, f"<u{data.BitsAllocated // 8}").max() >> data.BitsStored:
            raise ValueError  # values that do not begin at the lowest bit
    stored, unused = data.pixel_array, data.BitsAllocated - data.BitsStored
    if stored.ndim != 2:
        raise ValueError
    stored = np.left_shift(stored, unused)
    return np.right_shift(stored, unused, out=stored)


def _word(data, name: str) -> str:
    return str(data.get(name) or "").strip().upper()


def _read_elements(path, names: Iterable[str], pixels: bool = False, most: int = bounds.HEADER):
    """Return the elements named of a DICOM file; an error says nothing of what it holds."""
    try:
        import pydicom
        from pydicom import config
    except ModuleNotFoundError:
        raise ValueError(NEEDS) from None
    # At every call, since others may have set them anew.
    warnings.filterwarnings("ignore", module=r"pydicom|pylibjpeg|libjpeg|openjpeg")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    config.settings.reading_validation_mode = config.IGNORE
    how: dict = {"stop_before_pixels": not pixels, "specific_tags": list(names)}
    with opened(path) as file:
        if file.seek(0, os.SEEK_END) > bounds.BYTES:
            raise ValueError(f"too large to be a radiograph: more than {bounds.BYTES:,} bytes")
        try:
            data = pydicom.dcmread(bounds.inflate(file, most), force=True, **how)
            for element in data:  # pydicom interprets a value when it is asked for
                if element.is_empty:
                    del data[element.tag]
        except Exception:  # of many kinds; each may quote the file
            raise ValueError("no DICOM file that can be read") from None
    return data


def _read(path, pixels: bool, most: int = bounds.HEADER):
    """Return the elements on pixels of a file that holds one grey radiograph."""
    data = _read_elements(path, (PIXELS + NEEDED).split(), pixels, most)
    try:
        modality, photometric = _word(data, "Modality"), _word(data, "PhotometricInterpretation")
        size = int(data.get("Rows", 0)) * int(data.get("Columns", 0))
        missing = next((name for name in NEEDED.split() if name not in data), "")
        several = int(data.get("NumberOfFrames", 1)) > 1
        grey = data.get("SamplesPerPixel") == 1 and photometric.startswith("MONOCHROME")
        shapes = [data.get(name, (1, 1)) for name in ("PixelAspectRatio", "ImagerPixelSpacing")]
        square = all(0.98 < down / across < 1.02 for down, across in shapes)
        syntax = data.file_meta.get("TransferSyntaxUID") or SYNTAXES[data.original_encoding]
        compressed = "PixelData" in data and data["PixelData"].is_undefined_length
        data.PhotometricInterpretation, data.file_meta.TransferSyntaxUID = photometric, syntax
    except Exception:  # of many kinds; each may quote the file
        raise ValueError("no DICOM file that can be read") from None
    name = modality if modality in OTHERS.split() else "of another kind"
    other = f"DICOM modality {name}, not a radiograph (CR, DX or secondary capture)"
    unnamed = compressed and syntax in SYNTAXES.values()
    for wrong, reason in (
        (modality not in RADIOGRAPHS, other),
        (not size or (pixels and "PixelData" not in data), "a DICOM file without pixels"),
        (missing, f"a DICOM file without {missing}"),
        (several, "a DICOM file of several frames: give single radiographs"),
        (not grey, "a DICOM film in colour: give grey ones (MONOCHROME1 or MONOCHROME2)"),
        (not square, "a DICOM film whose pixels are not square: scale it to square ones"),
        (size > bounds.LARGEST, bounds.TOO_LARGE),
        (unnamed, "compressed DICOM pixels without the name of their transfer syntax"),
    ):
        if wrong:
            raise ValueError(reason)
    return data
