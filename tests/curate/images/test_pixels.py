"""Pictures of every form, odd ones and hostile ones; what a picture looks like does not depend on how it is stored."""

import struct
import time
import zlib

import cv2
import numpy as np
import pyarrow as pa
import pytest

from gyral.config import Config
from gyral.curate.images.headers import Unusable, read_header
from gyral.curate.images.pixels import SIGNALS, THUMBNAIL_BYTES, Pixels, decode
from gyral.curate.stage import DOCUMENT


def scene(width=320, height=240, seed=0):
    """A smooth coloured picture with some edges: blue, green, red."""
    random = np.random.default_rng(seed)
    coarse = random.integers(30, 226, (6, 8, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    cv2.rectangle(picture, (width // 5, height // 4), (width // 2, height // 2), (20, 200, 240), -1)
    return picture


def coded(picture, ending, *options):
    return cv2.imencode(ending, picture, list(options))[1].tobytes()


def batch(*raws):
    rows = [{"file": "f", "offset": number, "media": "image", "raw": raw} for number, raw in enumerate(raws)]
    return pa.RecordBatch.from_pylist(rows, schema=DOCUMENT)


def seen(*raws, **settings):
    return Pixels(**settings)(batch(*raws)).to_pylist()


def bits(one, two):
    return (one["image_hash"] ^ two["image_hash"]).bit_count()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, colour, depth, rows, *before):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(before) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def gif(frames, side=16):
    """Frames of one colour each, uncompressed codes: clear, pixel, clear, pixel …"""
    codes = [4, 1] * (side * side) + [5]
    number = sum(code << 3 * place for place, code in enumerate(codes))
    data = number.to_bytes(3 * len(codes) // 8 + 1, "little")
    blocks = b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255)) + b"\0"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02" + blocks
    table = bytes([0, 0, 0, 10, 200, 30, 0, 0, 0, 0, 0, 0])
    return b"GIF89a" + struct.pack("<HHBBB", side, side, 0x81, 0, 0) + table + frame * frames + b"\x3b"


FORMS = {
    "png": ((".png",), "png"),
    "jpeg": ((".jpg", cv2.IMWRITE_JPEG_QUALITY, 90), "jpeg"),
    "progressive": ((".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1), "jpeg"),
    "webp": ((".webp", cv2.IMWRITE_WEBP_QUALITY, 90), "webp"),
    "lossless": ((".webp", cv2.IMWRITE_WEBP_QUALITY, 101), "webp"),
    "gif": ((".gif",), "gif"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_looks_the_same_in_every_form(form):
    options, told = FORMS[form]
    (plain,) = seen(coded(scene(), ".png"))
    (row,) = seen(coded(scene(), *options))
    assert row["rejected"] is None
    assert (row["image_format"], row["width"], row["height"], row["has_alpha"], row["is_animated"]) == (
        told,
        320,
        240,
        False,
        False,
    )
    assert bits(row, plain) <= 2
    assert row["brightness"] == pytest.approx(plain["brightness"], abs=3)
    assert len(row["thumbnail"]) == THUMBNAIL_BYTES and len(row["image_digest"]) == 16


@pytest.mark.parametrize("width, height", [(1300, 1040), (600, 520), (300, 260), (140, 128)])
def test_the_reduced_decode_of_jpeg_looks_as_the_whole_one(width, height):
    picture = scene(width, height)
    raw = coded(picture, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 95)
    reduced = decode(raw, read_header(raw), 128)
    assert 128 <= min(reduced.shape[:2]) < 260
    jpeg, whole = seen(raw, coded(picture, ".png"))
    assert bits(jpeg, whole) <= 2
    assert jpeg["blur"] == pytest.approx(whole["blur"], rel=0.5)


def test_sharp_pictures_have_a_larger_blur_value_than_blurred_ones():
    noisy = np.clip(scene() + np.random.default_rng(0).normal(0, 20, (240, 320, 3)), 0, 255).astype(np.uint8)
    sharp, blurred = seen(coded(noisy, ".png"), coded(cv2.GaussianBlur(noisy, (0, 0), 3), ".png"))
    assert sharp["blur"] > 20 * blurred["blur"]


def test_alpha_is_laid_on_white():
    picture = scene()
    alpha = np.zeros((240, 320), np.uint8)
    alpha[60:180, 80:240] = 255
    shown = np.where(alpha[:, :, None] == 255, picture, 255).astype(np.uint8)
    with_alpha, flat = seen(coded(np.dstack([picture, alpha]), ".png"), coded(shown, ".png"))
    assert with_alpha["has_alpha"] and not flat["has_alpha"]
    assert with_alpha["thumbnail"] == flat["thumbnail"] and with_alpha["image_hash"] == flat["image_hash"]


def test_palettes_with_transparency_and_sixteen_bits():
    palette = chunk(b"PLTE", bytes([250, 0, 0, 0, 0, 250]))
    indexed = png(2, 2, 3, 8, b"\0\0\1\0\1\0", palette, chunk(b"tRNS", b"\0"))  # the red one is transparent
    picture = decode(indexed, read_header(indexed), 128)
    assert read_header(indexed).has_alpha
    assert picture.tolist() == [[[255, 255, 255], [250, 0, 0]], [[250, 0, 0], [255, 255, 255]]]
    deep = png(2, 1, 0, 16, b"\0" + struct.pack(">HH", 0x1234, 0xFFFF))
    assert decode(deep, read_header(deep), 128).tolist() == [[[0x12] * 3, [255] * 3]]
    deep = png(1, 1, 6, 16, b"\0" + struct.pack(">HHHH", 0xFFFF, 0, 0, 0))
    assert decode(deep, read_header(deep), 128).tolist() == [[[255, 255, 255]]]


def exif(orientation, order):
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    entries = struct.pack(order + "HHHIHH", 1, 0x0112, 3, 1, orientation, 0)
    body = b"Exif\0\0" + start + entries + b"\0\0\0\0"
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation, turned", [(1, None), (6, cv2.ROTATE_90_CLOCKWISE), (3, cv2.ROTATE_180)])
def test_exif_turns_a_picture_before_it_is_measured(orientation, turned, order):
    raw = coded(scene(), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 95)
    marked = raw[:2] + exif(orientation, order) + raw[2:]
    shown = scene() if turned is None else cv2.rotate(scene(), turned)
    row, plain = seen(marked, coded(shown, ".png"))
    assert (row["width"], row["height"]) == (plain["width"], plain["height"])
    assert bits(row, plain) <= 2


def test_a_jpeg_in_cmyk_looks_as_it_was_meant():
    """OpenCV writes none, so its grey one is taken apart: four equal components, inverted as Adobe does."""
    grey = coded(np.full((16, 16), 90, np.uint8), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100)
    row = seen(cmyk(grey))[0]
    assert row["rejected"] is None and (row["width"], row["height"]) == (16, 16)
    # Inverted: C = M = Y = K = 90 of 255 of light each, so 90 * 90 / 255 is left.
    assert row["brightness"] == pytest.approx(90 * 90 / 255, abs=2)


def cmyk(grey):
    """A JPEG of four equal components of the blocks of a grey one of 16 × 16: four scans of one component each."""
    at = grey.index(b"\xff\xc0")
    scan = grey.index(b"\xff\xda")
    tables = grey[2:at].split(b"\xff\xe0")[-1]
    tables = b"\xff\xdb" + tables.split(b"\xff\xdb", 1)[1]
    length = struct.unpack(">H", grey[at + 2 : at + 4])[0]
    between = grey[at + 2 + length : scan]
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 8 + 12, 8, 16, 16, 4) + b"".join(bytes([n, 0x11, 0]) for n in (1, 2, 3, 4))
    entropy = grey[scan + 2 + struct.unpack(">H", grey[scan + 2 : scan + 4])[0] : -2]
    scans = b"".join(b"\xff\xda" + struct.pack(">HB", 8, 1) + bytes([n, 0, 0, 63, 0]) + entropy for n in (1, 2, 3, 4))
    adobe = b"\xff\xee" + struct.pack(">H", 14) + b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 0)
    return b"\xff\xd8" + adobe + tables + frame + between + scans + b"\xff\xd9"


def test_of_ten_thousand_frames_one_is_looked_at():
    raw = gif(10_000)
    header = read_header(raw)
    assert header.is_animated and header.end < 2_000
    start = time.process_time()
    one, many = seen(gif(1), raw)
    assert time.process_time() - start < 1
    assert many["is_animated"] and not one["is_animated"] and not many["rejected"]
    assert many["thumbnail"] == one["thumbnail"]


BOMB = png(100_000, 100_000, 0, 1, bytes(1000))
JPEG = coded(scene(), ".jpg")
PNG = coded(scene(), ".png")
WEBP = coded(scene(), ".webp")
HOSTILE = {
    "a bomb": (BOMB, "image_too_large"),
    "a side beyond every decoder": (png(1 << 30, 1, 0, 1, b"\0"), "image_too_large"),
    "a gif whose frame is larger than its screen": (
        gif(1).replace(b"\x2c\0\0\0\0\x10\0\x10\0", b"\x2c\0\0\0\0\xff\xff\xff\xff"),
        "image_too_large",
    ),
    "no pixels": (png(0, 5, 0, 8, b""), "empty_image"),
    "a thousand scans": (coded(scene(), *FORMS["progressive"][0]) + b"\xff\xda" * 1000, "image_too_large"),
    "nothing": (b"", "unsupported_image"),
    "a page": (b"<!doctype html><title>404</title>", "unsupported_image"),
    "a bitmap": (coded(scene(), ".bmp"), "unsupported_image"),
    "half a jpeg": (JPEG[: len(JPEG) // 2], "corrupt_image"),
    "half a png": (PNG[: len(PNG) // 2], "corrupt_image"),
    "half a webp": (WEBP[: len(WEBP) // 2], "truncated_image"),
    "a png of one chunk": (PNG[:40], "truncated_image"),
    "a jpeg of one segment": (JPEG[:20], "truncated_image"),
    "a wrong checksum": (PNG[:-20] + b"\0\0\0\0" + PNG[-16:], "corrupt_image"),
    "a png without pixels": (PNG[:33] + chunk(b"IEND", b""), "corrupt_image"),
    "a gif without a frame": (gif(0), "truncated_image"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_used_has_its_reason(name):
    raw, reason = HOSTILE[name]
    start = time.process_time()
    row, good = seen(raw, PNG)
    assert row["rejected"] == reason
    assert all(row[field.name] is None for field in SIGNALS)
    assert good["rejected"] is None and good["width"] == 320
    assert time.process_time() - start < 1


def test_nothing_that_bytes_can_hold_raises():
    random = np.random.default_rng(0)
    for raw in (JPEG, PNG, WEBP, gif(3), coded(scene(), *FORMS["lossless"][0])):
        for _ in range(60):
            damaged = bytearray(raw[: random.integers(1, len(raw) + 1)])
            for place in random.integers(0, len(damaged), 6):
                damaged[place % min(len(damaged), 200)] = random.integers(256)
            (row,) = seen(bytes(damaged), max_pixels=1_000_000)
            assert (row["rejected"] is None) == (row["image_hash"] is not None)
            try:
                header = read_header(bytes(damaged))
            except Unusable:
                continue
            assert header.width > 0 and header.height > 0


def test_other_rows_stay_as_they_are():
    given = pa.RecordBatch.from_pylist(
        [
            {"file": "a", "offset": 0, "media": "text", "text": "words"},
            {"file": "b", "offset": 0, "media": "image", "rejected": "corrupt_record"},
            {"file": "c", "offset": 0, "media": "image", "raw": PNG, "text": "one"},
            {"file": "c", "offset": 1, "media": "image", "raw": PNG, "text": "two"},
        ],
        schema=DOCUMENT,
    )
    found = Pixels()(given)
    assert found.select(DOCUMENT.names).equals(given)
    assert found.schema == pa.schema([*DOCUMENT, *SIGNALS])
    rows = found.to_pylist()
    assert [row["width"] for row in rows] == [None, None, 320, 320]
    assert Pixels()(given.slice(2)).to_pylist() == rows[2:]
    assert Pixels()(given.slice(0, 0)).schema == found.schema


def test_limits_decide_by_what_was_measured():
    flat = np.full((200, 200, 3), 200, np.uint8)
    pictures = [scene(), scene(40, 40), scene(900, 100), flat]
    found = Pixels()(batch(*(coded(picture, ".png") for picture in pictures)))
    dropped = {}
    for limit in Pixels().limits(Config()):
        values = limit.value({name: found.column(name) for name in limit.columns})
        holds = {"<": np.less, ">": np.greater}[limit.op](values, limit.threshold)
        assert len(values) == 4
        dropped[limit.reason] = np.flatnonzero(holds).tolist()
        assert limit.rule.startswith("images.")
    assert dropped == {"image_small": [1], "image_narrow": [2], "image_large": [], "image_blurred": [3], "image_flat": [3]}
