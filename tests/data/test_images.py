"""One float array in 0..1, whatever the file."""

import io
import os
import re
import struct
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile

from cxrlib.data import bounds, grey, images
from cxrlib.data.bounds import room
from cxrlib.data.images import (
    ImageError,
    colour_of,
    film_digest,
    image_size,
    read_batch,
    read_image,
    view_of,
)


def image(values, dtype=np.uint8, mode=None):
    made = Image.fromarray(np.array(values, dtype))
    return made.convert(mode, dither=Image.Dither.NONE) if mode else made


def palette(indices, colours):
    made = Image.fromarray(np.array(indices, np.uint8), "P")
    made.putpalette(colours)
    return made


def saved(made, path, **options):
    made.save(path, **options)
    return path


# --------------------------------------------------------------------------------- grey values

LUMA = [0.299, 0.587, 0.114]  # of red, green and blue, ITU-R BT.601
COLOURS = [255, 0, 0, 0, 255, 0, 0, 0, 255, 200, 200, 200]


@pytest.mark.parametrize(
    ("made", "suffix", "options", "expected"),
    [
        (image([[0, 51, 255]]), "png", {}, [0, 0.2, 1]),
        (image([[0, 51, 255]]), "bmp", {}, [0, 0.2, 1]),
        (image([[0, 51, 255]]), "tif", {}, [0, 0.2, 1]),
        (image([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]), "png", {}, LUMA),
        (image([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]), "bmp", {}, LUMA),
        (
            image([[[255, 255, 255, 51], [255, 0, 0, 255], [9, 9, 9, 0]]]),
            "png",
            {},
            [0.2, 0.299, 0],
        ),
        (image([[[255, 51], [255, 255], [255, 0]]]), "png", {}, [0.2, 1, 0]),
        (palette([[0, 1, 2, 3]], COLOURS), "png", {}, [*LUMA, 200 / 255]),
        (palette([[0, 1, 2, 3]], COLOURS), "bmp", {}, [*LUMA, 200 / 255]),
        (palette([[0, 1, 2, 3]], COLOURS), "png", {"transparency": 3}, [*LUMA, 0]),
        (image([[0, 128, 255]]), "png", {"transparency": 128}, [0, 0, 1]),
        (image([[0, 255, 255]], mode="1"), "png", {}, [0, 1, 1]),
        (image([[0, 255, 255]], mode="1"), "tif", {}, [0, 1, 1]),
        (image([[0, 51, 255]], mode="CMYK"), "tif", {}, [0, 0.2, 1]),
        (image([[0, 1, 13107, 65535]], np.uint16), "png", {}, [0, 1 / 65535, 0.2, 1]),
        (image([[0, 1, 13107, 65535]], np.uint16), "tif", {}, [0, 1 / 65535, 0.2, 1]),
        (image([[0, 13107, 65535]], np.int32), "tif", {}, [0, 0.2, 1]),
        (image([[0, 1, 819, 4095]], np.uint16), "png", {}, [0, 1 / 4095, 0.2, 1]),
        (image([[0, 819, 4096]], np.uint16), "png", {}, [0, 819 / 16383, 4096 / 16383]),
        (image([[0, 819, 16384]], np.uint16), "png", {}, [0, 819 / 65535, 16384 / 65535]),
        (image([[0, 0.2, 1]], np.float32), "tif", {}, [0, 0.2, 1]),
    ],
)
def test_known_values(tmp_path, made, suffix, options, expected):
    values = read_image(saved(made, tmp_path / f"film.{suffix}", **options))
    assert values.dtype == np.float32 and values.shape == (1, len(expected))
    eight_bit = not made.mode.startswith(("I", "F"))
    np.testing.assert_allclose(values[0], expected, atol=0.6 / 255 if eight_bit else 1e-7)


