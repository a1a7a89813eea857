"""Reading, checking and splitting a study."""

from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binom

from cxrlib.data.labels import NIH_FINDINGS
from cxrlib.data.patients import split_of
from cxrlib.data.study import NO_FINDING, StudyError, choose_films, count_split, read_study

FILM, OTHER = ("00000001_000.png", "Cardiomegaly"), ("00000002_000.png", NO_FINDING)


def read_quietly(folder, **options):
    with pytest.warns(UserWarning, match="are left out; `study.problems` says why"):
        return read_study(folder, **options)


def said(study):
    """What the problems say, as (row, problem, fix, outcome)."""
    return list(study.problems.drop(columns="filename").itertuples(index=False, name=None))


# ------------------------------------------------------------------------- the table as a whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"labels\.csv does not exist\. A study is a folder with labels\.csv and images/"),
        (b"", r"is empty\. It needs the columns filename and label"),
        (b"filename,label\n", r"has column names but no row\. Add one row a finding"),
        (b"filename,label\n,\n\n", r"has column names but no row"),
        (b"filename,finding\na.png,x\n", r"lacks the column label; it has filename, finding\. Re"),
        (b"file,finding\na.png,x\n", r"lacks the column filename and label; it has file, finding"),
        (b"filename,label, label\na.png,x,y\n", r"has two columns named 'label'\. Rename or"),
        (b"filename\\label\na.png\\x\n", r"it has filename.label\..* separate them by commas"),
        (
            b'filename,label\na.png,"x"y\n',
            r"is no comma-separated .*in line 2\. Is a quotation mark",
        ),
        (b"PK\x03\x04", r"is a workbook, not text\. Save it as 'CSV UTF-8'"),
        (b"\xd0\xcf\x11\xe0", r"is a workbook, not text"),
        (b"<html><table>", r"is a workbook, not text"),
        (b"filename,label\na.png,0\nb.png,1\n", r"the labels are 0 and 1, which name no finding"),
        (b"filename,label,Value\na.png,Mass,1\na.png,Hernia,0\n", r"'Value' says of each row"),
        (b"Path,Mass,Edema\na.png,maybe,0\n", r"'Mass' holds 'maybe': write 1, 0, -1 \(uncertain"),
        (
            b"filename,label\na.png,x\nb.png,x,y\n",
            r"has 2 column names, and more fields in line 3\. Na",
        ),
        (b"filename,label\na.png,x,y\n", r"has 2 column names, and more fields in line 2\. Name"),
        (b"filename,label\na.png,Mass\n", r"not one row can be used.*'file missing in images/'"),
    ],
)
def test_unusable_tables_say_why(tmp_path, content, message):
    if content is not None:
        (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(StudyError, match=message) as caught:
        read_study(tmp_path)
    assert str(tmp_path / "labels.csv") in str(caught.value)


def test_missing_folder(tmp_path):
    with pytest.raises(StudyError, match="nowhere/labels.csv does not exist"):
        read_study(tmp_path / "nowhere")


def test_two_columns_are_enough(make_tiny_study, tmp_path):
    make_tiny_study(tmp_path, [dict(zip(("filename", "label"), r, strict=True)) for r in (FILM,)])
    study = read_study(tmp_path)
    assert study.films.loc[0, ["filename", "view", "width", "height"]].tolist() == [
        FILM[0], "", 40, 48,
    ]  # fmt: skip
    assert study.films["labels"].tolist() == [("Cardiomegaly",)]
    assert study.findings[["xmin", "ymax"]].isna().all(axis=None)
    assert study.problems.empty


def test_a_number_beside_the_label_may_say_the_same(make_tiny_study, tmp_path):
    make_tiny_study(tmp_path, [FILM, OTHER])
    text = f"filename,label,target\n{FILM[0]},{FILM[1]},1\n{OTHER[0]},normal,0\n"
    (tmp_path / "labels.csv").write_text(text)
    assert read_study(tmp_path).films["labels"].tolist() == [(FILM[1],), ("No Finding",)]


def test_byte_order_mark_spaces_and_blank_lines_do_no_harm(make_tiny_study, tmp_path):
    make_tiny_study(tmp_path, [FILM, OTHER])
    text = f"\ufeff filename , label,view\n{FILM[0]} , {FILM[1]}, pa\n\n{OTHER[0]},{OTHER[1]}\n\n"
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    study = read_study(tmp_path)
    assert study.findings["label"].tolist() == [FILM[1], OTHER[1]]
    assert study.films["view"].tolist() == ["PA", ""]
    assert study.problems.empty


def test_nih_layout(medical):
    study = read_study(medical)
    table = pd.read_csv(medical / "labels.csv")
    assert study.problems.empty
    assert len(study.findings) == len(table)
    assert study.films["filename"].tolist() == table["filename"].unique().tolist()
    assert study.films["patient"].tolist() == study.films["filename"].str[:8].tolist()
    assert set(study.films["view"]) == {"PA", "AP"}
    np.testing.assert_array_equal(study.findings["xmax"], table["xmax"])


# --------------------------------------------------------------------------------- row by row


@pytest.mark.parametrize(
    ("row", "problem", "fix"),
    [
        (("00000003_000.png", "Mass"), "file missing in images/", "add the file or delete the row"),
        (("zebra.gif", "Mass"), "file missing in images/", "add the file or delete the row"),
        ((FILM[0], "Cardiomegally"), "unknown finding 'Cardiomegally'", "did you mean 'Cardiom"),
        ((FILM[0], "cardiomegly"), "unknown finding 'cardiomegly'", "did you mean 'Cardiomegaly'?"),
        ((FILM[0], ""), "no label", "name the finding, or 'No Finding'"),
        (("", "Mass"), "no file name", "name the image file"),
        (FILM, "same row as one above", "delete it"),
        (("../secret.png", "Mass"), "name leaves images/", "put the file into images/ and use"),
        (("a/../../secret.png", "Mass"), "name leaves images/", "put the file into images/"),
        (("/etc/passwd", "Mass"), "name leaves images/", "put the file into images/"),
        (("..\\secret.png", "Mass"), "name leaves images/", "put the file into images/"),
        (("\\\\server\\x.png", "Mass"), "name leaves images/", "put the file into images/"),
        (("C:\\films\\x.png", "Mass"), "name leaves images/", "put the file into images/"),
        (("C:x.png", "Mass"), "name leaves images/", "put the file into images/"),
        ((".", "Mass"), "file missing in images/", "add the file or delete the row"),
    ],
)
def test_bad_rows_are_left_out_with_their_line(make_tiny_study, tmp_path, row, problem, fix):
    make_tiny_study(tmp_path, [FILM, OTHER])
    table = pd.DataFrame([OTHER, FILM, row], columns=["filename", "label"])
    table.to_csv(tmp_path / "labels.csv", index=False)
    study = read_quietly(tmp_path)
    entries = [e for e in said(study) if e[1].startswith(problem)]
    assert len(entries) == 1
    # The header is line 1, so the third row stands on line 4.
    assert entries[0][0] == 4 and entries[0][2].startswith(fix)
    assert entries[0][3] == "row left out"
    assert set(study.problems["row"]) == {4}
    assert study.problems["filename"].eq(row[0]).all()
    assert study.findings[["filename", "label"]].to_numpy().tolist() == [[*OTHER], [*FILM]]


def test_lines_are_counted_past_blank_ones(make_tiny_study, tmp_path):
    make_tiny_study(tmp_path, [FILM])
    lines = ["filename,label", "", ",".join(FILM), "", "gone.png,Mass"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    assert said(read_quietly(tmp_path))[0][0] == lines.index("gone.png,Mass") + 1


def test_a_name_outside_is_never_opened(make_tiny_study, tmp_path):
    make_tiny_study(tmp_path / "study", [FILM])
    Image.new("L", (40, 48)).save(tmp_path / "secret.png")
    with (tmp_path / "study" / "labels.csv").open("a") as file:
        file.write("../../secret.png,Mass\n")
    assert read_quietly(tmp_path / "study").films["filename"].tolist() == [FILM[0]]


def test_unreadable_files(make_tiny_study, tmp_path):
    make_tiny_study(tmp_path, [FILM, OTHER])
    (tmp_path / "images" / FILM[0]).write_text("this is no picture")
    study = read_quietly(tmp_path)
    assert said(study)[0][:2] == (2, "unreadable: no JPEG, PNG, TIFF, BMP or DICOM image")
    assert study.films["filename"].tolist() == [OTHER[0]]


def test_a_truncated_jpeg_is_found_when_decoding(make_tiny_study, tmp_path):
    make_tiny_study(tmp_path, [("cut_0.jpg", "Mass"), OTHER], size=(200, 200))
    file = tmp_path / "images" / "cut_0.jpg"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert len(read_study(tmp_path).films) == 2  # headers do not tell
    study = read_quietly(tmp_path, decode=True)
    assert "truncated" in said(study)[0][1]
    assert study.films["filename"].tolist() == [OTHER[0]]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("cardiomegaly", "Cardiomegaly"),
        (" CARDIOMEGALY ", "Cardiomegaly"),
        ("Pleural Thickening", "Pleural_Thickening"),
        ("pleural-thickening", "Pleural_Thickening"),
        ("no finding", NO_FINDING),
        ("No_Finding", NO_FINDING),
        ("NoFinding", NO_FINDING),
    ],
)
def test_case_spaces_and_hyphens_are_forgiven(make_tiny_study, tmp_path, written, meant):
    make_tiny_study(tmp_path, [(FILM[0], written)])
    study = read_study(tmp_path)
    assert study.findings["label"].tolist() == [meant]
    assert study.problems.empty


