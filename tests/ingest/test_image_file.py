"""What a file is by its content, and its pixels, upright, as Pillow sees them; the product decodes with OpenCV."""

import hashlib
import io
import struct
import zlib
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

import hostile
from hostile import encoded, picture, png_chunk, png_of
from truthloop.errors import ImageRefused
from truthloop.ingest.exif import moment_of
from truthloop.ingest.image_file import check, decode, decode_small

LIMITS = {"max_bytes": 32 * 1024 * 1024, "max_pixels": 100_000_000}
PIXELS = {"max_pixels": 100_000_000}
FORMATS = {
    "JPEG": ("JPEG", "image/jpeg"),
    "PNG": ("PNG", "image/png"),
    "WEBP": ("WebP", "image/webp"),
    "BMP": ("BMP", "image/bmp"),
    "TIFF": ("TIFF", "image/tiff"),
}
# The kinds of pixels that each can have.
MODES = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "P", "RGB", "RGBA"),
    "WEBP": ("L", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "P", "RGB", "CMYK"),
}
TURNED_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
# A JPEG of chequered pixels differs from what it was made of; what is compared is decoded by two libraries.
CLOSE = 2.5


def exif(orientation: int = 1, **times: str) -> Image.Exif:
    data = Image.Exif()
    data[274] = orientation  # without a tag beside the times, Pillow writes none of them
    names = {"original": 36867, "digitized": 36868, "offset": 36881, "fraction": 37521}
    if times:
        data.get_ifd(34665).update({names[name]: value for name, value in times.items()})
        data[34665] = 0  # Pillow writes where they are only if it knows that they are
    return data


