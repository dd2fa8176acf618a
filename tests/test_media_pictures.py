"""Pictures: the rule from a frame of any format to a square of RGB, and JPEGs."""

import io
import os
import pathlib
from fractions import Fraction

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from videos import write_video

from tfsound import media
from tfsound.media import pictures

RED, GREEN, BLUE, YELLOW, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 255, 255)
QUARTERS = (RED, GREEN, BLUE, YELLOW)  # top left, top right, bottom left, bottom right
# On a busy machine the threads of x265 now and then give packets that MP4 does not take.
_ONE_THREAD = "log-level=none:pools=none:frame-threads=1:bframes=0"


def quarters(width=96, height=96) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    rows, columns = np.arange(height) >= height / 2, np.arange(width) >= width / 2
    for number, colour in enumerate(QUARTERS):
        image[np.ix_(rows == number // 2, columns == number % 2)] = colour
    return image


def assert_quarters(image, expected, tolerance=3):
    """The colours of a picture's four quarters, in their middles."""
    size = len(image)
    near, far = size // 4, 3 * size // 4
    found = [image[near, near], image[near, far], image[far, near], image[far, far]]
    np.testing.assert_allclose(np.array(found, int), expected, rtol=0, atol=tolerance)


def first_frame(path) -> np.ndarray:
    return next(media.video_frames(path))[1]


def area_mean(image: np.ndarray, size: int) -> np.ndarray:
    """The mean over each new pixel's area, axis by axis, in float64: what shrinking is meant to be."""

    def weights(length):
        edges = np.linspace(0, length, size + 1)
        pixels = np.arange(length)
        overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
        return np.clip(overlap, 0, None) * size / length

    height, width = image.shape[:2]
    rows = (weights(height) @ image.reshape(height, -1).astype(np.float64)).reshape(size, width, 3)
    return weights(width) @ rows


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(width=st.integers(128, 500), height=st.integers(128, 500), seed=st.integers(0, 9))
def test_a_picture_shrinks_by_area_about_its_centre(tmp_path, width, height, seed):
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    PIL.Image.fromarray(image).save(tmp_path / "a.png")
    side = min(width, height)
    top, left = (height - side) // 2, (width - side) // 2
    expected = area_mean(image[top : top + side, left : left + side], 128)
    # The scaler works in 15 bits, through luminance and colour difference.
    np.testing.assert_allclose(media.read_image(tmp_path / "a.png"), expected, rtol=0, atol=4)


def test_fine_patterns_do_not_alias(tmp_path):
    """Stripes of one pixel become an even grey; without a filter they would become broad stripes."""
    image = np.zeros((1000, 1000, 3), np.uint8)
    image[:, ::2] = 255
    PIL.Image.fromarray(image).save(tmp_path / "a.png")
    assert np.ptp(media.read_image(tmp_path / "a.png")[:, 2:-2].astype(int)) <= 70
    assert media.read_image(tmp_path / "a.png").mean() == pytest.approx(127.5, abs=1)


@pytest.mark.parametrize(
    ("width", "height"), [(1, 4000), (4000, 1), (1, 1), (2, 3), (3, 129), (127, 128), (5000, 33), (33, 5000)]
)
def test_odd_sizes_become_squares(tmp_path, width, height):
    PIL.Image.fromarray(np.full((height, width, 3), (10, 120, 230), np.uint8)).save(tmp_path / "a.png")
    image = media.read_image(tmp_path / "a.png")
    assert image.shape == (128, 128, 3)
    np.testing.assert_allclose(image.reshape(-1, 3).astype(int), [[10, 120, 230]] * 128**2, rtol=0, atol=2)


@pytest.mark.parametrize(("width", "height"), [(1, 4000), (4000, 1), (98, 34), (17, 63)])
def test_odd_sizes_of_video_become_squares(tmp_path, width, height):
    frame = np.full((height, width, 3), 99, np.uint8)
    path = write_video(
        tmp_path / "a.mov", [0.0], codec="png", pix_fmt="gray", frames=[frame], time_base=Fraction(1, 25)
    )
    np.testing.assert_allclose(first_frame(path).astype(int), 99, rtol=0, atol=1)


def test_too_large_a_picture_is_refused(tmp_path):
    PIL.Image.fromarray(np.zeros((8193, 8193), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(
        media.MediaError, match="its pictures have 8193 x 8193 pixels; expected at most 67108864"
    ):
        media.read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "name"),
    [
        ("ffv1", "yuv420p", "a.mkv"), ("ffv1", "yuv422p", "a.mkv"), ("ffv1", "yuv444p", "a.mkv"),
        ("ffv1", "yuv410p", "a.mkv"), ("ffv1", "yuv420p10le", "a.mkv"), ("ffv1", "yuv444p16le", "a.mkv"),
        ("ffv1", "gbrp10le", "a.mkv"), ("ffv1", "bgr0", "a.mkv"), ("libx264", "yuv420p", "a.mp4"),
        ("libx264", "yuv420p10le", "a.mp4"), ("libx265", "yuv420p10le", "a.mp4"),
        ("libx264rgb", "rgb24", "a.mkv"), ("libvpx-vp9", "yuv444p", "a.webm"), ("png", "rgb48be", "a.mov"),
        ("png", "rgba", "a.mov"),
        ("mjpeg", "yuvj420p", "a.avi"), ("prores", "yuv422p10le", "a.mov"), ("rawvideo", "nv12", "a.nut"),
        ("rawvideo", "rgb565le", "a.nut"), ("qtrle", "argb", "a.mov"),
    ],
)  # fmt: skip
def test_colours_survive_every_pixel_format(tmp_path, codec, pix_fmt, name):
    path = write_video(
        tmp_path / name, [0.0, 0.04], codec=codec, pix_fmt=pix_fmt, frames=[quarters(), quarters()],
        time_base=Fraction(1, 25), options={"x265-params": _ONE_THREAD} if codec == "libx265" else {},
    )  # fmt: skip
    assert_quarters(first_frame(path), QUARTERS, tolerance=12)


@pytest.mark.parametrize(("codec", "pix_fmt"), [("ffv1", "gray"), ("ffv1", "gray10le"), ("ffv1", "gray16le")])
def test_grey_becomes_equal_red_green_and_blue(tmp_path, codec, pix_fmt):
    path = write_video(tmp_path / "a.mkv", [0.0], codec=codec, pix_fmt=pix_fmt, frames=[quarters()])
    # The luminance of BT.601.
    assert_quarters(first_frame(path), [[level] * 3 for level in (76, 150, 29, 226)], tolerance=2)


def test_transparent_pixels_lie_over_white(tmp_path):
    image = np.dstack([quarters(), np.full((96, 96), 255, np.uint8)])
    image[:48, :48, 3], image[48:, :48, 3] = 0, 128
    expected = (WHITE, GREEN, (127, 127, 255), YELLOW)
    PIL.Image.fromarray(image, "RGBA").save(tmp_path / "a.png")
    assert_quarters(media.read_image(tmp_path / "a.png"), expected, tolerance=1)
    path = write_video(
        tmp_path / "a.mov", [0.0], codec="png", pix_fmt="rgba", frames=[image], frame_format="rgba",
        time_base=Fraction(1, 25),
    )  # fmt: skip
    assert_quarters(first_frame(path), expected, tolerance=1)


@pytest.mark.parametrize(
    ("name", "mode", "expected"),
    [
        ("a.png", "RGB", QUARTERS), ("a.png", "P", QUARTERS), ("a.png", "LA", None), ("a.png", "L", None),
        ("a.jpg", "RGB", QUARTERS), ("a.jpg", "CMYK", QUARTERS), ("a.jpg", "L", None),
        ("a.tiff", "RGB", QUARTERS), ("a.tiff", "CMYK", QUARTERS), ("a.gif", "P", QUARTERS),
        ("a.webp", "RGB", QUARTERS), ("a.bmp", "RGB", QUARTERS),
    ],
)  # fmt: skip
def test_still_pictures_of_every_mode_are_read(tmp_path, name, mode, expected):
    PIL.Image.fromarray(quarters()).convert(mode).save(tmp_path / name)
    grey = [[level] * 3 for level in (76, 150, 29, 226)]
    assert_quarters(media.read_image(tmp_path / name), expected or grey)


def test_a_deep_grey_picture_keeps_its_levels(tmp_path):
    PIL.Image.fromarray(np.full((50, 50), 0x80FF, np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_allclose(media.read_image(tmp_path / "a.png").astype(int), 0x80, rtol=0, atol=1)


@pytest.mark.parametrize(
    ("ratio", "width", "height"), [(Fraction(2), 48, 96), (Fraction(1, 2), 96, 48), (Fraction(4, 3), 72, 96)]
)
def test_pixels_that_are_not_square_are_shown_as_meant(tmp_path, ratio, width, height):
    """Stored 48 x 96 with pixels twice as wide as high, a picture is a square, and none of it is cut off."""
    path = write_video(
        tmp_path / "a.mp4", [0.0], codec="libx264", pix_fmt="yuv444p", frames=[quarters(width, height)],
        sample_aspect_ratio=ratio,
    )  # fmt: skip
    image = first_frame(path)
    assert_quarters(image, QUARTERS, tolerance=12)
    # Nothing cut: the edges between the quarters lie in the middle.
    assert np.argmax(np.abs(np.diff(image[32].astype(int), axis=0)).sum(1)) == pytest.approx(63, abs=1)
    assert np.argmax(np.abs(np.diff(image[:, 32].astype(int), axis=0)).sum(1)) == pytest.approx(63, abs=1)


def test_what_is_cut_off_is_shared_by_both_sides(tmp_path):
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 200  # the central square
    PIL.Image.fromarray(image).save(tmp_path / "a.png")
    np.testing.assert_array_equal(media.read_image(tmp_path / "a.png"), 200)
    PIL.Image.fromarray(image.swapaxes(0, 1)).save(tmp_path / "b.png")
    np.testing.assert_array_equal(media.read_image(tmp_path / "b.png"), 200)


def shown(matrix, stored):
    """Where a display matrix puts the quarters of a square picture, corner by corner."""
    corners = {(-1, -1): 0, (1, -1): 1, (-1, 1): 2, (1, 1): 3}
    result = [None] * 4
    for corner, number in corners.items():
        result[corners[tuple(int(value) for value in np.sign(matrix @ np.array(corner)))]] = stored[number]
    return result


def test_a_telephone_held_upright_is_turned_a_quarter_to_the_right():
    """The matrix that telephones write, (0 1, -1 0): what was top left is then top right."""
    matrix = np.array([[0, -1], [1, 0]])
    assert shown(matrix, QUARTERS) == [BLUE, RED, YELLOW, GREEN]
    assert_quarters(pictures._upright(quarters(), matrix), [BLUE, RED, YELLOW, GREEN], tolerance=0)


@pytest.mark.parametrize("angle", [0, 90, 180, 270, -90, 5])
@pytest.mark.parametrize(("hflip", "vflip"), [(False, False), (True, False), (False, True)])
def test_turned_and_mirrored_video_is_shown_upright(tmp_path, angle, hflip, vflip):
    path = write_video(
        tmp_path / "a.mp4", [0.0], codec="libx264", pix_fmt="yuv444p", frames=[quarters()],
        rotation=(angle, hflip, vflip),
    )  # fmt: skip
    data = pathlib.Path(path).read_bytes()
    header = data.index(b"tkhd") + 4 + 40
    # ISO/IEC 14496-12, 8.3.2: the matrix is a, b, u, c, d, v, x, y, w and takes (p, q) to (ap + cq, bp + dq).
    a, b, _, c, d = np.frombuffer(data[header : header + 20], ">i4").astype(float)
    turned = np.array([[a, c], [b, d]]) if angle != 5 else np.round(np.array([[a, c], [b, d]]) / 65536)
    assert_quarters(first_frame(path), shown(turned, QUARTERS), tolerance=12)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, QUARTERS), (3, (YELLOW, BLUE, GREEN, RED)),
        (6, (BLUE, RED, YELLOW, GREEN)),  # a quarter to the right
        (8, (GREEN, YELLOW, RED, BLUE)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_photographs_are_turned_by_their_exif_orientation(tmp_path, orientation, expected, name):
    exif = PIL.Image.Exif()
    exif[0x112] = orientation
    PIL.Image.fromarray(quarters()).save(
        tmp_path / name, exif=exif, **({"quality": 95} if name == "a.jpg" else {})
    )
    assert_quarters(media.read_image(tmp_path / name), expected)


# JPEG.


def photograph(size=128, seed=0) -> np.ndarray:
    """Smooth colours with some grain."""
    rng = np.random.default_rng(seed)
    coarse = PIL.Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize(
        (size, size), PIL.Image.BICUBIC
    )
    return np.clip(np.asarray(coarse) + rng.normal(0, 2, (size, size, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(5))
def test_a_jpeg_comes_back_nearly_as_it_was_and_always_as_the_same_bytes(seed):
    image = photograph(seed=seed)
    data = media.encode_jpeg(image)
    assert data == media.encode_jpeg(image.copy())
    assert data[:2] == b"\xff\xd8"
    assert data[-2:] == b"\xff\xd9"
    decoded = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    assert decoded.shape == (128, 128, 3)
    assert np.abs(decoded.astype(int) - image).mean() < 2.5
    np.testing.assert_allclose(
        np.asarray(PIL.Image.open(io.BytesIO(data))).astype(int), decoded, rtol=0, atol=2
    )
    assert len(data) < 12_000


def test_colours_are_not_averaged_over_neighbours():
    """4:4:4: single columns of red and blue stay apart, which subsampled chroma would mix to purple."""
    image = np.zeros((128, 128, 3), np.uint8)
    image[:, ::2, 0] = image[:, 1::2, 2] = 255
    decoded = tf.io.decode_jpeg(media.encode_jpeg(image)).numpy().astype(int)
    assert (decoded[:, ::2, 0] - decoded[:, ::2, 2]).min() > 150
    assert (decoded[:, 1::2, 2] - decoded[:, 1::2, 0]).min() > 150


@pytest.mark.parametrize("shape", [(1, 1), (17, 300), (300, 17)])
def test_jpegs_of_any_size(shape):
    decoded = tf.io.decode_jpeg(media.encode_jpeg(np.full((*shape, 3), 77, np.uint8))).numpy()
    np.testing.assert_allclose(decoded.astype(int), np.full((*shape, 3), 77), rtol=0, atol=2)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_not_encoded(image):
    with pytest.raises(ValueError, match=r"image must be uint8, \(height, width, 3\), got"):
        media.encode_jpeg(image)


# Bad pictures.


def saved(name, **options) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(photograph(200)).save(file, name, **options)
    return file.getvalue()


GOOD = {
    "png": saved("PNG"), "jpeg": saved("JPEG", quality=90), "progressive": saved("JPEG", progressive=True),
    "webp": saved("WEBP"), "bmp": saved("BMP"), "gif": saved("GIF"), "tiff": saved("TIFF"),
}  # fmt: skip


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_half_a_picture_is_refused(tmp_path, kind, share):
    (tmp_path / "a").write_bytes(GOOD[kind])
    media.read_image(tmp_path / "a")
    (tmp_path / "a").write_bytes(GOOD[kind][: int(share * len(GOOD[kind]))])
    with pytest.raises(media.MediaError, match="truncated"):
        media.read_image(tmp_path / "a")


def test_what_is_no_picture_is_said_to_be_none(tmp_path):
    with pytest.raises(media.MediaError, match=r"gone\.png': no such file"):
        media.read_image(tmp_path / "gone.png")
    (tmp_path / "a.png").write_text("This is no picture.\n" * 100)
    with pytest.raises(
        media.MediaError, match=r"no picture that can be read .*expected undamaged PNG, JPEG, WEBP"
    ):
        media.read_image(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(media.MediaError, match=r"is an empty file \(0 bytes\)"):
        media.read_image(tmp_path / "a.png")
    (tmp_path / "a.wav").write_bytes(media.encode_wav(np.zeros(100), 16_000))
    with pytest.raises(media.MediaError, match=r"holds no picture \(streams found: audio\)"):
        media.read_image(tmp_path / "a.wav")
    with pytest.raises(ValueError, match="size must be an integer from 16 to 1024 pixels, got 0"):
        media.read_image(tmp_path / "a.png", 0)


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@pytest.mark.parametrize("kind", GOOD)
@given(data=st.data())
def test_damaged_pictures_are_read_or_refused(tmp_path, kind, data):
    content = bytearray(GOOD[kind])
    position = st.integers(0, 99) | st.integers(0, len(content) - 1)
    for index, byte in data.draw(st.lists(st.tuples(position, st.integers(0, 255)), max_size=6)):
        content[index] = byte
    length = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    (tmp_path / "a").write_bytes(content[:length])
    try:
        image = media.read_image(tmp_path / "a")
    except media.MediaError:
        return
    assert (image.shape, image.dtype) == ((128, 128, 3), np.uint8)


def test_real_pictures_are_read(shared_data):
    files = sorted(shared_data.glob("tuxpaint_pairs/*.png"))
    assert len(files) == 102
    for file in files:
        image = media.read_image(os.fspath(file))
        with PIL.Image.open(file) as opened:
            stored = opened.convert("RGBA")
        white = PIL.Image.new("RGBA", stored.size, WHITE)
        flat = np.asarray(PIL.Image.alpha_composite(white, stored).convert("RGB"))
        side = min(flat.shape[:2])
        top, left = (flat.shape[0] - side) // 2, (flat.shape[1] - side) // 2
        if side >= 128:
            expected = area_mean(flat[top : top + side, left : left + side], 128)
            np.testing.assert_allclose(image, expected, rtol=0, atol=4, err_msg=file.name)
