"""A film as DICOM, in every encoding, is the film; and nothing of its header goes further."""

import hmac
import io
import json
import logging
import shutil
import traceback
import tracemalloc
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from pydicom import Dataset, dcmread, encaps, uid
from pydicom import data as pydicom_data
from pydicom.pixels import compress
from pydicom.sequence import Sequence

import cxrlib as cxr  # lazily: most of these tests need no TensorFlow
from cxrlib.data import bounds, dicom, images
from cxrlib.data.files import is_film, walk_films
from cxrlib.data.images import ImageError, film_digest, image_size, read_image, view_of
from cxrlib.data.study import read_study
from dicoms import SECRET, write


@pytest.fixture(scope="module")
def film(medical):
    """A film of the bundled study, uint8 (512, 512)."""
    return np.asarray(Image.open(medical / "images" / "00060001_000.jpg").convert("L"))


# --------------------------------------------------------------------------------- grey values

LOSSLESS = [
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
]


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda s: s.name)
def test_every_lossless_encoding_gives_the_film(tmp_path, film, syntax, bits):
    film = film[100:330, 100:320]
    stored = np.rint(film / 255 * (2**bits - 1)).astype(np.uint16)
    path = write(tmp_path / "film.dcm", stored, bits, syntax)
    np.testing.assert_allclose(read_image(path), film / 255, atol=1 / 2**bits)
    Image.fromarray(film).save(tmp_path / "film.png")
    reduced = read_image(tmp_path / "film.png", 64)
    np.testing.assert_allclose(read_image(path, 64), reduced, atol=1 / 2**bits)
    assert image_size(path) == film.shape[::-1] and view_of(path) == "PA"


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEG2000], ids=lambda s: s.name)
def test_lossy_encodings_are_close(tmp_path, film, syntax):
    path = write(tmp_path / "film.dcm", film, 8, syntax)
    assert np.abs(read_image(path) - film / 255).mean() < 0.01


def test_near_lossless_jpeg_ls(tmp_path, film):
    path = write(tmp_path / "film.dcm", film)
    data = dcmread(path)
    compress(data, uid.JPEGLSNearLossless, jls_error=2)
    data.save_as(path)
    np.testing.assert_allclose(read_image(path), film / 255, atol=2.01 / 255)


RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)
PADDED = np.where(RAMP < 9, 0, RAMP * 16) / 4095