def test_an_own_finding_is_kept_and_said_once(make_tiny_study, tmp_path):
    make_tiny_study(tmp_path, [(FILM[0], "Pacemaker"), ("00000003_000.png", "Pacemaker"), OTHER])
    study = read_study(tmp_path)
    assert said(study) == [
        (2, "'Pacemaker' (2 rows) is not one of NIH's findings",
         "none needed if it is your own finding", "kept"),
    ]  # fmt: skip
    assert choose_films(study, "pacemaker")["target"].tolist() == [1, 1, 0]


@pytest.mark.parametrize("beside", ["Mass", "Pacemaker", "Cardiomegally"])
def test_no_finding_beside_a_finding_leaves_the_film_out(make_tiny_study, tmp_path, beside):
    make_tiny_study(tmp_path, [("1_0.png", NO_FINDING), OTHER, ("1_0.png", beside)])
    study = read_quietly(tmp_path)
    told = study.problems[study.problems["problem"] == "'No Finding' beside a finding"]
    assert told["row"].tolist() == [2, 4]
    assert study.films["filename"].tolist() == [OTHER[0]]


def with_patients(*rows):
    return [dict(zip(("filename", "label", "patient_id"), r, strict=True)) for r in rows]


def test_the_patient_stands_in_its_column_or_before_the_first_underscore(make_tiny_study, tmp_path):
    names = ["A7_000_x.png", "B_1.png", "plain.png"]
    make_tiny_study(tmp_path / "by_name", [(name, "Mass") for name in names])
    assert read_study(tmp_path / "by_name").films["patient"].tolist() == ["A7", "B", "plain"]
    rows = with_patients(*[(name, "Mass", i) for name, i in zip(names, "007", strict=True)])
    make_tiny_study(tmp_path / "by_id", rows)
    films = read_study(tmp_path / "by_id").films
    assert films["patient"].tolist() == ["0", "0", "7"]
    assert films["split"].tolist() == [split_of("0"), split_of("0"), split_of("7")]


