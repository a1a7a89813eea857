"""Small films in every format, and damage to them: one seed and number always give one file."""

import io
import re
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin
from pydicom import dcmread, encaps, uid

TESTS = Path(__file__).parents[1]
sys.path.append(str(TESTS))
from dicoms import SECRET, write  # noqa: E402

FILM = TESTS.parent / "medical" / "images" / "00060001_000.jpg"
# Where a piece of a file begins, in any format that is read here, and where its length stands.
BIG, LITTLE = "big", "little"
LANDMARKS = {
    "png": [(rb"(?=IHDR|IDAT|IEND|PLTE|tRNS|tEXt|eXIf|pHYs)", -4, 4, BIG)],
    "jpg": [(rb"\xff[\xc0-\xcf\xda-\xfe]", 2, 2, BIG)],
    "tif": [(rb"[\0-\xff]\x01[\x01-\x0c]\0", at, 4, LITTLE) for at in (4, 8)]
    + [(rb"^II", 4, 4, LITTLE)],
    "bmp": [(rb"^BM", at, 4, LITTLE) for at in (2, 10, 14, 18, 22, 28, 30, 34, 46)],
    "dcm": [
        (rb"[\x02\x08\x28]\0[\0-\xff]{2}[A-Z]{2}", 6, 2, LITTLE),
        (rb"\xe0\x7f\x10\0O[BW]\0\0", 8, 4, LITTLE),
        (rb"\xfe\xff\0\xe0", 4, 4, LITTLE),
        (rb"(?=jP  |ftyp|jp2h|ihdr|colr|jp2c)", -4, 4, BIG),
        (rb"\xff[\x51\x52\x5c\x90\xc0-\xf7]", 2, 2, BIG),
    ],
}


def make_originals(folder: Path) -> dict[str, dict[str, bytes]]:
    """Return whole files by kind of the table, then by name."""
    grey = np.asarray(Image.open(FILM).convert("L").resize((72, 64)))
    deep = grey.astype(np.uint16) * 257
    deep12 = grey.astype(np.uint16) * 16
    image, colour = Image.fromarray(grey), Image.fromarray(grey).convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, SECRET
    text, tags = PngImagePlugin.PngInfo(), TiffImagePlugin.ImageFileDirectory_v2()
    text.add_text("Comment", SECRET)
    tags[270] = SECRET
    lossy = {"quality": 90, "comment": SECRET}
    pictures = {
        "JPEG": [
            (image, "jpg", lossy),
            (image, "jpg", lossy | {"progressive": True}),
            (colour, "jpg", lossy | {"exif": exif}),
        ],
        "PNG": [
            (image, "png", {"pnginfo": text}),
            (Image.fromarray(deep), "png", {"pnginfo": text}),
            (image.convert("P"), "png", {"transparency": 3, "pnginfo": text}),
            (image.convert("LA"), "png", {"exif": exif}),
        ],
        "TIFF": [
            (image, "tif", {"tiffinfo": tags}),
            (Image.fromarray(deep), "tif", {"tiffinfo": tags}),
            (Image.fromarray(grey / np.float32(255)), "tif", {"tiffinfo": tags}),
            (image.convert("1"), "tif", {"tiffinfo": tags}),
        ],
        "TIFF compressed": [
            (each, "tif", {"tiffinfo": tags, "compression": how})
            for each in (image, Image.fromarray(deep))
            for how in ("tiff_lzw", "tiff_adobe_deflate", "packbits")
        ]
        + [
            (image, "tif", {"tiffinfo": tags, "compression": "jpeg"}),
            (image.convert("1"), "tif", {"tiffinfo": tags, "compression": "group4"}),
        ],
        "BMP": [(image, "bmp", {}), (colour, "bmp", {}), (image.convert("P"), "bmp", {})],
    }
    dicom = {
        "DICOM native": [
            (grey, 8, uid.ExplicitVRLittleEndian),
            (deep12, 12, uid.ImplicitVRLittleEndian),
            (deep, 16, uid.ExplicitVRLittleEndian),
        ],
        "DICOM deflated": [(deep12, 12, uid.DeflatedExplicitVRLittleEndian)],
        "DICOM RLE": [(grey, 8, uid.RLELossless), (deep12, 12, uid.RLELossless)],
        "DICOM JPEG": [(grey, 8, uid.JPEGBaseline8Bit)],
        "DICOM JPEG-LS": [(grey, 8, uid.JPEGLSLossless), (deep, 16, uid.JPEGLSLossless)],
        "DICOM JPEG 2000": [
            (grey, 8, uid.JPEG2000Lossless),
            (deep12, 12, uid.JPEG2000Lossless),
            (grey, 8, uid.JPEG2000),
        ],
    }
    found: dict[str, dict[str, bytes]] = {kind: {} for kind in [*pictures, *dicom]}
    for kind, several in pictures.items():
        for number, (each, suffix, options) in enumerate(several):
            path = folder / f"{kind}-{number}.{suffix}".replace(" ", "-")
            each.save(path, **options)
            found[kind][path.name] = path.read_bytes()
    for kind, several in dicom.items():
        for number, (values, bits, syntax) in enumerate(several):
            path = folder / f"{kind}-{number}.dcm".replace(" ", "-")
            found[kind][path.name] = write(path, values, bits, syntax).read_bytes()
    found["DICOM JPEG 2000"]["DICOM-JPEG-2000-boxes.dcm"] = in_boxes(image, path)
    return found