@pytest.mark.parametrize(
    ("values", "bits", "elements", "expected"),
    [
        (RAMP, 8, {"PhotometricInterpretation": "MONOCHROME1"}, 1 - RAMP / 255),
        (
            RAMP,
            8,
            {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"},
            1 - RAMP / 255,
        ),
        (RAMP, 8, {"PresentationLUTShape": "IDENTITY"}, RAMP / 255),
        (RAMP, 8, {"RescaleSlope": 2, "RescaleIntercept": -7}, RAMP / 255),
        (RAMP, 8, {"RescaleSlope": -1, "RescaleIntercept": 255}, 1 - RAMP / 255),
        # A window of 64 to 191: PS3.3 C.11.2.1.2.1 with centre 128 and width 128
        (RAMP, 8, {"WindowCenter": 128, "WindowWidth": 128}, (RAMP - 64.0) / 127),
        (RAMP, 8, {"WindowCenter": [128, 9], "WindowWidth": [128, 1]}, (RAMP - 64.0) / 127),
        (
            RAMP,
            8,
            {
                "WindowCenter": 1280,
                "WindowWidth": 1271,
                "RescaleSlope": 10,
                "RescaleIntercept": 0,
            },
            (10.0 * RAMP - 1279.5) / 1270 + 0.5,
        ),
        (
            RAMP,
            8,
            {"WindowCenter": 128, "WindowWidth": 60, "VOILUTFunction": "SIGMOID"},
            1 / (1 + np.exp(-4 * (RAMP - 128.0) / 60)),
        ),
        (RAMP.astype(np.int16) - 128, 8, {}, RAMP / 255),
        (RAMP * 16, 12, {}, RAMP * 16 / 4095),
        (RAMP * 16, 16, {}, RAMP * 16 / 4095),  # as for a PNG: no value needs more than 12 bits
        (RAMP * 4, 12, {}, RAMP * 4 / 1023),
        (RAMP * 4, 12, {"PhotometricInterpretation": "MONOCHROME1"}, 1 - RAMP * 4 / 1023),
        (RAMP * 256, 16, {}, RAMP * 256 / 65535),
        (RAMP.astype(np.int16) * 16 - 2048, 16, {}, RAMP * 16 / 4095),
        (RAMP.astype(np.int16) * 64, 16, {}, RAMP * 64 / 16383),
        (4095 - RAMP * 16, 16, {"PhotometricInterpretation": "MONOCHROME1"}, RAMP * 16 / 4095),
        (65535 - RAMP * 16, 16, {"PhotometricInterpretation": "MONOCHROME1"}, RAMP * 16 / 4095),
        (RAMP, 8, {"PhotometricInterpretation": "monochrome2"}, RAMP / 255),
        # What is empty or has no width says nothing.
        (RAMP, 8, {"RescaleSlope": "", "RescaleIntercept": ""}, RAMP / 255),
        (RAMP, 8, {"RescaleSlope": 0, "RescaleIntercept": 7}, RAMP / 255),
        (RAMP, 8, {"WindowCenter": 0, "WindowWidth": 0}, RAMP / 255),
        (RAMP, 8, {"WindowCenter": "", "WindowWidth": ""}, RAMP / 255),
        (RAMP, 8, {"WindowCenter": 128, "WindowWidth": 1}, RAMP >= 128),
        # Padding is black and decides nothing.
        (np.where(RAMP < 9, 65535, RAMP * 16), 16, {"PixelPaddingValue": 65535}, PADDED),
    ],
)
def test_values_as_a_viewer_shows_them(tmp_path, values, bits, elements, expected):
    path = write(tmp_path / "film.dcm", values, bits, **elements)
    np.testing.assert_allclose(read_image(path), np.clip(expected, 0, 1), atol=1e-6)


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("left", ["meta", "preamble", "data set"])
def test_a_file_that_names_no_transfer_syntax(tmp_path, film, left, implicit):
    data = dcmread(write(tmp_path / "film.dcm", film * 16.0, 12))
    for name in ("TransferSyntaxUID",) if left == "meta" else list(data.file_meta.keys()):
        del data.file_meta[name]
    if left == "data set":
        data.preamble = None
    path = tmp_path / ("film" if left == "data set" else "film.dcm")
    data.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    np.testing.assert_allclose(read_image(path), film * 16.0 / 4095, atol=1e-6)
    assert image_size(path) == film.shape[::-1] and is_film(path)


@pytest.mark.parametrize(("view", "side"), [("PA ERECT", "PA"), ("AP_SUPINE", "AP"), ("LLO", "")])
def test_views_of_several_words(tmp_path, view, side):
    assert view_of(write(tmp_path / "film.dcm", RAMP, ViewPosition=view)) == side


@pytest.mark.parametrize(
    "elements, expected",
    [
        ({"ImagerPixelSpacing": ["0.2", "0.2"], "PixelSpacing": ["0.14", "0.14"]}, 0.14),
        ({"ImagerPixelSpacing": ["0.2", "0.2"]}, 0.2),
        ({"PixelSpacing": ["0", "0"]}, None),
        ({}, None),
    ],
)
def test_millimetres_are_the_patients_before_the_detectors(tmp_path, film, elements, expected):
    path = write(tmp_path / "film.dcm", film, **elements)
    assert dicom.read_spacing(path) == expected


@pytest.mark.parametrize("first", [0, 56])
def test_voi_lut(tmp_path, first):
    item = Dataset()
    item.LUTDescriptor = [200, first, 12]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = (np.arange(200) ** 2 // 10).tolist()
    item["LUTData"].VR = "US"
    path = write(tmp_path / "film.dcm", RAMP, VOILUTSequence=Sequence([item]))
    curve = np.clip(RAMP.astype(int) - first, 0, 199) ** 2 // 10
    np.testing.assert_allclose(read_image(path), curve / 4095, atol=1e-6)


def test_what_old_files_keep_in_unused_bits_is_cut_off(tmp_path):
    values = RAMP * 16
    path = write(tmp_path / "film.dcm", values, 12)
    data = dcmread(path)
    data.PixelData = (values | 0x8000).tobytes()
    data.save_as(path)
    np.testing.assert_allclose(read_image(path), RAMP * 16 / 4095, atol=1e-6)


# ------------------------------------------------------------------------------------- scoring


def test_the_same_film_scores_the_same(small_run, tmp_path, film):
    Image.fromarray(film).save(tmp_path / "a.png")
    write(tmp_path / "b.dcm", film)
    write(tmp_path / "c.dcm", film * 16.0, 12, uid.JPEG2000Lossless)
    write(tmp_path / "d.dcm", 255 - film, PhotometricInterpretation="MONOCHROME1")
    write(tmp_path / "e.dcm", film, syntax=uid.JPEGBaseline8Bit)
    write(tmp_path / "1.2.840.5", film, syntax=uid.RLELossless)
    shutil.copy(tmp_path / "b.dcm", tmp_path / "f")
    write(tmp_path / "g.dcm", film, ViewPosition="LL")
    write(tmp_path / "h.dcm", film * 4.0, 10)
    Image.fromarray(film.astype(np.uint16) * 64).save(tmp_path / "i.png")  # 14 bits
    white = 65535 - film.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "j.tif", white, photometric="miniswhite")
    write(tmp_path / "DICOMDIR", film)
    scores = cxr.score_films(small_run, [tmp_path]).set_index("path")
    scores.index = [path.rsplit("/", 1)[1] for path in scores.index]
    films = ["1.2.840.5", "a.png", "b.dcm", "c.dcm", "d.dcm", "e.dcm", "f", "g.dcm"]
    films += ["h.dcm", "i.png", "j.tif"]
    assert scores.index.tolist() == films
    lateral = scores.loc["g.dcm"]
    assert (lateral["status"], lateral["decision"]) == ("refused", "")
    assert lateral["reason"] == "a lateral radiograph, by its DICOM header"
    rest = scores.drop("g.dcm")
    assert rest["status"].eq("ok").all()
    assert np.ptp(rest["probability"]) < 0.01
    assert SECRET not in scores.to_csv() and "1901" not in scores.to_csv()


def test_a_film_in_memory_is_read_as_the_file(tmp_path, film):
    write(tmp_path / "a.dcm", film)
    content = io.BytesIO((tmp_path / "a.dcm").read_bytes())
    content.seek(200)
    for _ in range(2):  # wherever the last reader stopped
        assert image_size(content) == (512, 512)
        assert (read_image(content, 99) == read_image(tmp_path / "a.dcm", 99)).all()


def test_a_study_of_dicom_takes_views_from_the_headers(tmp_path, film):
    (tmp_path / "images").mkdir()
    write(tmp_path / "images" / "p1_0.dcm", film, ViewPosition="AP")
    write(tmp_path / "images" / "p2_0.dcm", film, ViewPosition="")
    table = "filename,label\np1_0.dcm,Effusion\np2_0.dcm,No Finding\n"
    (tmp_path / "labels.csv").write_text(table)
    films = read_study(tmp_path).films
    assert films["view"].tolist() == ["AP", ""]
    assert films["width"].tolist() == [512, 512]


# ------------------------------------------------------------------------------------- privacy


def test_keys_are_of_pixels_and_not_of_headers(tmp_path, film):
    one = write(tmp_path / "one.dcm", film)
    two = write(tmp_path / "two.dcm", film, PatientName="Somebody^Else")
    other = write(tmp_path / "other.dcm", film // 2)
    assert one.read_bytes() != two.read_bytes()
    assert film_digest(one) == film_digest(two) != film_digest(other)
    backbone = cxr.load_backbone("EfficientNetLite2", image_size=128, layer="stage1")
    cxr.extract_features(backbone, [one, two, other], grid=5, cache=tmp_path / "cache")
    (kept,) = (tmp_path / "cache").rglob("*.npy")
    assert len(np.load(kept)) == 2


DAMAGE = {
    "Rows": "",
    "BitsStored": 0,
    "WindowWidth": 0,
    "NumberOfFrames": 3,
    "SamplesPerPixel": 3,
    "Modality": "CT",
    "PixelData": None,
}


def test_no_header_field_reaches_an_error_a_warning_or_a_log(tmp_path, film, caplog, capfd):
    """Damaged in every way tried, and wherever a header field is quoted by pydicom."""
    whole = write(tmp_path / "film.dcm", film[:64, :64], Modality=SECRET.upper()[:5]).read_bytes()
    good = write(tmp_path / "film.dcm", film[:64, :64], WindowCenter=1, WindowWidth=9).read_bytes()
    rng, said = np.random.default_rng(0), []
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for content in [whole, *[good] * 150]:
            damaged = bytearray(content)
            if content is good:
                for at in rng.integers(0, 1400, rng.integers(1, 9)):
                    damaged[at] = rng.integers(256)
            (tmp_path / "film.dcm").write_bytes(damaged)
            try:
                assert len(dicom.patient_key(tmp_path / "film.dcm")) in (0, 16)
            except ValueError as error:
                said.append(str(error))
            try:
                values = read_image(tmp_path / "film.dcm", 32)
                assert values.shape == (32, 32) and 0 <= values.min() and values.max() <= 1
            except ImageError as error:
                said.append("".join(traceback.format_exception(error)))
                said.append(error.reason)
    assert len(said) > 10
    told = "\n".join([*said, *(str(w.message) for w in caught), caplog.text, *capfd.readouterr()])
    for secret in (SECRET, "ZZYZX", "Quirine", "1901"):
        assert secret not in told
    assert not caplog.records


def test_identifying_elements_are_not_even_read(tmp_path, film, monkeypatch):
    path = write(tmp_path / "film.dcm", film)
    header = dicom._read(path, pixels=True)
    assert SECRET not in str(header) and "1901" not in str(header)
    assert json.dumps(dicom.read_header(path)) == json.dumps((512, 512, "PA"))


def test_a_patient_has_a_key_and_the_number_is_not_in_it(tmp_path, film):
    def key(number):
        return dicom.patient_key(write(tmp_path / "film.dcm", film[:8, :8], PatientID=number))

    expected = hmac.new(b"cxrlib patient", b"ab60001", "sha256").hexdigest()[:16]
    assert {key(n) for n in ("ab60001", " AB60001 ", "00ab 60001")} == {expected}
    assert len({key(n) for n in ("1", "2", "0", "a\\b", "é")}) == 5
    assert key("") == key("  ") == key(None) == ""


def test_what_has_no_patient_has_no_key(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "film.png")
    (tmp_path / "text.dcm").write_text("this is not a film " * 40)
    assert {dicom.patient_key(tmp_path / n) for n in ("film.png", "text.dcm", "gone")} == {""}


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"NumberOfFrames": 2}, "several frames: give single radiographs"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "in colour: give grey ones"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "in colour: give grey ones"),
        ({"PixelData": None}, "without pixels"),
        ({"PhotometricInterpretation": None}, "without PhotometricInterpretation"),
        ({"BitsStored": None}, "without BitsStored"),
        ({"BitsStored": 4, "HighBit": 7}, "missing, damaged"),
        ({"Rows": 0}, "without pixels"),
        ({"Modality": "CT"}, "modality CT, not a radiograph"),
        ({"Modality": "QUIRINE"}, "modality of another kind, not a radiograph"),
        ({"PixelAspectRatio": [2, 1]}, "pixels are not square: scale it"),
        ({"ImagerPixelSpacing": ["0.4", "0.2"]}, "pixels are not square: scale it"),
        (
            {"Rows": 65535, "Columns": 65535},
            "too large to be a radiograph: more than 50,000,",
        ),
        ({"Rows": 600}, "missing, damaged"),
    ],
)
def test_what_is_no_single_grey_radiograph_is_refused(tmp_path, elements, reason):
    path = write(tmp_path / "film.dcm", RAMP, **elements)
    with pytest.raises(ImageError, match=reason):
        read_image(path)