@pytest.fixture(scope="module")
def picture():
    """Smooth grey values with detail, (90, 70) of 0..255."""
    y, x = np.mgrid[:90, :70]
    wave = 128 + 70 * np.sin(x / 9) * np.cos(y / 13)
    return (wave + np.random.default_rng(0).normal(0, 12, wave.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [None, 32, 200])
@pytest.mark.parametrize(
    ("name", "convert", "options"),
    [
        ("grey.png", lambda p: image(p), {}),
        ("rgb.png", lambda p: image(p, mode="RGB"), {}),
        ("rgba.png", lambda p: image(p, mode="RGBA"), {}),
        ("la.png", lambda p: image(p, mode="LA"), {}),
        ("palette.png", lambda p: palette(p, np.repeat(np.arange(256), 3).tolist()), {}),
        ("16bit.png", lambda p: image(p * 257.0, np.uint16), {}),
        ("grey.tif", lambda p: image(p), {}),
        ("lzw.tif", lambda p: image(p), {"compression": "tiff_lzw"}),
        ("16bit.tif", lambda p: image(p * 257.0, np.uint16), {}),
        ("float.tif", lambda p: image(p / 255, np.float32), {}),
        ("cmyk.tif", lambda p: image(p, mode="CMYK"), {}),
        ("grey.bmp", lambda p: image(p), {}),
        ("rgb.bmp", lambda p: image(p, mode="RGB"), {}),
    ],
)
def test_one_picture_is_the_same_in_every_lossless_format(
    tmp_path, picture, name, convert, options, size
):
    reference = read_image(saved(image(picture), tmp_path / "reference.png"), size)
    values = read_image(saved(convert(picture), tmp_path / name, **options), size)
    np.testing.assert_allclose(values, reference, atol=1 / 255)
    if size is None:
        np.testing.assert_allclose(values, picture / 255, atol=1 / 255)


def bright_line(stored):
    stored[7, :] = 65535
    return stored


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize(
    ("suffix", "photometric", "change"),
    [
        ("png", None, lambda stored, bits: stored),
        ("png", None, lambda stored, bits: bright_line(stored)),
        ("tif", "minisblack", lambda stored, bits: stored),
        ("tif", "miniswhite", lambda stored, bits: 2**bits - 1 - stored),
        ("tif", "miniswhite", lambda stored, bits: 65535 - stored),
        ("tif", "miniswhite", lambda stored, bits: 65535 - bright_line(stored)),
    ],
)
def test_one_film_is_the_same_at_every_depth(tmp_path, bits, suffix, photometric, change):
    film = np.arange(10_000).reshape(100, 100) % 241 / 255
    stored = change(np.rint(film * (2**bits - 1)).astype(np.uint16), bits)
    path = tmp_path / f"film.{suffix}"
    if photometric:
        tifffile.imwrite(path, stored, photometric=photometric)
    else:
        saved(image(stored, np.uint16), path)
    values = np.delete(read_image(path), 7, 0)
    np.testing.assert_allclose(values, np.delete(film, 7, 0), atol=2**-bits)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("dtype", "most"), [("f4", 1), ("f8", 1), ("i4", 4095), ("u2", 65535)])
def test_white_is_zero_in_floating_point_and_wide_integers(tmp_path, dtype, most, order):
    film = np.array([[0, 0.2, 1]])
    for white in (False, True):
        stored = (most * (1 - film if white else film)).astype(dtype)
        how = {"photometric": "miniswhite" if white else "minisblack", "byteorder": order}
        tifffile.imwrite(tmp_path / "film.tif", stored, **how)
        np.testing.assert_allclose(read_image(tmp_path / "film.tif"), film, atol=1e-7)