def test_a_patient_must_be_known_and_one(make_tiny_study, tmp_path):
    rows = with_patients(
        ("a.png", "Mass", "1"),
        ("a.png", "Edema", "2"),
        ("b.png", "Mass", "NaN"),
        ("c.png", "Mass", 3),
    )
    study = read_quietly(make_tiny_study(tmp_path, rows))
    assert [(row, problem) for row, problem, _, _ in said(study)] == [
        (2, "one image, two patients"), (3, "one image, two patients"), (4, "no patient_id"),
    ]  # fmt: skip
    assert study.films["filename"].tolist() == ["c.png"]


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ((0, 0, 40, 48), None),  # the whole image of 40 x 48 pixels
        ((1.5, 2, 30, 40), None),
        ((0, 0, 41, 48), "box leaves the image of 40 x 48 pixels"),
        ((0, 0, 40, 49), "box leaves the image of 40 x 48 pixels"),
        ((-1, 0, 40, 48), "box leaves the image of 40 x 48 pixels"),
        ((0, -1, 40, 48), "box leaves the image of 40 x 48 pixels"),
        ((10, 10, 10, 20), "box is empty"),
        ((10, 20, 20, 10), "box is empty"),
        ((0.1, 0.1, 0.5, 0.5), "box is empty"),
        (("ten", 10, 20, 20), "box has a missing or non-numeric side"),
        ((10, 10, 20, None), "box has a missing or non-numeric side"),
    ],
)
def test_boxes(make_tiny_study, tmp_path, box, problem):
    make_tiny_study(tmp_path, [OTHER, (*FILM, *box)])
    study = read_study(tmp_path)
    assert [(row, told) for row, told, _, _ in said(study)] == ([(3, problem)] if problem else [])
    assert study.problems["outcome"].eq("box left out").all()
    expected = [np.nan] * 4 if problem else box
    found = study.findings.loc[1, ["xmin", "ymin", "xmax", "ymax"]].astype(float)
    np.testing.assert_array_equal(found, np.array(expected, float))


def test_a_box_beside_no_finding_is_no_box(make_tiny_study, tmp_path):
    make_tiny_study(tmp_path, [FILM, (OTHER[0], NO_FINDING, 0, 0, 1, 1)])
    study = read_study(tmp_path)
    assert [told for _, told, _, _ in said(study)] == ["box beside 'No Finding'"]
    assert study.findings["xmin"].isna().all()


# ------------------------------------------------------------------------------- the question