def test_compressed_pixels_without_a_transfer_syntax(tmp_path, film):
    data = dcmread(write(tmp_path / "film.dcm", film, syntax=uid.RLELossless))
    del data.file_meta.TransferSyntaxUID
    data.save_as(
        tmp_path / "film.dcm", implicit_vr=False, little_endian=True, enforce_file_format=False
    )
    with pytest.raises(ImageError, match="without the name of their transfer syntax"):
        read_image(tmp_path / "film.dcm")


def test_a_box_without_length_is_not_waited_for(tmp_path, film):
    """pydicom steps over boxes of JPEG 2000, and would never come over this one."""
    path = write(tmp_path / "film.dcm", film[:64, :64], syntax=uid.JPEG2000Lossless)
    data, buffer = dcmread(path), io.BytesIO()
    Image.fromarray(film[:64, :64]).save(buffer, "JPEG2000")
    whole = buffer.getvalue()
    for content in (whole, whole[:12] + bytes(4) + whole[16:]):
        data.PixelData = encaps.encapsulate([content])
        data.save_as(path)
        if content == whole:
            np.testing.assert_allclose(read_image(path), film[:64, :64] / 255, atol=1e-6)
    with pytest.raises(ImageError, match="missing, damaged, or encoded"):
        read_image(path)


