"""Tables as people have them: spreadsheets' ways, labels, views, ages, copies and own splits."""

import gzip
import os
import shutil
import unicodedata

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxrlib.data.patients import split_of
from cxrlib.data.study import StudyError, choose_films, count_split, read_study
from cxrlib.data.table import name_view, read_age, read_sex, read_table

A, B, C = "00000001_000.png", "00000002_000.png", "00000003_000.png"
HEALTHY = "No Finding"
TABLE = f"filename;label;age\r\n{A};Mass;58,5\r\n{B};No Finding;7\r\n"


def told(study, words):
    """The problems that say these words."""
    return study.problems[study.problems["problem"].str.contains(words, regex=False)]


@pytest.fixture
def study(make_tiny_study, tmp_path):
    """A folder with three films; its table is to be written."""
    return make_tiny_study(tmp_path / "study", [(A, "Mass"), (B, HEALTHY), (C, HEALTHY)])


def rewrite(study, content):
    data = content if isinstance(content, bytes) else content.encode()
    (study / "labels.csv").write_bytes(data)
    return read_study(study)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (TABLE, None),
        (TABLE.encode("utf-8-sig"), None),
        ("sep=;\r\n" + TABLE, None),
        (TABLE.replace(";", "\t").encode("utf-16"), None),
        (TABLE.replace("\r\n", "\r"), None),
        (TABLE.replace("58,5", '"58,5"').replace(";", ","), None),
        (TABLE.replace("\r\n", ";;\r\n"), None),
        (TABLE.replace("filename;label;age", "FileName; LABEL ;Age"), None),
        (TABLE.replace("filename", "\u200b\ufefffilename"), None),
        ("Table 1;;\r\n;;\r\n" + TABLE, "column names stand on line 3"),
        (TABLE.replace("No Finding", "No \0Finding"), "zero bytes in the text"),
        ((TABLE + "é.png;Mass;1\r\n").encode("cp1252"), "read as Windows-1252"),
    ],
)
def test_each_way_of_a_spreadsheet_gives_one_table(study, content, said):
    Image.new("L", (9, 9)).save(study / "images" / "é.png")
    read = rewrite(study, content)
    assert read.films["labels"].tolist()[:2] == [("Mass",), (HEALTHY,)]
    assert read.films["age"].tolist()[:2] == [58.5, 7]
    if said:
        assert len(told(read, said)) == 1
    else:
        assert read.problems.empty


@pytest.mark.parametrize("name", ["labels.csv", "labels.csv.gz"])
def test_a_table_too_large_is_not_read_to_its_end(tmp_path, monkeypatch, name):
    path, content = tmp_path / name, TABLE.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    table, _ = read_table(path, {"filename"}.issubset)
    assert len(table) == 2
    monkeypatch.setattr("cxrlib.data.table.LARGEST", len(content) - 1)
    with pytest.raises(StudyError, match=f"{name} is too large: tables of up to"):
        read_table(path, {"filename"}.issubset)