@pytest.fixture(scope="module")
def several(make_tiny_study, tmp_path_factory):
    """Films with several findings, one finding, another finding and none."""
    rows = [
        ("1_0.png", "Cardiomegaly"), ("1_0.png", "Effusion"), ("2_0.png", "Cardiomegaly"),
        ("3_0.png", "Effusion"), ("4_0.png", NO_FINDING), ("5_0.png", NO_FINDING),
    ]  # fmt: skip
    return read_study(make_tiny_study(tmp_path_factory.mktemp("several") / "study", rows))


def test_films_with_several_findings_stand_once(several):
    assert several.films["filename"].tolist() == [f"{n}_0.png" for n in range(1, 6)]
    assert several.films.loc[0, "labels"] == ("Cardiomegaly", "Effusion")
    assert len(several.findings) == 6


@pytest.mark.parametrize(
    ("finding", "targets"),
    [
        ("Cardiomegaly", {"1_0.png": 1, "2_0.png": 1, "4_0.png": 0, "5_0.png": 0}),
        ("effusion", {"1_0.png": 1, "3_0.png": 1, "4_0.png": 0, "5_0.png": 0}),
    ],
)
def test_a_question_holds_the_finding_against_no_finding(several, finding, targets):
    films = choose_films(several, finding)
    assert dict(zip(films["filename"], films["target"], strict=True)) == targets


@pytest.mark.parametrize(
    ("finding", "message"),
    [
        ("Cardiomegally", r"has no film with it\. Did you mean 'Cardiomegaly'\? It has Card"),
        ("Hernia", r"no film with it\. It has Cardiomegaly \(2\), Effusion \(2\)\."),
        (NO_FINDING, r"finding 'No Finding': .* has no film with it"),
    ],
)
def test_a_finding_without_a_positive(several, finding, message):
    with pytest.raises(StudyError, match=message):
        choose_films(several, finding)


def test_nothing_to_hold_a_finding_against(make_tiny_study, tmp_path):
    study = read_study(make_tiny_study(tmp_path, [FILM]))
    with pytest.raises(StudyError, match=r"no film labelled 'No Finding' to hold against 'Card"):
        choose_films(study, "Cardiomegaly")


def test_count_split(medical):
    films = choose_films(read_study(medical), "Cardiomegaly")
    counts = count_split(films)
    assert counts.index.tolist() == ["train", "test"]
    test = films[films["split"] == "test"]
    assert counts.loc["test", ["films", "patients", "positives"]].tolist() == [
        len(test), test["patient"].nunique(), test["target"].sum(),
    ]  # fmt: skip
    assert counts.loc["test", "AP share"] == round((test["view"] == "AP").mean(), 3)


# ---------------------------------------------------------------------------------- the split


@pytest.mark.parametrize(
    ("patient", "side"),
    [
        ("00000001", "train"),
        ("00000005", "test"),
        ("00000008", "train"),
        ("1", "test"),
        ("2", "train"),
        ("4", "test"),
        ("é", "test"),
        ("Müller 7", "test"),
        ("00000005", "test"),
        ("00000011", "test"),
        ("00000020", "test"),
    ],
)
def test_patients_keep_their_side_for_ever(patient, side):
    """A changed salt, hash or share moves films that were trained on into the test."""
    assert split_of(patient) == side


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.integers(0, 2), st.sampled_from(NIH_FINDINGS[:3])),
        min_size=2, max_size=12, unique=True,
    ),
    st.data(),
)  # fmt: skip
def test_no_patient_crosses_whatever_part_of_a_study_is_read(
    make_tiny_study, tmp_path_factory, films, data
):
    rows = [(f"{patient}_{n}.png", finding) for patient, n, finding in films]
    part = data.draw(st.lists(st.sampled_from(rows), min_size=1, unique=True))
    whole, some = (
        read_study(make_tiny_study(tmp_path_factory.mktemp("s") / "s", chosen)).films
        for chosen in (rows, part)
    )
    assert whole.groupby("patient")["split"].nunique().eq(1).all()
    sides = whole.set_index("filename")["split"]
    assert some["split"].tolist() == sides[some["filename"]].tolist()
    assert all(side == split_of(PurePosixPath(f).stem[0]) for f, side in sides.items())


@pytest.mark.parametrize("pattern", ["{:08d}", "{}", "P-{:x}"])
def test_a_quarter_of_patients_goes_to_test(pattern):
    ids = [pattern.format(n) for n in range(20_000)]
    count = sum(split_of(patient) == "test" for patient in ids)
    low, high = binom.interval(1 - 1e-6, len(ids), 0.25)
    assert low <= count <= high


@pytest.mark.parametrize("finding", ["Cardiomegaly", "Effusion"])
def test_the_finding_moves_nobody(medical, finding):
    films = choose_films(read_study(medical), finding)
    assert films["split"].tolist() == films["patient"].map(split_of).tolist()