SIZES = [("Rows", 32), ("Columns", 65), ("Rows", 128)]


@pytest.mark.parametrize(("side", "size"), SIZES)
@pytest.mark.parametrize(
    "syntax",
    [uid.JPEG2000Lossless, uid.JPEG2000, uid.JPEGLSLossless, uid.JPEGBaseline8Bit],
    ids=lambda s: s.name,
)
def test_a_frame_of_another_size_than_the_header_says_is_not_decoded(
    tmp_path, film, syntax, side, size, monkeypatch
):
    path = write(tmp_path / "film.dcm", film[:64, :64], syntax=syntax)
    read_image(path)
    data = dcmread(path)
    setattr(data, side, size)
    data.save_as(path)
    monkeypatch.setattr(Dataset, "pixel_array", property(lambda _: pytest.fail("was decoded")))
    with pytest.raises(ImageError, match="missing, damaged, or encoded"):
        read_image(path)


def test_a_small_file_does_not_become_a_large_one(tmp_path, film):
    deflated = write(tmp_path / "a.dcm", RAMP, syntax=uid.DeflatedExplicitVRLittleEndian)
    data = dcmread(deflated)
    data.PixelData = bytes(2**27)
    data.save_as(deflated)
    runs = write(tmp_path / "b.dcm", RAMP, syntax=uid.RLELossless)
    data = dcmread(runs)
    frame = (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56)
    data.PixelData = encaps.encapsulate([frame + b"\x81\0" * 2**19])
    data.save_as(runs)
    tracemalloc.start()
    try:
        for path in (deflated, runs):
            assert path.stat().st_size < 2**21
            for read in (image_size, view_of):
                read(path)
            with pytest.raises(ImageError, match="DICOM"):
                read_image(path)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()