@pytest.mark.parametrize("name", ["labels.tsv", "Labels.TXT", "labels.csv.gz"])
def test_other_endings_of_the_table(study, name):
    content = TABLE.replace(";", "\t").encode()
    (study / "labels.csv").unlink()
    (study / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert read_study(study).films["age"].tolist() == [58.5, 7]


def test_rows_are_counted_as_in_the_file(study):
    with pytest.warns(UserWarning, match="1 of 3 rows"):
        read = rewrite(study, "sep=;\nTable\n\n" + TABLE + "gone.png;Mass;\n")
    assert told(read, "file missing")["row"].tolist() == [7]


@pytest.mark.parametrize(
    "cell",
    ["Mass|Edema", "Mass, Edema", "Mass;Edema", "['Mass', 'Edema']", "['Mass' 'Edema']"]
    + ["Mass\nEdema", "Mass|nan|Edema"],
)
def test_several_findings_of_a_cell_are_several_findings(study, cell):
    read = rewrite(study, f'filename,label\n{A},"{cell}"\n{B},{HEALTHY}\n')
    assert read.films["labels"].tolist() == [("Mass", "Edema"), (HEALTHY,)]
    assert choose_films(read, "edema")["target"].tolist() == [1, 0]
    assert len(told(read, "2 rows become 3")) == 1


@pytest.mark.parametrize("word", ["NORMAL", "healthy", "Negative", "none", "No abnormality"])
def test_words_for_no_finding(study, word):
    read = rewrite(study, f"filename,label\n{A},Mass\n{B},{word}\n")
    assert read.films["labels"].tolist() == [("Mass",), (HEALTHY,)]
    assert len(told(read, f"'{word}' (1 rows) is read as 'No Finding'")) == 1


@pytest.mark.parametrize(
    ("label", "meant"),
    [(n, n) for n in ("Empyema", "Pneumonitis", "Hemothorax", "Hydropneumothorax", "Nodule/Mass")]
    + [("Oedema", "Edema"), ("Masses", "Mass"), ("pleural effusion", "Effusion")]
    + [("Pnuemonia", None), ("Cardiomegally", None), ("Atelectasys", None)],
)
def test_other_diseases_are_kept_and_misspellings_found(study, label, meant):
    (study / "labels.csv").write_text(f"filename,label\n{A},{label}\n{A},Mass\n{B},{HEALTHY}\n")
    read = read_study(study)
    found = [name for name in read.films["labels"][0] if name != "Mass"]
    assert found == ([meant] if meant and meant != "Mass" else [])
    assert len(told(read, "unknown finding")) == (meant is None)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "label",
    ["Edemma", "Edema?", "possible edema", "Edema (uncertain)", "Mass/Edema", "mass and edema"],
)
def test_what_may_be_a_finding_is_no_negative_of_it(study, label):
    read = rewrite(study, f"filename,label\n{A},Edema\n{B},Mass\n{B},{label}\n{C},Mass\n")
    films = choose_films(read, "Edema", against="others")
    assert films["filename"].tolist() == [A, C]
    assert len(told(read, f"'{label}'")) == 1


def test_own_findings_that_differ_in_case_are_one(study):
    read = rewrite(study, f"filename,label\n{A},Rib fracture\n{B},rib_fracture\n{C},Normal\n")
    assert choose_films(read, "RIB FRACTURE")["target"].tolist() == [1, 1, 0]
    doubt = "filename,label\n" + f"{A},TB\n{B},tb ?\n{C},Normal\n"
    with pytest.warns(UserWarning, match="1 of 3 rows"):
        assert choose_films(rewrite(study, doubt), "TB", "others")["target"].tolist() == [1, 0]


@pytest.mark.parametrize("cell", ["", "nan", "N/A", "[]"])
def test_a_cell_that_says_nothing_is_no_label(study, cell):
    with pytest.warns(UserWarning, match="1 of 2 rows"):
        read = rewrite(study, f"filename,label\n{A},{cell}\n{B},Mass\n")
    assert told(read, "no label")["row"].tolist() == [2]


@pytest.mark.parametrize(
    "cells", [("0", "1"), ("0", "2"), ("1.0", ""), ("Yes", "no"), ("1,0", "0,0")]
)
def test_labels_that_are_numbers_are_refused(study, cells):
    with pytest.raises(StudyError, match="which name no finding"):
        rewrite(study, f"filename;label\n{A};{cells[0]}\n{B};{cells[1]}\n")


@pytest.mark.parametrize("names", ["Image,Labels", "image_id,Finding Labels", "Path,label"])
def test_other_words_for_the_two_columns(study, names):
    read = rewrite(study, f"{names}\n{A},Mass\n{B},{HEALTHY}\n")
    assert read.films["labels"].tolist() == [("Mass",), (HEALTHY,)] and read.problems.empty


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("images\\x.png", "x.png"),
        ("C:\\me\\study\\images\\x.png", "x.png"),
        ("/data/x.png", "x.png"),
        ("./x.png", "x.png"),
        ("file:///data/x.png", "x.png"),
        ("x", "x.png"),
        ("X.PNG", "x.png"),
        ("x.jpg", "x.png"),
        ("x.png", "images_001/images/x.png"),
        ("old/train/p/x.png", "train/p/x.png"),
        (unicodedata.normalize("NFC", "Müller.png"), unicodedata.normalize("NFD", "Müller.png")),
    ],
)
def test_names_find_the_one_file_that_they_can_mean(study, name, file):
    path = study / "images" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(study / "images" / A, path)
    (study / "images" / A).unlink()
    read = rewrite(study, f"filename,label,patient\n{name},Mass,1\n")
    assert read.films["filename"].tolist() == [file]
    assert read.films["path"].tolist() == [str(path)]


