"""NIH's own table of entries, and the study that takes age and sex from it."""

import shutil

import numpy as np
import pandas as pd
import pytest

from cxrlib.data.labels import StudyError
from cxrlib.data.study import read_study
from cxrlib.data.table import read_age

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
)
ROWS = (
    "00000001_000.png,Cardiomegaly|Effusion,0,1,058Y,M,PA,2682,2749,0.143,0.143\n"
    "00000002_000.png,No Finding,0,2,081Y,F,AP,2500,2048,0.168,0.168\n"
)


@pytest.fixture
def entries(tmp_path):
    path = tmp_path / "Data_Entry_2017.csv"
    path.write_text(HEADER.replace("\n", ",\n") + ROWS.replace("\n", ",\n"))  # as NIH wrote it
    return path


@pytest.fixture
def study(make_tiny_study, tmp_path):
    rows = [
        {"filename": "00000001_000.jpg", "label": "Cardiomegaly", "sex": "", "age": ""},
        {"filename": "00000002_000.jpg", "label": "No Finding", "sex": "m", "age": "33"},
        {"filename": "00000003_000.jpg", "label": "No Finding", "sex": "female", "age": "7.5"},
    ]
    return make_tiny_study(tmp_path / "study", rows)


@pytest.mark.parametrize(
    ("text", "years"),
    [("58", 58), ("058Y", 58), ("011M", 11 / 12), ("003D", 3 / 365.25), (" 7.5 ", 7.5), ("0", 0)],
)
def test_ages(text, years):
    assert read_age(pd.Series([text]))[0] == pytest.approx(years)


@pytest.mark.parametrize("text", ["", "old", "-3", "121", "414Y", "5W"])
def test_ages_that_are_none(text):
    assert np.isnan(read_age(pd.Series([text]))[0])


def test_a_study_may_hold_age_and_sex_itself(study):
    films = read_study(study).films
    assert films["sex"].tolist() == ["", "M", "F"]
    assert films["age"].tolist()[1:] == [33, 7.5] and np.isnan(films["age"][0])
    assert films[["original_width", "original_height"]].isna().all(axis=None)


def test_entries_are_joined_by_name_whatever_the_ending(study, entries):
    shutil.copy(entries, study)
    films = read_study(study).films
    assert films["sex"].tolist() == ["M", "F", "F"]  # the third is the study's own
    assert films["age"].tolist() == [58, 81, 7.5]


def test_another_table_is_refused(study):
    beside = study / "Data_Entry_2017.csv"
    beside.write_text("Image Index,Patient Age\nx.png,3\n")
    with pytest.raises(StudyError, match=r"2017\.csv lacks the column sex\. Give"):
        read_study(study)
    beside.write_text("")
    with pytest.raises(StudyError, match=r"2017\.csv is empty"):
        read_study(study)
    beside.write_text(HEADER + ROWS.replace("0000000", "0009999"))
    with pytest.raises(StudyError, match=r"2017\.csv has no image of .*labels\.csv"):
        read_study(study)


def test_the_later_edition_has_the_last_word(study, entries):
    shutil.copy(entries, study)
    later = (HEADER + ROWS).replace("058Y", "59").replace("081Y", "")
    (study / "Data_Entry_2017_v2020.csv").write_text(later)
    assert read_study(study).films["age"].tolist() == [59, 81, 7.5]


def test_the_detectors_size_is_kept_beside_the_files(make_tiny_study, tmp_path):
    rows = [
        {"filename": "a_0.png", "label": "Mass", "width": "2500", "height": "3000"},
        {"filename": "b_0.png", "label": "No Finding", "width": "", "height": "?"},
    ]
    films = read_study(make_tiny_study(tmp_path / "study", rows)).films
    assert films.loc[0, ["original_width", "original_height"]].tolist() == [2500, 3000]
    assert films.loc[1, ["original_width", "original_height"]].isna().all()
    assert films["width"].tolist() == [40, 40]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n", r"test_list.txt is empty. NIH's Box folder has it"),
        (b"\xff", r"test_list.txt cannot be read: .*NIH's Box folder has it"),
        (b"00000001_000.png\r\n", r"00000001_000.png stands in both lists of .*one of 1"),
    ],
)
def test_official_lists_that_cannot_be_used(study, content, message):
    (study / "train_val_list.txt").write_text("00000001_000.png\n00000003_000.png")
    assert (
        read_study(study).problems["problem"].str.contains("train_val_list.txt is not used").any()
    )
    (study / "test_list.txt").write_bytes(content)
    with pytest.raises(StudyError, match=message):
        read_study(study)