def as_pillow_sees_it(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")).astype(int)


def assert_same_picture(pixels: np.ndarray, data: bytes) -> None:
    expected = as_pillow_sees_it(data)
    assert pixels.shape == expected.shape
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert np.abs(pixels - expected).mean() < CLOSE


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_file_is_what_its_content_says_and_kept_as_it_came(fmt):
    data = encoded(fmt, picture(64, 48))
    checked = check(data, **LIMITS)

    assert (checked.format, checked.media_type) == FORMATS[fmt]
    assert (checked.width, checked.height) == (64, 48)
    assert checked.upright is data
    assert checked.image_id == hashlib.sha256(data).hexdigest()
    assert checked.captured_at is None


@pytest.mark.parametrize(("fmt", "mode"), [(fmt, mode) for fmt, modes in MODES.items() for mode in modes])
def test_whatever_the_pixels_are_they_become_rgb(fmt, mode):
    data = encoded(fmt, picture().convert(mode))

    assert_same_picture(decode(check(data, **LIMITS).upright, **PIXELS), data)


def test_a_tiff_s_transparency_is_set_on_black():
    image = picture()
    image.putalpha(0)

    assert decode(encoded("TIFF", image), **PIXELS).max() == 0


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_of_16_bits_a_channel_the_upper_8_are_taken(fmt):
    grey = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21
    data = encoded(fmt, Image.fromarray(grey))

    assert np.array_equal(decode(data, **PIXELS)[..., 0], grey >> 8)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("fmt", TURNED_FORMATS)
def test_exif_turns_the_picture_once_and_the_copy_says_nothing_of_it(fmt, orientation):
    data = encoded(fmt, picture(64, 48), exif=exif(orientation))
    checked = check(data, **LIMITS)
    copy = Image.open(io.BytesIO(checked.upright))

    assert (checked.width, checked.height) == ((48, 64) if orientation >= 5 else (64, 48)) == copy.size
    assert checked.image_id == hashlib.sha256(data).hexdigest()
    assert copy.getexif().get(274, 1) == 1
    assert copy.format == ("JPEG" if fmt == "JPEG" else "PNG")
    assert checked.media_type == f"image/{copy.format.lower()}"
    assert_same_picture(decode(checked.upright, **PIXELS), data)
    # A copy of a copy: nothing turns twice.
    assert check(checked.upright, **LIMITS).upright is checked.upright


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_the_upright_copy_of_a_png_loses_nothing(mode):
    image = picture(65, 33).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    copy = Image.open(io.BytesIO(check(encoded("PNG", image, exif=exif(6)), **LIMITS).upright))

    assert copy.mode == mode
    assert np.array_equal(np.asarray(copy), np.asarray(image.transpose(Image.Transpose.ROTATE_270)))


def test_the_upright_copy_of_16_bits_has_16_bits():
    grey = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 21
    copy = check(encoded("PNG", Image.fromarray(grey), exif=exif(3)), **LIMITS).upright

    assert np.array_equal(np.asarray(Image.open(io.BytesIO(copy))), np.rot90(grey, 2))


@pytest.mark.parametrize("fmt", ["JPEG", "PNG"])
def test_the_upright_copy_keeps_the_colour_profile(fmt):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    copy = check(encoded(fmt, icc_profile=profile, exif=exif(8)), **LIMITS).upright

    assert Image.open(io.BytesIO(copy)).info["icc_profile"] == profile


def test_an_orientation_that_there_is_not_is_none():
    data = encoded("JPEG", exif=exif(9))

    assert check(data, **LIMITS).upright is data


@pytest.mark.parametrize("fmt", TURNED_FORMATS)
def test_the_capture_time_is_that_of_the_camera(fmt):
    times = exif(original="2023:04:14 23:38:26", offset="+02:00", fraction="925")

    assert check(encoded(fmt, exif=times), **LIMITS).captured_at == datetime(
        2023, 4, 14, 23, 38, 26, 925_000, timezone(timedelta(hours=2))
    )


def test_a_capture_time_without_its_zone_is_utc_on_every_machine(monkeypatch):
    data = encoded("JPEG", exif=exif(original="2023:04:14 23:38:26"))

    assert check(data, **LIMITS).captured_at == datetime(2023, 4, 14, 23, 38, 26, tzinfo=UTC)


def test_a_scan_s_time_is_when_it_was_digitized():
    data = encoded("JPEG", exif=exif(digitized="1999:01:02 03:04:05"))

    assert check(data, **LIMITS).captured_at == datetime(1999, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    "moment",
    [
        "0000:00:00 00:00:00",
        "    :  :     :  :  ",
        "2023:13:01 00:00:00",
        "2023-04-14 23:38:26",
        "9999:01:01 00:00:00",
    ],
)
def test_a_capture_time_that_is_nonsense_is_left_out(moment):
    assert check(encoded("JPEG", exif=exif(original=moment)), **LIMITS).captured_at is None


@given(st.text(), st.text(), st.text())
def test_no_text_in_the_place_of_a_time_does_harm(moment, offset, fraction):
    moment_of(moment, offset, fraction)
    assert moment_of("2023:04:14 23:38:26", offset, fraction) is not None


def test_a_thumbnail_s_decoding_keeps_the_pixels_it_needs():
    data = encoded("JPEG", picture(1000, 500))

    assert decode_small(data, side=200, **PIXELS).shape == (125, 250, 3)
    assert decode_small(data, side=600, **PIXELS).shape == (500, 1000, 3)
    assert (
        np.abs(decode_small(data, side=500, **PIXELS)[..., 0].mean() - as_pillow_sees_it(data)[..., 0].mean()) < 3
    )


# -- what isn't taken


@pytest.mark.parametrize("kind", hostile.KINDS, ids=str)
def test_what_is_hostile_is_refused_with_what_is_wrong(kind):
    with pytest.raises(ImageRefused, match=r"\w{3}.*\."):
        check(kind.body, **LIMITS)


@pytest.mark.parametrize("fmt", FORMATS)
def test_a_file_that_is_cut_off_anywhere_is_refused_or_whole(fmt):
    """A TIFF may end in bytes that belong to no pixel; where one is taken, its pixels are all there."""
    data = encoded(fmt, picture(40, 30))
    for end in range(0, len(data), 7):
        try:
            checked = check(data[:end], **LIMITS)
        except ImageRefused:
            continue
        assert fmt == "TIFF"
        assert_same_picture(decode(checked.upright, **PIXELS), data)


@given(at=st.integers(min_value=0), byte=st.integers(0, 255), fmt=st.sampled_from(sorted(FORMATS)))
def test_a_changed_byte_is_refused_or_harmless(at, byte, fmt):
    data = bytearray(encoded(fmt, picture(24, 16), **({"exif": exif(6)} if fmt in TURNED_FORMATS else {})))
    data[at % len(data)] = byte
    try:
        checked = check(bytes(data), max_bytes=100_000, max_pixels=100_000)
        pixels = decode(checked.upright, max_pixels=100_000)
    except ImageRefused:
        return
    assert pixels.shape == (checked.height, checked.width, 3)


def test_the_bounds_are_looked_at_before_anything_is_decoded():
    data = encoded("PNG", picture(64, 48))

    with pytest.raises(ImageRefused, match=r"64 x 48 = 3,072 pixels; at most 3,071.*TRUTHLOOP_MAX_IMAGE_PIXELS"):
        check(data, max_bytes=len(data), max_pixels=3071)
    with pytest.raises(ImageRefused, match="TRUTHLOOP_MAX_IMAGE_BYTES"):
        check(data, max_bytes=len(data) - 1, max_pixels=3072)
    with pytest.raises(ImageRefused, match="3,072 pixels"):
        decode(data, max_pixels=3071)
    assert check(data, max_bytes=len(data), max_pixels=3072).width == 64


def test_a_side_has_a_bound_of_its_own():
    with pytest.raises(ImageRefused, match="a side"):
        check(png_of(70_000, 1), **LIMITS)


def test_texts_beside_the_pixels_do_not_matter():
    text = png_chunk(b"tEXt", b"Comment\x00" + b"x" * 100_000) + png_chunk(
        b"zTXt", b"Comment\x00\x00" + zlib.compress(b"y" * 1000)
    )

    assert check(png_of(8, 8, text), **LIMITS).width == 8


def test_what_a_camera_appends_to_a_jpeg_is_no_matter():
    data = encoded("JPEG") + b"\x00" * 10 + encoded("JPEG", picture(8, 8)) + b"\x00\x00\x00\x18ftypmp42"

    assert (check(data, **LIMITS).width, check(data, **LIMITS).upright) == (64, data)


def test_a_tiff_with_a_smaller_copy_of_itself_is_one_picture():
    pages = [picture(64, 48), picture(16, 12)]
    out = io.BytesIO()
    pages[0].save(out, "TIFF", save_all=True, append_images=[pages[1]])
    several = out.getvalue()
    with pytest.raises(ImageRefused, match="several pages"):
        check(several, **LIMITS)

    first = struct.unpack_from("<I", several, 4)[0]
    tags = struct.unpack_from("<H", several, first)[0]
    second = struct.unpack_from("<I", several, first + 2 + 12 * tags)[0]
    # The second page's first tag becomes NewSubfileType, 1: a reduced copy.
    reduced = bytearray(several)
    reduced[second + 2 : second + 14] = struct.pack("<HHII", 254, 4, 1, 1)
    assert check(bytes(reduced), **LIMITS).width == 64


def test_exif_that_claims_a_thousand_large_values_is_passed_over():
    entry = struct.pack("<HHII", 700, 1, 60_000, 8)
    bomb = b"Exif\x00\x00II*\x00\x08\x00\x00\x00" + struct.pack("<H", 5000) + entry * 5000
    data = encoded("JPEG")
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(bomb) + 2) + bomb + data[2:]

    assert check(data, **LIMITS).upright is data


def test_what_is_refused_writes_nothing_to_the_terminal(capfd):
    for kind in hostile.KINDS:
        with pytest.raises(ImageRefused):
            check(kind.body, **LIMITS)

    assert capfd.readouterr() == ("", "")