@pytest.mark.parametrize("name", ["healthy/x.png", "x"])
def test_names_that_may_mean_two_files_or_another_are_left_out(study, name):
    for folder in ("ill", "old"):
        (study / "images" / folder).mkdir()
        shutil.copy(study / "images" / A, study / "images" / folder / "x.png")
    with pytest.warns(UserWarning):
        read = rewrite(study, f"filename,label\n{A},Mass\n{name},Mass\n")
    assert read.films["filename"].tolist() == [A]
    assert told(read, "2 files" if name == "x" else "missing")["row"].tolist() == [3]


def test_what_spreadsheets_of_macs_and_windows_leave_behind_is_no_film(study):
    for name in (f"._{A}", ".DS_Store", "Thumbs.db", "__MACOSX/x.png"):
        (study / "images" / name).parent.mkdir(exist_ok=True)
        (study / "images" / name).write_bytes(b"\0")
    read = rewrite(study, f"filename,label\n{A[:-4]},Mass\n{B},{HEALTHY}\n")
    assert read.films["filename"].tolist() == [A, B]


@pytest.mark.parametrize("names", ["x,y,width,height", "xmin,ymin,width,height", "left,top,w,h"])
def test_width_and_height_beside_x_and_y_are_a_box(study, names):
    read = rewrite(study, f"filename,{names},label\n{A},1,2,10,20,Mass\n{B},,,,,Normal\n")
    assert read.findings.loc[0, ["xmin", "ymin", "xmax", "ymax"]].tolist() == [1, 2, 11, 22]
    assert read.films[["original_width", "original_height"]].isna().all(axis=None)


def test_width_and_height_beside_a_centre_are_no_original_size(study):
    rows = f"{A},0.5,0.5,0.1,0.2,Mass\n{B},,,,,Normal\n"
    read = rewrite(study, "filename,x_center,y_center,width,height,label\n" + rows)
    assert read.films[["original_width", "original_height"]].isna().all(axis=None)
    assert len(told(read, "the column 'width' looks like")) == 1


def test_a_box_of_words_is_listed(study):
    read = rewrite(study, f"filename,x,y,w,h,label\n{A},1 px,2,10,20,Mass\n{B},,,,,Normal\n")
    assert told(read, "missing or non-numeric side")["row"].tolist() == [2]


@pytest.mark.parametrize("column", ["patient_name", "Views", "Age at study", "labels2"])
def test_columns_that_look_like_known_ones_are_listed(study, column):
    read = rewrite(study, f"filename,label,{column}\n{A},Mass,x\n")
    assert len(told(read, f"the column '{column}' looks like")) == 1


def test_other_columns_that_are_not_used_are_listed(study):
    read = rewrite(study, f"filename,label,usage,Mass,birthday\n{A},Mass,test,1,1960\n")
    for name in ("usage", "Mass", "birthday"):
        assert len(told(read, f"the column '{name}' is not used")) == 1


def test_the_known_value_wins_and_what_disagrees_is_listed(study):
    rows = f"{A},Mass,,,\n{A},Edema,AP,F,58\n{B},Mass,PA,F,58\n{B},Edema,AP,M,85\n{C},Mass,,x,>89\n"
    read = rewrite(study, "filename,label,view,sex,age\n" + rows)
    assert read.films["view"].tolist() == ["AP", "", ""]
    assert read.films["sex"].tolist() == ["F", "", ""]
    assert (
        read.films["age"].tolist()[0] == 58 and read.films["age"].isna().tolist()[1:] == [True] * 2
    )
    for name in ("view", "sex", "age"):
        assert told(read, f"rows of one film disagree on {name}")["row"].tolist() == [4, 5]
    read = rewrite(study, f"filename,label,split\n{A},Mass,train\n{A},Edema,test\n{B},Mass,test\n")
    assert told(read, "rows of one film disagree on split")["row"].tolist() == [2, 3]


