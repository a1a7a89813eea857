"""Publishers' tables and folders, each in small, with made-up rows."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxrlib.cli import main
from cxrlib.data.publishers import CLASSES, PUBLISHERS, WIDE
from cxrlib.data.study import StudyError, choose_films, read_study

BOX = ["xmin", "ymin", "xmax", "ymax"]
HEALTHY = "No Finding"
NIH = "Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position,"
NIH += "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
MIMIC = "mimic-cxr-2.0.0-"


def make(folder, tables, files, side=64):
    """Write tables by name, and a picture of its own for each file name."""
    rng = np.random.default_rng(0)
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side), np.uint8)).save(path)
    for name, text in tables.items():
        (folder / name).write_text(text)
    return folder


def labels(study):
    """{file's stem: labels}"""
    return {Path(f).stem: found for f, found in study.films.set_index("filename")["labels"].items()}


def said(study):
    return " ".join(study.problems["problem"])


def test_nih(tmp_path):
    rows = "00000001_000.png,Mass|Edema,1,58,M,PA,2682,2749,0.1,0.1\n"
    rows += "00000002_000.png,No Finding,2,414,F,AP,2500,2048,0.1,0.1\n"
    boxes = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000001_000.png,Mass,1.5,2,10,20\n"
    boxes += "00000009_000.png,Mass,1,2,10,20\n"
    tables = {"Data_Entry_2017.csv": NIH + rows.replace("Mass|", ""), "BBox_List_2017.csv": boxes}
    tables["Data_Entry_2017_v2020.csv"] = NIH + rows
    files = ["images_001/images/00000001_000.png", "images_002/images/00000002_000.png"]
    study = read_study(make(tmp_path, tables, files))
    assert labels(study) == {"00000001_000": ("Mass", "Edema"), "00000002_000": (HEALTHY,)}
    assert study.films["patient"].tolist() == ["00000001", "00000002"]
    assert study.films["original_height"].tolist() == [2749, 2048]
    assert study.findings[BOX].to_numpy()[0].tolist() == [1.5, 2, 11.5, 22]
    assert study.findings["xmin"].notna().sum() == 1 and "1 of 2 boxes" in said(study)
    assert "age '414' (1 rows) is not understood" in said(study)
    assert study.films["file"].tolist() == files
    (tmp_path / "Data_Entry_2017_v2020.csv").rename(tmp_path / "labels.csv")
    assert read_study(tmp_path).findings.equals(study.findings)


CHEXPERT = "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Cardiomegaly,Pleural Effusion,"
CHEXPERT += """Support Devices
V/train/patient00001/study1/view1_frontal.png,Female,68,Frontal,AP,1.0,,0.0,1.0
V/train/patient00001/study1/view2_lateral.png,Female,68,Lateral,,1.0,,,
V/train/patient00002/study1/view1_frontal.png,Male,50,Frontal,PA,,1.0,-1.0,
V/train/patient00003/study1/view1_frontal.png,Male,50,Frontal,AP,,-1.0,1.0,
V/train/patient00004/study1/view1_frontal.png,Male,50,Frontal,AP,,0.0,,
"""  # fmt: skip


def test_chexpert(tmp_path):
    files = re.findall(r"train/\S+png", CHEXPERT)
    study = read_study(make(tmp_path, {"train.csv": CHEXPERT}, files))
    assert study.films["patient"].nunique() == 4 and study.patients_from == "CheXpert (5 films)"
    assert study.films["view"].tolist() == ["AP", "lateral", "PA", "AP", "AP"]
    found = study.films["labels"].tolist()
    assert found == [(HEALTHY,), (HEALTHY,), ("Cardiomegaly",), ("Effusion",), ()]
    with pytest.warns(UserWarning, match="1 lateral"):
        films = choose_films(study, "Cardiomegaly", against="others")  # the third is in doubt
    assert films["patient"].tolist() == ["patient00001", "patient00002", "patient00004"]
    assert films["target"].tolist() == [0, 1, 0]
    more = CHEXPERT.replace("/train/patient0000", "/valid/patient0001")
    (tmp_path / "valid.csv").write_text(more)
    (tmp_path / "train_cheXbert.csv").write_text(CHEXPERT.replace("1.0", "0.0"))
    make(tmp_path, {}, re.findall(r"valid/\S+png", more), side=65)
    both = read_study(tmp_path)
    assert both.films["labels"].tolist() == found * 2 and "train_cheXbert.csv is not" in said(both)
    for words in ("2 films have an uncertain finding", "1 films have 'No Finding' and Support Dev"):
        assert words in said(study)


def test_mimic(tmp_path):
    tables = {
        "chexpert.csv": "subject_id,study_id,Cardiomegaly,No Finding\n10000032,50.0,1.0,\n"
        "10000033,51,,1.0\n",
        "metadata.csv": "dicom_id,subject_id,study_id,ViewPosition\na-1,10000032,50,PA\n"
        "a-2,10000032,50,LATERAL\nb-1,10000033,51,AP\n",
        "split.csv": "dicom_id,study_id,subject_id,split\na-1,50,10000032,train\n"
        "a-2,50,10000032,train\nb-1,51,10000033,validate\n",
    }  # fmt: skip
    tables = {MIMIC + name: text for name, text in tables.items()}
    files = [f"files/p10/p10000032/s50/a-{n}.jpg" for n in (1, 2)]
    study = read_study(make(tmp_path, tables, [*files, "files/p10/p10000033/s51/b-1.jpg"]))
    films = study.films
    assert films["patient"].tolist() == ["10000032", "10000032", "10000033"]
    assert films["view"].tolist() == ["PA", "lateral", "AP"]
    assert films["split"].tolist() == ["train", "train", "test"]
    assert study.split_rule == "the study's own column"
    other = tables[f"{MIMIC}chexpert.csv"].replace("1.0,\n", "0.0,\n")
    (tmp_path / f"{MIMIC}negbio.csv").write_text(other)
    again = read_study(tmp_path)
    assert again.findings.equals(study.findings) and f"{MIMIC}negbio.csv is not used" in said(again)
    paths = "subject_id,study_id,path,Cardiomegaly\n" + f"10000032,50,{files[0]},1\n"
    (tmp_path / "labels.csv").write_text(paths)
    assert labels(read_study(tmp_path)) == {"a-1": ("Cardiomegaly",)}
    (tmp_path / "labels.csv").unlink()
    films = tables[f"{MIMIC}metadata.csv"].replace(",5", ",7")
    (tmp_path / f"{MIMIC}metadata.csv").write_text(films)
    with pytest.raises(StudyError, match=r"chexpert\.csv: read as MIMIC-CXR-JPG, it has no film"):
        read_study(tmp_path)
    (tmp_path / f"{MIMIC}metadata.csv").unlink()
    with pytest.raises(StudyError, match=r"chexpert\.csv: .*put mimic-cxr-2\.0\.0-metadata\.csv"):
        read_study(tmp_path)


def test_rsna(tmp_path):
    rows = "patientId,x,y,width,height,Target\na-1,,,,,0\nb-1,1,2,10,20,1\nb-1,31,2,10,20,1.0\n"
    rows += "c-1,,,,,0\n"
    tables = {"stage_2_train_labels.csv": rows}
    make(tmp_path, tables, [f"stage_2_train_images/{n}-1.png" for n in "abc"])
    study = read_study(tmp_path)
    assert labels(study) == {"a-1": (HEALTHY,), "b-1": ("Pneumonia",), "c-1": (HEALTHY,)}
    assert study.findings[BOX].dropna().to_numpy().tolist() == [[1, 2, 11, 22], [31, 2, 41, 22]]
    assert study.films["original_width"].isna().all() and "may show another disease" in said(study)
    assert "patientId is one per film" in said(study)
    (tmp_path / "stage_1_train_labels.csv").write_text(rows.replace(",,,,,0", ",1,2,3,4,1"))
    (tmp_path / "stage_2_sample.csv").write_text(rows.split("b-1")[0])
    again = read_study(tmp_path)
    assert labels(again) == labels(study) and "stage_1_train_labels.csv, stage_2_sample" in said(
        again
    )
    classes = "patientId,class\na-1,Normal\nb-1,Lung Opacity\nc-1,No Lung Opacity / Not Normal\n"
    (tmp_path / "stage_2_detailed_class_info.csv").write_text(classes)
    headers = "PatientID,PatientSex,PatientAge,ViewPosition\na-1,F,43,PA\nb-1,M,58,AP\n"
    (tmp_path / "stage_2_headers.csv").write_text(headers)
    study = read_study(tmp_path)
    assert labels(study)["c-1"] == ("Not normal",)
    assert study.films["view"].tolist() == ["PA", "AP", ""]
    assert study.films["sex"].tolist() == ["F", "M", ""]
    assert study.films["age"].fillna(0).tolist() == [43, 58, 0]
    assert "sex, age and view of 2 films are those of" in said(study)


def test_vindr(tmp_path):
    votes = [
        *[f"a,No finding,14,R{n},,,," for n in (1, 2, 3)],
        *[f"b,Pleural effusion,10,R{n},{n},2,30,40" for n in (1, 2)],
        "b,Cardiomegaly,3,R3,1,2,3,4", "b,Nodule/Mass,8,R1,1,2,3,4", "b,Nodule/Mass,8,R3,1,2,3,5",
        *[f"c,{name},0,R{n},1,2,3,4" for n, name in enumerate(("ILD", "Fracture", "Mass"))],
    ]  # fmt: skip
    header = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"
    make(tmp_path, {"train.csv": header + "\n".join(votes)}, [f"train/{n}.png" for n in "abc"])
    with pytest.warns(UserWarning, match="nearly one patient per film"):
        study = read_study(tmp_path)
    assert labels(study) == {"a": (HEALTHY,), "b": ("Effusion", "Nodule/Mass"), "c": ()}
    assert set(study.films["doubt"][1]) == {"Cardiomegaly"}
    assert study.findings["xmin"].notna().sum() == 4
    assert "2 films have a finding that half of their readers or fewer saw" in said(study)
    assert "same row" not in said(study)
    test = "image_id,class_name,x_min,y_min,x_max,y_max\nd,Mass,1,2,30,40\ne,No finding,,,,\n"
    make(tmp_path, {"annotations_test.csv": test}, [f"test/{n}.png" for n in "de"], 65)
    both = read_study(tmp_path)
    assert labels(both) == labels(study) | {"d": ("Mass",), "e": (HEALTHY,)}
    assert both.split_rule == "the study's folders train and test"


def test_vindrs_votes_on_images(tmp_path):
    rows = [f"a,R{n},{int(n < 3)},{int(n == 3)},0\nb,R{n},0,0,1\n" for n in (1, 2, 3)]
    table = {"image_labels_train.csv": "image_id,rad_id,Mass,Edema,No finding\n" + "".join(rows)}
    with pytest.warns(UserWarning, match="nearly one patient per film"):
        study = read_study(make(tmp_path, table, [f"train/{n}.png" for n in "ab"]))
    assert labels(study) == {"a": ("Mass",), "b": (HEALTHY,)}
    assert study.films["doubt"].tolist() == [("Edema",), ()]


def test_siim(tmp_path):
    # Two columns of ten pixels, the second one column on, four rows lower.
    runs = f"{5 * 1024 + 100} 10 {1024 - 10 + 4} 10"
    rows = f"ImageId, EncodedPixels\n1.2.3,-1\n1.2.4,{runs}\n"
    files = ["train/1.2.7/1.2.8/1.2.3.png", "train/1.2.9/1.2.10/1.2.4.png"]
    make(tmp_path, {"train-rle.csv": rows}, files, 1024)
    with pytest.warns(UserWarning):
        study = read_study(tmp_path)
    assert labels(study) == {"1.2.3": (HEALTHY,), "1.2.4": ("Pneumothorax",)}
    assert study.findings[BOX].to_numpy()[1].tolist() == [5, 100, 7, 114]


def test_padchest(tmp_path):
    header = "ImageID,ImageDir,StudyDate_DICOM,PatientID,PatientBirth,PatientSex_DICOM,Projection,"
    header += "Labels\n"
    rows = [
        ("PA", "['normal']"), ("L", "['normal']"), ("COSTAL", "['normal']"),
        ("AP_horizontal", "['pleural effusion', 'unchanged', 'cardiomegaly']"),
        ("AP", "['exclude']"), ("PA", "['unchanged']"),
    ]  # fmt: skip
    text = "".join(
        f'{n}.png,0,20140915,{n // 2},1930.0,F,{view},"{found}"\n'
        for n, (view, found) in enumerate(rows)
    )
    study = read_study(
        make(tmp_path, {"labels_160K.csv": header + text}, [f"0/{n}.png" for n in range(6)])
    )
    assert labels(study) == {
        "0": (HEALTHY,), "1": (HEALTHY,), "3": ("Effusion", "Cardiomegaly"), "5": (),
    }  # fmt: skip
    assert study.films["view"].tolist() == ["PA", "lateral", "AP", "PA"]
    assert study.films["patient"].tolist() == ["0", "0", "1", "2"]
    assert set(study.films["age"]) == {84} and set(study.films["sex"]) == {"F"}
    assert "2 films of ribs, or marked" in said(study)


def test_covid_19(tmp_path):
    rows = "patientid,sex,age,finding,view,modality,folder,filename\n"
    rows += "1,M,65,Pneumonia/Viral/COVID-19,AP Supine,X-ray,images,a.png\n"
    rows += "1,M,65,Pneumonia/Viral/COVID-19,Axial,CT,volumes,b.png\n"
    rows += "2,F,30,No Finding,PA,X-ray,images,c.png\n3,F,30,todo,PA,X-ray,images,d.png\n"
    study = read_study(make(tmp_path, {"metadata.csv": rows}, [f"images/{n}.png" for n in "abcd"]))
    assert labels(study) == {"a": ("Pneumonia", "Viral", "COVID-19"), "c": (HEALTHY,)}
    assert study.films["view"].tolist() == ["AP", "PA"]
    assert "1 rows of CT and 1 without a finding" in said(study)
    (tmp_path / "metadata.csv").write_text(rows.replace("X-ray", "CT"))
    with pytest.raises(
        StudyError, match=r"metadata\.csv: read as COVID-19 .* no film with a label"
    ):
        read_study(tmp_path)


def test_tbx11k_as_csv_and_json(tmp_path):
    rows = (
        "fname,image_height,image_width,source,bbox,image_type\nh1.png,64,64,train,none,healthy\n"
    )
    rows += "\"t1.png\",64,64,train,\"{'xmin': 1, 'ymin': 2, 'width': 10, 'height': 20}\",tb\n"
    rows += "s1.png,64,64,val,none,sick_but_no_tb\n"
    make(tmp_path / "csv", {"data.csv": rows}, [f"images/{n}1.png" for n in "hts"])
    images = [{"id": n, "file_name": f"{f}1.png"} for n, f in enumerate(("health/h", "tb/t"))]
    coco = {"images": images, "annotations": [{"image_id": 1, "bbox": [1, 2, 10, 20]}]}
    files = ["imgs/health/h1.png", "imgs/tb/t1.png"]
    make(tmp_path / "json", {"train.json": json.dumps(coco)}, files)
    for name in ("csv", "json"):
        with pytest.warns(UserWarning):
            study = read_study(tmp_path / name)
        assert labels(study)["h1"] == (HEALTHY,) and labels(study)["t1"] == ("Tuberculosis",)
        assert study.findings[BOX].dropna().to_numpy().tolist() == [[1, 2, 11, 22]]
    assert read_study(tmp_path / "csv").films["split"].tolist() == ["train", "train", "test"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["chest/NORMAL/IM-0001-0001.jpeg", "chest/PNEUMONIA/person1_virus_6.jpeg"],
         {"IM-0001-0001": (HEALTHY,), "person1_virus_6": ("Pneumonia",)}),
        (["COVID/images/COVID-1.png", "COVID/lung masks/COVID-1.png", "Normal/images/Normal-1.png"],
         {"COVID-1": ("COVID",), "Normal-1": (HEALTHY,)}),
        (["CXR_png/CHNCXR_0001_0.png", "CXR_png/CHNCXR_0002_1.png", "mask/CHNCXR_0002_1_mask.png"],
         {"CHNCXR_0001_0": (HEALTHY,), "CHNCXR_0002_1": ("Tuberculosis",)}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*no patient_id")
def test_folders_and_names_that_are_classes(tmp_path, files, expected):
    beside = {"readme.csv": "a,b\n1,2\n", "CHNCXR_0001_0.txt": "male 45yrs"}
    beside["labels.txt"] = "0 NORMAL\n1 PNEUMONIA\n"  # a list of classes
    study = read_study(make(tmp_path, beside, files))
    assert labels(study) == expected and study.publisher == CLASSES
    assert "unreadable" not in said(study)


@pytest.mark.parametrize(
    "files", [["ill/a.png", "well/b.png"], ["a.png"], ["images_001/images/a.png"]]
)
def test_other_folders_are_refused_with_the_way_out(tmp_path, files):
    make(tmp_path, {"other.csv": "a,b\n1,2\n"}, files)
    words = r"labels\.csv does not exist\. .*not known: other\.csv \(a, b\)\..*classes where one is"
    with pytest.raises(StudyError, match=words):
        read_study(tmp_path)


def test_a_column_per_finding(tmp_path):
    rows = "Image,Patient,Cardiomegaly,Empyema\na.png,1,x,0\nb.png,2,0,1\nc.png,3,nein,0\n"
    rows += "d.png,4,0,nan\n"
    study = read_study(make(tmp_path, {"labels.csv": rows}, [f"images/{n}.png" for n in "abcd"]))
    assert labels(study) == {"a": ("Cardiomegaly",), "b": ("Empyema",), "c": (HEALTHY,), "d": ()}
    assert "1 films with 0 for each finding" in said(study)


def test_columns_of_0_and_1_that_are_known_are_no_findings(tmp_path):
    rows = "filename;sex;age;split;Cardiomegaly\na.png;1;1;train;1,0\nb.png;F;0;test;0,0\n"
    study = read_study(make(tmp_path, {"labels.csv": rows}, ["images/a.png", "images/b.png"]))
    assert labels(study) == {"a": ("Cardiomegaly",), "b": (HEALTHY,)}
    assert study.films["sex"].tolist() == ["", "F"] and "sex '1'" in said(study)


def test_a_question_whose_other_side_is_in_doubt_is_refused(tmp_path):
    rows = "filename,No Finding,Cardiomegaly\na.png,,1\nb.png,1,-1\n"
    study = read_study(make(tmp_path, {"labels.csv": rows}, ["images/a.png", "images/b.png"]))
    for against, which in (("No Finding", "labelled"), ("others", "without it")):
        with pytest.raises(StudyError, match=f"no film {which}.* 1 films are left out, since they"):
            choose_films(study, "Cardiomegaly", against)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [("a.csv", NIH + '"x', "mark open"), ("b.xlsx", "PK", "workbook")],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path, name, content, reason):
    make(tmp_path, {name: content}, ["images/a.png"])
    with pytest.raises(StudyError, match=f"does not exist, and .*{name} is .*{reason}"):
        read_study(tmp_path)


def test_the_studys_own_labels_come_first(tmp_path, make_tiny_study):
    make_tiny_study(tmp_path / "s", [("00000001_000.png", "Mass")])
    (tmp_path / "s" / "train.csv").write_text(CHEXPERT)
    assert read_study(tmp_path / "s").publisher == "labels.csv"


def test_the_command_shows_and_writes_what_is_understood(tmp_path, capsys):
    make(tmp_path, {"train.csv": CHEXPERT}, re.findall(r"train/\S+png", CHEXPERT))
    before = read_study(tmp_path)
    main(["study", str(tmp_path), "--write", str(tmp_path / "labels.csv")])
    shown = capsys.readouterr().out
    assert shown.endswith("labels.csv, without 1 radiographs that have no label\n")
    for words in (
        "table       CheXpert", "radiographs 5", "patients    4, from CheXpert", "lateral 1",
        "No Finding 2", "50 to 68 years", "F 2", "train, ", "SHA-256", "uncertain finding",
    ):  # fmt: skip
        assert words in shown, words
    after = read_study(tmp_path)
    kept = before.films[before.films["labels"] != ()]
    for name in ("filename", "patient", "view", "sex", "age", "labels", "doubt", "split"):
        assert after.films[name].tolist() == kept[name].tolist(), name
    with pytest.raises(SystemExit, match="exists: give a new file"):
        main(["study", str(tmp_path), "--write", str(tmp_path / "labels.csv")])


def test_the_docs_list_every_publisher():
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    names = re.findall(r"^\| ([^|]+?) \|", page.split("## Publishers")[1].split("##")[0], re.M)
    assert names[1:] == [*(p.name for p in PUBLISHERS), WIDE.name, CLASSES]