def test_signed_bytes_are_not_read_as_unsigned(tmp_path):
    tifffile.imwrite(tmp_path / "film.tif", np.array([[-128, 127]], np.int8))
    with pytest.raises(ImageError, match=NOT_AN_IMAGE):
        read_image(tmp_path / "film.tif")


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_colours_of_16_bits_are_read_where_all_are_used(tmp_path, bits):
    """Pillow keeps the upper eight."""
    film = np.tile(np.arange(100) / 99, (9, 1))
    stored = np.rint(film * (2**bits - 1)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "film.tif", np.stack([stored] * 3, 2), photometric="rgb")
    if bits == 16:
        np.testing.assert_allclose(read_image(tmp_path / "film.tif"), film, atol=1 / 255)
    else:
        with pytest.raises(ImageError, match="save it as grey"):
            read_image(tmp_path / "film.tif")


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, np.transpose),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a, 2).T),
        (8, np.rot90),
    ],
)
@pytest.mark.parametrize("size", [None, 48])
def test_exif_orientation(tmp_path, orientation, upright, size):
    stored = np.kron([[0, 60, 120], [180, 220, 250]], np.ones((16, 16)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(image(stored), tmp_path / "film.jpg", exif=exif, quality=100)
    expected = upright(stored) / 255
    if size:
        pads = [((size - n) // 2, (size - n) // 2) for n in expected.shape]
        expected = np.pad(expected, pads)
    np.testing.assert_allclose(read_image(path, size), expected, atol=2 / 255)
    assert image_size(path) == upright(stored).shape[::-1]


@pytest.mark.parametrize("behind", [False, True])
def test_exif_of_png_counts_before_and_behind_the_pixels_which_a_size_does_not_need(
    tmp_path, monkeypatch, behind
):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.kron([[0, 60, 120], [180, 220, 250]], np.ones((16, 16)))
    path = saved(image(stored), tmp_path / "film.png", exif=exif)
    if behind:
        content = path.read_bytes()
        start, end = content.index(b"eXIf") - 4, content.index(b"IDAT") - 4
        path.write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    np.testing.assert_allclose(read_image(path), np.rot90(stored, -1) / 255)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)
    assert image_size(path) == (32, 48)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("change", "fast"),
    [
        (lambda data: data, True),
        (lambda data: data[:33] + chunk(b"eXIf", b"not EXIF") + data[33:], True),
        (lambda data: data[:-12] + chunk(b"tRNS", b"\0\x05") + data[-12:], False),
        (lambda data: data[:-60], False),
        (lambda data: data[:60] + b"?" + data[61:], False),
    ],
    ids=["whole", "damaged EXIF", "transparent", "cut short", "damaged"],
)
def test_png_is_the_same_from_kornia_and_from_pillow(tmp_path, monkeypatch, dtype, change, fast):
    pytest.importorskip("kornia_rs")
    stored = np.random.default_rng(0).integers(np.iinfo(dtype).max, size=(40, 30), dtype=dtype)
    path = saved(image(stored, dtype), tmp_path / "film.png")
    path.write_bytes(change(path.read_bytes()))

    def read():
        try:
            return read_image(path).tolist()
        except ImageError as error:
            return str(error)

    by_kornia = read()
    with Image.open(path) as opened, suppress(OSError, SyntaxError):
        assert (grey.load_pixels(opened) is not opened) == fast
    monkeypatch.setattr(grey, "_decoder", lambda: None)
    assert read() == by_kornia


@pytest.mark.parametrize("kind", [3, 5, 12, 13])
def test_damaged_exif_is_passed_over(tmp_path, picture, kind):
    exif = Image.Exif()
    exif[0x0112], exif[0x0128] = 1, 2
    content = bytearray(saved(image(picture), tmp_path / "film.jpg", exif=exif).read_bytes())
    place = content.index(b"Exif\0\0") + 6
    entry = content.index(b"\x12\x01", place) if b"II" in content[place:][:2] else 0
    entry = entry or content.index(b"\x01\x12", place)
    order = "little" if content[place:][:2] == b"II" else "big"
    content[entry + 2 : entry + 4] = kind.to_bytes(2, order)
    content[entry + 8 : entry + 12] = b"\xff\xfe\xfd\xfc"
    (tmp_path / "damaged.jpg").write_bytes(content)
    expected = read_image(tmp_path / "film.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "damaged.jpg"), expected)
    assert image_size(tmp_path / "damaged.jpg") == expected.shape[::-1]


@pytest.mark.parametrize(
    "error",
    [TypeError("bytes"), MemoryError(), IndexError(7), SyntaxError(r"broken (chunk b'\x00\xf0')")],
)
def test_whatever_a_decoder_raises_names_the_file_and_quotes_nothing(
    tmp_path, picture, monkeypatch, error
):
    path = saved(image(picture), tmp_path / "film.png")

    def fail(_):
        raise error

    monkeypatch.setattr(Image.Image, "load", fail)
    named = rf"film\.png: damaged, or of a kind that is not known here \({type(error).__name__}\)$"
    with pytest.raises(ImageError, match=named):
        read_image(path)


# ------------------------------------------------------------------------------------- scaling


@pytest.mark.parametrize(
    ("width", "height", "size", "rows", "columns"),
    [
        (100, 50, 64, slice(16, 48), slice(0, 64)),
        (50, 100, 64, slice(0, 64), slice(16, 48)),
        (30, 30, 64, slice(0, 64), slice(0, 64)),
        (100, 33, 100, slice(33, 66), slice(0, 100)),
        (2000, 2, 64, slice(31, 32), slice(0, 64)),
        (1, 500, 64, slice(0, 64), slice(31, 32)),
        (1, 1, 8, slice(0, 8), slice(0, 8)),
    ],
)
def test_the_aspect_ratio_is_kept_on_black(tmp_path, width, height, size, rows, columns):
    path = saved(Image.new("L", (width, height), 255), tmp_path / "white.png")
    expected = np.zeros((size, size), np.float32)
    expected[rows, columns] = 1
    np.testing.assert_array_equal(read_image(path, size), expected)


def test_reduction_is_antialiased(tmp_path):
    """Stripes finer than the new pixels become grey, not stripes of another width."""
    stripes = np.tile([0, 255], (400, 200))
    values = read_image(saved(image(stripes), tmp_path / "stripes.png"), 50)
    np.testing.assert_allclose(values, 0.5, atol=5 / 255)  # the rim is cut through


@pytest.mark.parametrize("size", [299, 399])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_scaled_decoding_of_a_large_jpeg_is_close_to_full_decoding(tmp_path, medical, size, mode):
    film = next((medical / "images").glob("*.jpg"))
    large = Image.open(film).resize((2048, 2048), Image.Resampling.BICUBIC)
    noise = np.random.default_rng(0).normal(0, 6, (2048, 2048))
    large = image((np.asarray(large) + noise).clip(0, 255), mode=mode)
    path = saved(large, tmp_path / "large.jpg", quality=92)
    full = Image.open(path).convert("L").resize((size, size), Image.Resampling.BILINEAR)
    difference = 255 * read_image(path, size) - np.asarray(full, float)
    assert np.abs(difference).mean() < 0.6
    assert abs(difference.mean()) < 0.2


@pytest.mark.parametrize("read", [read_image, colour_of, lambda path: read_image(path, 8)])
def test_a_jpeg_of_endless_scans_is_not_decoded(tmp_path, read):
    made = io.BytesIO()
    Image.new("RGB", (64, 64)).save(made, "JPEG", progressive=True)
    start, scan = made.getvalue()[:-2], made.getvalue().rindex(b"\xff\xda")
    (tmp_path / "a.jpg").write_bytes(start + start[scan:] * 600 + b"\xff\xd9")
    with pytest.raises(ImageError, match="a JPEG of more than 500 scans"):
        read(tmp_path / "a.jpg")


@pytest.mark.parametrize("read", [read_image, image_size])
@pytest.mark.parametrize("name", ["film.png", "film.tif"])
def test_a_file_of_several_pages_is_not_taken_for_its_first(tmp_path, name, read):
    first, *others = (Image.new("L", (8, 8), grey) for grey in (0, 100, 200))
    first.save(tmp_path / name, save_all=True, append_images=others)
    with pytest.raises(ImageError, match="several pages or frames: give single radiographs"):
        read(tmp_path / name)


def test_films_in_flight_are_weighed_by_their_pixels(tmp_path, monkeypatch):
    taken, most, changed = [], [], threading.Lock()

    @contextmanager
    def noted(pixels):
        with room(pixels):
            with changed:
                taken.append(pixels)
                most.append(sum(taken))
            time.sleep(0.01)
            with changed:
                taken.remove(pixels)
            yield

    monkeypatch.setattr(images, "room", noted)
    monkeypatch.setattr(bounds, "_free", [10_000])
    sides = [30, 100, 60, 50, 50, 80, 20, 100]
    paths = [saved(Image.new("RGBA", (n, n)), tmp_path / f"{k}.png") for k, n in enumerate(sides)]
    with ThreadPoolExecutor(8) as pool:
        read_batch(paths, 12, pool)
        list(pool.map(colour_of, paths))
    assert len(most) == 16 and 5000 < max(most) <= 10_000
    assert bounds._free == [10_000]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory as Linux tells it")
def test_no_thread_keeps_the_memory_of_a_large_film(tmp_path):
    def resident():
        return int(re.search(r"VmRSS:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

    path = tmp_path / "film.png"
    Image.new("RGBA", (3000, 3000)).save(path, compress_level=1)
    read_image(path, 12)
    before = resident()
    with ThreadPoolExecutor(6) as pool:
        for _ in range(2):
            read_batch([path] * 6, 12, pool)
        assert resident() - before < 270  # MiB; a film takes 180 while it is read


def test_boxes_are_moved_with_the_padding():
    assert images.boxes_on_square([[10, 0, 30, 100]], 50, 100).tolist() == [[0.35, 0, 0.55, 1]]


def test_image_size_is_width_and_height(tmp_path):
    assert image_size(saved(Image.new("L", (30, 20)), tmp_path / "a.png")) == (30, 20)


def test_read_batch_keeps_the_order(tmp_path):
    paths = [saved(Image.new("L", (9, 9), 25 * n), tmp_path / f"{n}.png") for n in range(10)]
    with ThreadPoolExecutor(4) as pool:
        films = read_batch(paths, 12, pool)
        with pytest.raises(FileNotFoundError, match="gone.png"):
            read_batch([*paths, tmp_path / "gone.png"], 12, pool)
    assert films.shape == (10, 12, 12, 1) and films.dtype == np.float32
    np.testing.assert_allclose(films[:, 0, 0, 0], 25 * np.arange(10) / 255, atol=1e-6)


# -------------------------------------------------------------------------------------- errors


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(chunk))
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + crc + struct.pack(">I", 9) + b"IDAT"
    )


NOT_AN_IMAGE = "no JPEG, PNG, TIFF, BMP or DICOM image"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.png", b"this is no picture", NOT_AN_IMAGE),
        ("empty.png", b"", NOT_AN_IMAGE),
        ("page.jpg", b"<html>not found</html>", NOT_AN_IMAGE),
        # Pillow would start Ghostscript for it.
        ("script.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NOT_AN_IMAGE),
        ("bomb.png", png_header(30_000, 30_000), "decompression bomb"),
        ("large.png", png_header(8_000, 7_000), "too large to be a radiograph: more than 50,000,"),
    ],
)
@pytest.mark.parametrize("read", [read_image, image_size])
def test_what_is_no_image_is_named(tmp_path, name, content, reason, read):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageError, match=reason) as caught:
        read(path)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert str(path) not in caught.value.reason


@pytest.mark.parametrize("size", [None, 64])
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp"])
def test_a_truncated_file_is_named(tmp_path, picture, suffix, size):
    path = saved(image(picture), tmp_path / f"cut.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"cut\.{suffix}: \S"):
        read_image(path, size)


@pytest.mark.parametrize(
    ("values", "dtype", "reason"),
    [
        ([[0, 0.5, 1.5]], np.float32, "floating-point values outside 0..1: rescale them"),
        ([[0, -0.1, 1]], np.float32, "floating-point values outside 0..1: rescale them"),
        ([[0, np.nan, 1]], np.float32, "floating-point values outside 0..1: rescale them"),
        ([[0, 65536]], np.int32, "integers outside 0..65535: rescale them to 16 bits"),
        ([[0, -1]], np.int32, "integers outside 0..65535: rescale them to 16 bits"),
    ],
)
def test_values_whose_range_is_unknown_are_refused(tmp_path, values, dtype, reason):
    path = saved(image(values, dtype), tmp_path / "film.tif")
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(caught.value) == f"{path}: {reason}"


@pytest.mark.parametrize("read", [read_image, image_size])
def test_missing_files_and_folders(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="gone.png"):
        read(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match="folder.png: .*directory"):
        read(tmp_path / "folder.png")
    saved(Image.new("L", (2, 2)), tmp_path / "film.png")
    with pytest.raises(ImageError, match="[Nn]ot a directory"):
        read(tmp_path / "film.png" / "inside.png")
    with pytest.raises(ImageError, match="zero byte"):
        read(tmp_path / "a\0b.png")


@pytest.mark.parametrize("read", [read_image, image_size, film_digest, view_of])
@pytest.mark.parametrize("name", ["pipe.png", "pipe.dcm", "link.png"])
def test_a_pipe_is_not_waited_for(tmp_path, read, name):
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.dcm")
    (tmp_path / "link.png").symlink_to("pipe.png")
    if read is view_of:
        assert view_of(tmp_path / name) == ""
    else:
        with pytest.raises(
            ImageError, match=f"{name}: a directory, pipe or device, not a regular file"
        ):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("jpg", {}), ("png", {}), ("bmp", {}), ("tif", {}), ("tif", {"compression": "tiff_lzw"})],
)
def test_damage_raises_nothing_but_image_errors(tmp_path, picture, suffix, options, capfd):
    path = saved(image(picture), tmp_path / f"film.{suffix}", **options)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(200):
        damaged = bytearray(whole)
        for at in rng.integers(0, rng.choice([60, 400, len(whole)]), rng.integers(1, 6)):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                values = read_image(path, 32)
                assert values.shape == (32, 32) and 0 <= values.min() and values.max() <= 1
            except ImageError:
                refused += 1
    assert refused