def test_a_dicom_file_may_have_so_many_bytes(tmp_path, film, monkeypatch):
    path = write(tmp_path / "film.dcm", film)
    monkeypatch.setattr(bounds, "BYTES", path.stat().st_size - 1)
    for read in (read_image, image_size, view_of):
        with pytest.raises(ImageError, match="too large to be a radiograph: more than 26.,... byt"):
            read(path)


def test_dicom_films_in_flight_are_weighed_too(tmp_path, film, monkeypatch):
    weighed = []

    @contextmanager
    def noted(pixels):
        weighed.append(pixels)
        yield

    monkeypatch.setattr(images, "room", noted)
    path = write(tmp_path / "film.dcm", film[:100, :60])
    read_image(path)
    film_digest(path)
    assert weighed == [6000] * 2


def test_neither_text_nor_a_missing_file(tmp_path):
    (tmp_path / "text.dcm").write_text("this is no film " * 40)
    (tmp_path / "empty.dcm").write_text("")
    for name in ("text.dcm", "empty.dcm"):
        with pytest.raises(ImageError, match=r"\.dcm: (a|no) DICOM file"):
            read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="gone.dcm"):
        read_image(tmp_path / "gone.dcm")
    assert is_film(tmp_path / "text.dcm") and not is_film(tmp_path / "gone")


