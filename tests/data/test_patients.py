"""Whose film is it: columns, paths of publishers, DICOM headers, and guesses that are said."""

import shutil
import warnings

import numpy as np
import pandas as pd
import pytest

from cxrlib.data.patients import split_of
from cxrlib.data.study import read_study


def read_named(make_tiny_study, folder, names, **columns):
    rows = [{"filename": f"{n}.png", "label": "Mass"} for n in range(len(names))]
    study = make_tiny_study(folder, rows)
    for n, name in enumerate(names):
        path = study / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(study / "images" / f"{n}.png", path)
    table = pd.DataFrame({"filename": names, "label": "Mass"} | columns)
    table.to_csv(study / "labels.csv", index=False)
    return read_study(study)


@pytest.mark.parametrize(
    "column",
    ["patient", "patient_id", "PatientID", "patientId", "subject_id", "Patient_ID", "Patient ID"]
    + ["Pat_ID", "PatientIdentifier", "deid_patient_id"],
)
def test_a_patients_column_is_found(make_tiny_study, tmp_path, column):
    names = [f"{n}-a.png" for n in range(3)]
    with warnings.catch_warnings(action="error"):
        study = read_named(make_tiny_study, tmp_path / "s", names, **{column: ["x", "x", "y"]})
    assert study.films["patient"].tolist() == ["x", "x", "y"]
    assert study.patients_from == f"column '{column}'" and study.problems.empty


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("train/patient00001/study1/view1_frontal.png", "patient00001"),
        ("files/p10/p10000032/s50414267/02aa804e-bde0afdd.png", "10000032"),
        ("sub-S03044/ses-1/sub-S03044_ses-1_dx.png", "sub-S03044"),
        ("PNEUMONIA/person12_bacteria_45.png", "person12"),
        ("NORMAL/IM-0115-0001.png", "IM-0115"),
        ("NORMAL/NORMAL2-IM-0115-0001-0002.png", "NORMAL2-IM-0115"),
        ("NORMAL/NORMAL-1003233-0001.png", "NORMAL-1003233"),
        ("PNEUMONIA/VIRUS-1012-0002.png", "VIRUS-1012"),
        ("CXR12_IM-0652-1001.png", "CXR12"),
        ("12_IM-0001-4001.dcm.png", "12"),
        ("00000013_026.png", "00000013"),
        ("CHNCXR_0001_0.png", "CHNCXR_0001"),
        ("MCUCXR_0001_1.png", "MCUCXR_0001"),
        ("patient12_ap.png", "patient12"),
        ("Subject 7/ap.png", "Subject 7"),
    ],
)
def test_paths_of_publishers_say_the_patient(make_tiny_study, tmp_path, name, patient):
    with warnings.catch_warnings(action="error"):
        study = read_named(make_tiny_study, tmp_path / "s", [name])
    assert study.films["patient"].tolist() == [patient]
    assert study.problems.empty and "(1 films)" in study.patients_from


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["P1_0.png", "P1_1.png", "P2_0.png"], "3 films, 2 patients"),
        (["a.png", "b.png", "c_1.png"], "3 films, 3 patients; that is nearly one patient per film"),
        (["00000001_000.png", "x_1.png", "x_2.png"], "2 films, 1 patients"),
        (["Lung_Opacity-1.png", "Lung_Opacity-2.png"], "2 films, 2 patients; that is nearly one"),
        (["1/a.png", "1/b.png", "2/a.png"], "3 films, 2 patients; one name in several folders"),
    ],
)
def test_a_guess_is_said_with_its_numbers(make_tiny_study, tmp_path, names, numbers):
    with pytest.warns(UserWarning, match=f"before the first '_': {numbers}"):
        study = read_named(make_tiny_study, tmp_path / "s", names)
    assert study.problems["problem"].str.contains(numbers).sum() == 1
    assert study.problems["fix"].str.contains("add a column patient_id").any()


def test_few_patients_for_many_films_are_said(make_tiny_study, tmp_path):
    with pytest.warns(UserWarning, match="30 films are of 2 patients: those are very few"):
        read_named(make_tiny_study, tmp_path / "s", [f"v{n % 2}_{n}.png" for n in range(30)])


@pytest.mark.parametrize(
    ("ids", "one"),
    [
        (["60001", "00060001"], "00060001"),
        (["60001.0", "60001"], "60001"),
        (["P-007", "p-7"], "P-007"),
        (["ab 1", "AB1"], "ab 1"),
    ],
)
def test_ids_that_differ_in_case_blanks_or_zeros_are_one_patient(
    make_tiny_study, tmp_path, ids, one
):
    study = read_named(make_tiny_study, tmp_path / "s", ["a.png", "b.png"], patient_id=ids)
    found = study.films["patient"].tolist()
    assert set(found) == {one}
    assert study.problems["problem"].str.contains(f"count as one, '{found[0]}'", regex=False).any()


def test_zeros_that_a_spreadsheet_lost_come_back_from_the_name(make_tiny_study, tmp_path):
    names = ["00000005_000.png", "00000005_001.png"]
    study = read_named(make_tiny_study, tmp_path / "s", names, patient_id=["5", "5"])
    assert study.films["patient"].tolist() == ["00000005"] * 2
    assert study.films["split"].tolist() == [split_of("00000005")] * 2


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        (["5", "6"], "1 patients, by the names of their files, have several patient_id"),
        (["1,23457E+11", "1,23457E+11"], "patient_id was shortened by a spreadsheet"),
    ],
)
def test_ids_that_cannot_be_trusted_are_said(make_tiny_study, tmp_path, ids, problem):
    names = ["00000005_000.png", "00000005_001.png"]
    study = read_named(make_tiny_study, tmp_path / "s", names, patient_id=ids)
    assert study.problems["problem"].str.startswith(problem).any()


def test_a_dicom_header_says_the_patient_without_naming(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

    (tmp_path / "images").mkdir()
    for n, number in enumerate(("SECRET7", "secret7 ", "OTHER")):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.SOPClassUID, data.SOPInstanceUID = ComputedRadiographyImageStorage, f"1.2.{n + 1}"
        data.PatientID, data.Modality, data.ViewPosition = number, "DX", ("PA", "LL", "AP")[n]
        data.Rows = data.Columns = 8
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit, data.PixelRepresentation, data.PixelData = 7, 0, bytes([n]) * 64
        data.save_as(tmp_path / "images" / f"{n}.dicom", enforce_file_format=True)
    (tmp_path / "labels.csv").write_text("filename,label\n0.dicom,Mass\n1,Mass\n2.dicom,Mass\n")
    study = read_study(tmp_path)
    first, second, third = study.films["patient"]
    assert first == second != third
    assert study.films["view"].tolist() == ["PA", "lateral", "AP"]
    everything = "".join(t.to_string() for t in (study.films, study.findings, study.problems))
    assert "secret" not in everything.casefold() and "hashed" in study.patients_from

    # One film, anonymised twice: other headers, equal pixels.
    data.PixelData = np.random.default_rng(0).bytes(64 * 64)
    data.Rows = data.Columns = 64
    for n, number in ((1, "A"), (2, "ANOTHER NAME OF A")):
        data.PatientID, data.SOPInstanceUID = number, f"1.2.{n}"
        data.save_as(tmp_path / "images" / f"{n}.dicom", enforce_file_format=True)
    study = read_study(tmp_path)
    assert study.films["patient"].nunique() == 2 and study.films["patient"].duplicated()[2]
    assert study.problems["problem"].str.contains("same film, pixel for pixel").sum() == 1