def test_words_that_are_not_understood_are_listed(study):
    read = rewrite(study, f"filename,label,sex,age\n{A},Mass,x,>89\n")
    assert told(read, "is not understood")["problem"].tolist() == [
        "age '>89' (1 rows) is not understood", "sex 'x' (1 rows) is not understood",
    ]  # fmt: skip


def test_words_for_views_sexes_and_ages():
    pa = "PA,pa,PA ERECT,posteroanterior,Posterior-Anterior,P-A,erect PA".split(",")
    ap = "AP,AP supine,AP_horizontal,AP AXIAL,Antero-posterior,A.P.,portable AP".split(",")
    ap += ["AP lateral decubitus"]
    lateral = "L,LL,RL,LATERAL,Lateral,left lateral,L-LAT,LLAT,Profil,seitlich".split(",")
    unknown = ["", "Frontal", "LLD", "RLO", "apical", "Left Lateral Decubitus", "AP/PA", "PA/LAT"]
    for words, view in ((pa, "PA"), (ap, "AP"), (lateral, "lateral"), (unknown, "")):
        assert set(map(name_view, words)) == {view}, words
    assert read_sex(pd.Series(["Woman", "w", "FEMALE", "Man", "mujer", ""])).tolist() == [
        "F", "F", "F", "M", "", "",
    ]  # fmt: skip
    ages = read_age(pd.Series(["58 years", "58,5", "58 yrs", "7y", ">89", "58 kg"]))
    np.testing.assert_array_equal(ages, [58, 58.5, 58, 7, np.nan, np.nan])


def test_laterals_leave_the_question_and_unknown_views_are_not_ap(study):
    table = f"filename,label,view\n{A},Mass,PA\n{B},{HEALTHY},%s\n{C},{HEALTHY},AP\n"
    read = rewrite(study, (table % "LL").replace("view", "Frontal/Lateral"))
    with pytest.warns(UserWarning, match="1 lateral films are left out of the question"):
        films = choose_films(read, "Mass")
    assert films["filename"].tolist() == [A, C]
    assert len(told(read, "1 lateral films are left out")) == 1
    counts = count_split(choose_films(rewrite(study, table % ""), "Mass"))
    assert counts["view unknown"].sum() == 1
    bare = rewrite(study, f"filename,label\n{A},Mass\n{B},{HEALTHY}\n")
    assert set(count_split(choose_films(bare, "Mass"))["AP share"]) == {"unknown"}


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("train/patient00001/study1/view2_lateral.png", "lateral"),
        ("train/patient00001/study1/view1_frontal.png", ""),
        ("sub-1/ses-2/sub-1_ses-2_vp-ap_cr.png", "AP"),
    ],
)
def test_names_of_files_say_the_view_where_no_row_does(study, name, view):
    (study / "images" / name).parent.mkdir(parents=True)
    shutil.move(study / "images" / A, study / "images" / name)
    table = f"filename,label,view\n{name},Mass,%s\n{B},Mass,PA\n"
    assert rewrite(study, table % "").films["view"].tolist() == [view, "PA"]
    read = rewrite(study, table % "PA")
    assert read.films["view"].tolist() == ["PA", "PA"]
    assert told(read, "the view is not that of")["row"].tolist() == ([2] if view else [])


def test_a_question_against_all_others(study):
    read = rewrite(study, f"filename,label\n{A},Mass\n{B},Edema\n{C},{HEALTHY}\n")
    assert choose_films(read, "mass")["filename"].tolist() == [A, C]
    assert choose_films(read, "mass", against="others")["target"].tolist() == [1, 0, 0]
    with pytest.raises(StudyError, match="against 'all': give 'No Finding' or 'others'"):
        choose_films(read, "mass", against="all")


# ------------------------------------------------------------------------------------- copies


