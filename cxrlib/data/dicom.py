"""A radiograph in a DICOM file: its grey values, view and modality, and nothing else of its header.

Only elements that describe pixels are read, so no name or date of a patient is ever in memory, and
the patient's number only while `patient_key` hashes it. pydicom's errors and warnings can quote
what a file holds: errors are replaced by sentences of our own, and warnings are not shown.
"""

import hmac
import logging
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np

PIXELS = (
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "PresentationLUTShape"),
    *("Modality", "ViewPosition", "PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
# OT and none at all: secondary captures. RG: film scanners and old CR. HC: a printed film.
RADIOGRAPHS = {"CR", "DX", "RG", "OT", "HC", "SC", ""}
OTHERS = {"CT", "MR", "US", "NM", "PT", "MG", "XA", "RF", "XC", "ES", "OP", "IO", "PX", "SR"}
OTHERS |= {"RTIMAGE", "RTDOSE", "RTPLAN", "RTSTRUCT", "ECG", "SEG", "PR", "KO", "DOC"}
FRONTAL, LATERAL = {"PA", "AP"}, {"LL", "RL", "LATERAL", "LAT"}
LARGEST = 50_000_000  # pixels of any film; detectors have up to about 20 million
# Fixed, so that a patient keeps the key, and with it the side of the split, on every machine.
PATIENT_KEY = b"cxrlib patient"
NEEDS = "reading DICOM needs more packages: pip install 'cxrlib[dicom]'"


def is_dicom(path: str | Path | BinaryIO) -> bool:
    """Say whether a film is DICOM: by the letters DICM at byte 128, or by the name's end, .dcm.

    A binary file object is left at its start.
    """
    if hasattr(path, "read"):
        path.seek(0)
        start = path.read(132)
        path.seek(0)
        return start[128:] == b"DICM"
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM" or Path(path).suffix.lower() == ".dcm"
    except OSError:
        return False


def read_header(path: str | Path | BinaryIO) -> dict[str, str | int]:
    """Return width and height in pixels, modality ('CR', ...) and view of a DICOM file.

    View is 'PA', 'AP', 'lateral', or '' where the header has none of these.

    Raises
    ------
    ValueError
        No single grey radiograph; a sentence without the file's name or what it holds.
    """
    header = _read(path, pixels=False)
    view = str(header.get("ViewPosition") or "").strip().upper()
    return {
        "width": int(header.Columns),
        "height": int(header.Rows),
        "modality": str(header.get("Modality") or "").strip().upper(),
        "view": view if view in FRONTAL else "lateral" if view in LATERAL else "",
    }


def patient_key(path: str | Path | BinaryIO) -> str:
    """Return a name for the patient of a DICOM film: a hash that stands for the PatientID.

    The first 16 hexadecimal digits of HMAC-SHA-256 (RFC 2104) with the key `PATIENT_KEY`. Blanks,
    case and leading zeros of the PatientID are dropped first. Who knows the key and a PatientID can
    compute the hash, so treat it as a pseudonym.

    Returns
    -------
    str
        '' where the file is not DICOM or its PatientID is missing or empty.

    Raises
    ------
    ValueError
        No DICOM file that can be read; a sentence without the file's name or what it holds.
    """
    if not is_dicom(path):
        return ""
    number = "".join(str(_read_elements(path, ["PatientID"]).get("PatientID") or "").split())
    number = number.casefold().lstrip("0") or number[:1]
    content = number.encode(errors="backslashreplace")
    return hmac.digest(PATIENT_KEY, content, "sha256").hex()[:16] if number else ""


def read_grey(path: str | Path | BinaryIO) -> np.ndarray:
    """Return the grey values of a radiograph as a viewer shows them, float32 (height, width), 0..1.

    Stored values pass rescale slope and intercept or modality LUT, then the first VOI LUT or window
    (PS3.3 C.11.1 and C.11.2). Without either, black and white are the least and the greatest value
    that the stored bits can hold; 12 for 16 bits of which no value needs more, as for a PNG.

    Raises
    ------
    ValueError
        As `read_header`; or the pixels are missing, cut short or of an encoding that is not known.
    """
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    data = _read(path, pixels=True)
    try:
        stored = data.pixel_array
        if stored.ndim != 2:
            raise ValueError
        unused = data.BitsAllocated - data.BitsStored  # old files keep overlays there
        stored = np.right_shift(np.left_shift(stored, unused), unused)
        values = apply_modality_lut(stored, data)
        low, high = _range(data, stored)
        if data.get("VOILUTSequence"):
            values = np.rint(values).astype(np.int32)
            low, high = 0, 2 ** data.VOILUTSequence[0].LUTDescriptor[2] - 1
        elif "WindowWidth" not in data or "WindowCenter" not in data:
            low, high = min(low, high), max(low, high)
        values = (np.asarray(apply_voi_lut(values, data), np.float64) - low) / (high - low)
    except Exception:  # of many kinds; each may quote the file
        raise ValueError(
            "the DICOM pixels are missing, damaged, or encoded in a way that is not known here"
        ) from None
    if not np.isfinite(values).all():
        raise ValueError("the DICOM rescaling or window gives no finite grey values")
    # Not by pydicom: it inverts about the film's own maximum, and not for MONOCHROME1 alone.
    shape = str(data.get("PresentationLUTShape") or "").strip().upper()
    if data.PhotometricInterpretation == "MONOCHROME1" or shape == "INVERSE":
        values = 1 - values
    return np.clip(values, 0, 1).astype(np.float32)


def _range(data, stored: np.ndarray) -> tuple[float, float]:
    """Return what the least and the greatest storable value become by rescaling."""
    if data.get("ModalityLUTSequence"):
        return 0, 2 ** data.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    bits = data.BitsStored
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if stored.dtype.kind == "i" else (0, 0)
    if stored.dtype.kind == "u":
        windowed = "WindowWidth" in data and "WindowCenter" in data
        high = 4095 if bits == 16 and not windowed and stored.max() <= 4095 else 2**bits - 1
    if "RescaleSlope" in data and "RescaleIntercept" in data:
        slope, intercept = float(data.RescaleSlope), float(data.RescaleIntercept)
        return low * slope + intercept, high * slope + intercept
    return low, high


def _read_elements(path, names: list[str], pixels: bool = False):
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
    try:
        data = pydicom.dcmread(
            path, force=True, stop_before_pixels=not pixels, specific_tags=list(names)
        )
        for _ in data:  # pydicom interprets a value when it is asked for
            pass
    except FileNotFoundError:
        raise
    except Exception:  # of many kinds; each may quote the file
        raise ValueError("no DICOM file that can be read") from None
    return data


def _read(path, pixels: bool):
    """Return the elements in `PIXELS` of a file that holds one grey radiograph."""
    data = _read_elements(path, PIXELS, pixels)
    try:
        modality = str(data.get("Modality") or "").strip().upper()
        grey = str(data.get("PhotometricInterpretation") or "").startswith("MONOCHROME")
        colours, frames = data.get("SamplesPerPixel"), int(data.get("NumberOfFrames") or 1)
        size = int(data.get("Rows") or 0) * int(data.get("Columns") or 0)
    except Exception:  # of many kinds; each may quote the file
        raise ValueError("no DICOM file that can be read") from None
    if modality not in RADIOGRAPHS:
        name = modality if modality in OTHERS else "of another kind"
        raise ValueError(f"DICOM modality {name}, not a radiograph (CR, DX or secondary capture)")
    if not size or (pixels and "PixelData" not in data):
        raise ValueError("a DICOM file without pixels")
    if frames > 1:
        raise ValueError("a DICOM file of several frames: give single radiographs")
    if colours != 1 or not grey:
        raise ValueError("a DICOM film in colour: give grey ones (MONOCHROME1 or MONOCHROME2)")
    if size > LARGEST:
        raise ValueError(f"too large to be a radiograph: more than {LARGEST:,} pixels")
    return data