def in_boxes(image: Image.Image, path: Path) -> bytes:
    """Return the bytes of a JPEG 2000 film in JP2's boxes, as some programs write it."""
    data, frame, file = dcmread(path), io.BytesIO(), io.BytesIO()
    image.save(frame, "JPEG2000")
    data.PixelData = encaps.encapsulate([frame.getvalue()])
    data.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
    data.save_as(file)
    return file.getvalue()


def damage(name: str, whole: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with one to three damages, at its pieces and lengths as often as anywhere.

    Half of the time damage goes below the surface: into what a deflated DICOM file holds, and into
    PNG chunks whose check sums are right again.
    """
    deep = rng.random() < 0.5
    inflated = "deflated" in name and deep
    head, body = b"", whole
    if inflated:
        start = 144 + int.from_bytes(whole[140:144], LITTLE)
        head, body = whole[:start], zlib.decompress(whole[start:], -zlib.MAX_WBITS)
    content, suffix = bytearray(body), name.rpartition(".")[2]
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if len(content) > 8:
            DAMAGES[rng.integers(len(DAMAGES))](content, suffix, rng)
    if inflated:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return head + packer.compress(bytes(content)) + packer.flush()
    if suffix == "png" and deep:
        _mend_check_sums(content)
    return bytes(content)


def _places(content: bytearray, suffix: str) -> list[tuple[int, int, int, str]]:
    """Return (start of a piece, place, size and order of its length), sorted."""
    return sorted(
        (match.start(), match.start() + at, size, order)
        for pattern, at, size, order in LANDMARKS[suffix]
        for match in re.finditer(pattern, content, re.DOTALL)
        if 0 <= match.start() + at <= len(content) - size
    )


def _piece(content: bytearray, suffix: str, rng: np.random.Generator) -> slice:
    """Return from one piece to the next one, or just any bytes."""
    starts = sorted({max(0, start + min(0, at)) for start, at in _starts(content, suffix)})
    if len(starts) > 1 and rng.random() < 0.7:
        number = rng.integers(len(starts))
        return slice(starts[number], [*starts, len(content)][number + 1])
    start = int(rng.integers(len(content)))
    return slice(start, start + int(rng.integers(1, 200)))


def _starts(content: bytearray, suffix: str) -> list[tuple[int, int]]:
    return [(start, place - start) for start, place, _, _ in _places(content, suffix)]


def _flip_bits(content, suffix, rng):
    reach = min(len(content), int(rng.choice([64, 512, len(content)])))
    for at in rng.integers(0, reach, rng.integers(1, 9)):
        content[at] ^= 1 << int(rng.integers(8))


def _replace_bytes(content, suffix, rng):
    place = _piece(content, suffix, rng)
    for at in rng.integers(place.start, min(place.stop, len(content)), rng.integers(1, 5)):
        content[at] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(256)]))


def _cut(content, suffix, rng):
    del content[int(rng.integers(1, len(content))) :]


def _double(content, suffix, rng):
    place = _piece(content, suffix, rng)
    content[place.stop : place.stop] = content[place] * int(rng.choice([1, 1, 2, 50]))


def _drop(content, suffix, rng):
    del content[_piece(content, suffix, rng)]


def _swap(content, suffix, rng):
    one, other = sorted((_piece(content, suffix, rng) for _ in range(2)), key=lambda s: s.start)
    if one.stop <= other.start:
        middle = content[one.stop : other.start]
        content[one.start : other.stop] = content[other] + middle + content[one]


def _change_length(content, suffix, rng):
    places = _places(content, suffix)
    if not places:
        return _flip_bits(content, suffix, rng)
    _, at, size, order = places[rng.integers(len(places))]
    most, now = 256**size - 1, int.from_bytes(content[at : at + size], order)
    choices = [0, 0, 1, 7, most, most, most // 2, most // 2 + 1, now - 1, now + 1, 2 * now]
    length = choices[rng.integers(len(choices))] % (most + 1)
    content[at : at + size] = length.to_bytes(size, order)


DAMAGES = [_flip_bits, _replace_bytes, _cut, _double, _drop, _swap, _change_length, _change_length]


def _mend_check_sums(content: bytearray) -> None:
    at = 8
    while at + 12 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4], BIG)
        content[end : end + 4] = zlib.crc32(content[at + 4 : end]).to_bytes(4, BIG)
        at = end + 4