def test_copies_are_left_out_and_their_patients_are_one(study):
    """As 00000001 is in training and 00000005 in test, a copy would stand on both sides."""
    for name in ("00000005_000.png", "00000005_001.png"):
        shutil.copy(study / "images" / A, study / "images" / name)
    Image.new("L", (40, 48), 9).save(study / "images" / "00000005_001.png")
    assert (split_of("00000001"), split_of("00000005")) == ("train", "test")
    rows = f"{A},Mass\n00000005_000.png,Mass\n00000005_001.png,Mass\n{B},{HEALTHY}\n"
    with pytest.warns(UserWarning, match="1 of 4 rows are left out"):
        read = rewrite(study, "filename,label\n" + rows)
    films = read.films.set_index("filename")
    assert films.index.tolist() == [A, "00000005_001.png", B]
    assert films.loc["00000005_001.png", ["patient", "split"]].tolist() == ["00000001", "train"]
    (problem,) = told(read, "same film, byte for byte")["problem"]
    assert (
        problem
        == f"same film, byte for byte, as '{A}' of patient '00000001', and the two count as one"
    )


def test_copies_with_other_labels_are_not_used_at_all(study):
    shutil.copy(study / "images" / A, study / "images" / B)
    with pytest.warns(UserWarning, match="2 of 3 rows are left out"):
        read = rewrite(study, f"filename,label\n{A},Mass\n{B},{HEALTHY}\n{C},{HEALTHY}\n")
    assert read.films["filename"].tolist() == [C]
    assert told(read, "and the labels differ")["row"].tolist() == [2, 3]


def test_links_to_one_file_are_copies_up_to_a_thousand(study):
    names = [f"{n:08}_000.png" for n in range(1, 1004)]
    for name in names[3:]:
        os.link(study / "images" / A, study / "images" / name)
    table = "filename,label\n" + "".join(f"{name},Mass\n" for name in [A, *names[3:]])
    read = rewrite(study, table)
    assert len(read.films) == 1001 and len(told(read, f"stands for '{A}' and 1000 films more")) == 1
    with pytest.warns(UserWarning, match="999 of 1000 rows"):
        assert len(rewrite(study, table.rsplit("\n", 2)[0]).films) == 1


# ------------------------------------------------------------------------------- the own split


@pytest.mark.parametrize(
    ("words", "sides"),
    [
        ("train test test", ["train", "test", "test"]),
        ("Training val TEST", ["train", "train", "test"]),
        ("train valid valid", ["train", "test", "test"]),
        ("train tuning holdout", ["train", "train", "test"]),
    ],
)
def test_a_column_splits_where_no_patient_crosses(study, words, sides):
    words = words.split()
    rows = "".join(f"{n},Mass,{w}\n" for n, w in zip((A, B, C), words, strict=True))
    read = rewrite(study, "filename,label,Split\n" + rows)
    assert read.films["split"].tolist() == sides
    assert read.split_rule == "the study's own column"


def test_a_patient_that_crosses_an_own_split_is_named(study):
    rows = f"{A},Mass,1,train\n{B},Mass,01,test\n{C},Mass,3,test\n"
    with pytest.raises(StudyError, match=r"own column would split 1 patients, such as '0*1', "):
        rewrite(study, "filename,label,patient,split\n" + rows)


def test_folders_split_unless_a_patient_crosses(study):
    names = [f"{side}/{name}" for side, name in zip(("train", "test"), (A, B), strict=True)]
    for name in names:
        (study / "images" / name).parent.mkdir()
        shutil.move(study / "images" / name.split("/")[1], study / "images" / name)
    table = "filename,label,patient\n{0},Mass,{2}\n{1},Mass,{3}\n"
    read = rewrite(study, table.format(*names, "x", "y"))
    assert read.films["split"].tolist() == ["train", "test"]
    assert read.split_rule == "the study's folders train and test"
    with pytest.warns(UserWarning, match="such as 'x', .* the patient's hash decides instead"):
        read = rewrite(study, table.format(*names, "x", "x"))
    assert read.films["split"].tolist() == [split_of("x")] * 2 and "SHA-256" in read.split_rule


def test_nihs_lists_split(study):
    rewrite(study, f"filename,label\n{A},Mass\n{B},{HEALTHY}\n{C},{HEALTHY}\n")
    (study / "train_val_list.txt").write_text(f"{A}\n99999999_000.png\n")
    (study / "test_list.txt").write_text(f"{B}\n")
    read = read_study(study)
    assert read.films["split"].tolist() == ["train", "test", split_of("00000003")]
    assert read.split_rule.startswith("NIH's lists")
    assert len(told(read, "1 films have no side in NIH's lists train_val_list.txt and")) == 1
