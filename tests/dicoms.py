"""Writes a film as DICOM in any encoding, for tests."""

import io

import numpy as np
from PIL import Image
from pydicom import Dataset, encaps, uid
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import compress, set_pixel_data

SECRET = "Zzyzx^Quirine"  # stands in every field that could name a patient


def write(path, values, bits=8, syntax=uid.ExplicitVRLittleEndian, **elements):
    """Write stored values (height, width) as a DX film with a header full of secrets."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.PatientName = data.PatientID = data.InstitutionName = data.StudyDescription = SECRET
    data.PatientComments, data.PatientBirthDate = SECRET, "19010203"
    data.Modality, data.ViewPosition = "DX", "PA"
    signed = np.asarray(values).dtype.kind == "i"
    stored = np.asarray(values).astype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2}")
    set_pixel_data(data, stored, "MONOCHROME2", bits)
    for name, value in elements.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    if syntax == uid.JPEGBaseline8Bit:
        buffer = io.BytesIO()
        Image.fromarray(stored).save(buffer, "JPEG", quality=98)
        data.PixelData = encaps.encapsulate([buffer.getvalue()])
        data["PixelData"].VR = "OB"
        meta.TransferSyntaxUID = syntax
    elif uid.UID(syntax).is_compressed and syntax != uid.DeflatedExplicitVRLittleEndian:
        lossy = {"j2k_cr": [4]} if syntax == uid.JPEG2000 else {}
        compress(data, syntax, generate_instance_uid=False, **lossy)
    else:
        meta.TransferSyntaxUID = syntax
    data.save_as(path, enforce_file_format=True, overwrite=True)
    return path