@pytest.mark.parametrize("kind", [b"FD", b"CX"])
def test_a_view_of_another_kind_says_nothing_of_what_follows_it(tmp_path, film, kind):
    path = write(tmp_path / "film.dcm", film, ViewPosition="PA")
    content = bytearray(path.read_bytes())
    place = content.index(b"\x18\x00\x01\x51CS")
    content[place + 4 : place + 8] = kind + (28).to_bytes(2, "little")
    path.write_bytes(content)
    for read in (image_size, read_image, view_of):
        with pytest.raises(ImageError) as caught:
            read(path)
        assert caught.value.reason == "no DICOM file that can be read"


def test_without_pydicom_the_way_out_is_named(tmp_path, film, monkeypatch):
    path = write(tmp_path / "film.dcm", film)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(ImageError, match=r"pip install '\.\[dicom\]' in a clone"):
        read_image(path)


# ------------------------------------------------------------------------ pydicom's own files

OWN = [str(path) for path in Path(pydicom_data.__file__).with_name("test_files").glob("*.dcm")]


def test_every_file_of_pydicom_is_read_or_refused_in_a_sentence():
    outcome = []
    for path in OWN:
        try:
            values = read_image(path, 64)
            assert values.shape == (64, 64) and 0 <= values.min() <= values.max() <= 1
            outcome.append("read")
        except ImageError as error:
            assert error.reason.count("DICOM") == 1, error
            outcome.append(error.reason.split(",")[0])
    counts = pd.Series(outcome).value_counts()
    assert counts["a DICOM film in colour: give grey ones (MONOCHROME1 or MONOCHROME2)"] > 10
    assert counts["DICOM modality CT"] >= 3 and counts["DICOM modality MR"] > 3
    assert counts.sum() == len(OWN) > 60


@pytest.mark.parametrize(
    "name",
    [
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_jp2klossless.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "MR_small_implicit.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_expb.dcm",
    ],
)
def test_other_makers_encodings_agree(tmp_path, name):
    """One slice in the encodings of several programs; called CR, since MR is refused."""
    path = next(path for path in OWN if path.endswith(f"/{name}"))
    data, plain = dcmread(path), dcmread(next(p for p in OWN if p.endswith("/MR_small.dcm")))
    data.Modality = "CR"
    data.save_as(tmp_path / "film.dcm")
    width, centre = float(plain.WindowWidth), float(plain.WindowCenter)
    expected = (plain.pixel_array - (centre - 0.5)) / (width - 1) + 0.5
    np.testing.assert_allclose(
        read_image(tmp_path / "film.dcm"), np.clip(expected, 0, 1), atol=1e-6
    )


@pytest.mark.parametrize("name", ["JPGExtended.dcm", "JPEG2000.dcm"])
def test_other_makers_lossy_pixels_are_decoded(tmp_path, name):
    data = dcmread(next(path for path in OWN if path.endswith(f"/{name}")))
    data.Modality = "CR"
    data.save_as(tmp_path / "film.dcm")
    values, stored = read_image(tmp_path / "film.dcm"), data.pixel_array
    assert values.shape == stored.shape and np.ptp(values) > 0
    order = np.argsort(stored, axis=None, kind="stable")
    assert np.diff(values.ravel()[order]).min() >= 0  # a window never changes the order


def test_folders_are_listed_with_dicom_files(tmp_path, film):
    write(tmp_path / "x.DCM", film[:8, :8])
    write(tmp_path / "IM0001", film[:8, :8])
    (tmp_path / "notes").write_text("not a film")
    for beside in ("._x.DCM", ".DS_Store", "Thumbs.db", "__MACOSX/._x.DCM", "__MACOSX/x.DCM"):
        (tmp_path / beside).parent.mkdir(exist_ok=True)
        (tmp_path / beside).write_bytes(b"\0\5\x16\7" + bytes(200))
    assert [path.name for path in list(walk_films([tmp_path]))] == ["IM0001", "x.DCM"]
