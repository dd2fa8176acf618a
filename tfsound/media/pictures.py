"""Pictures: a decoded frame of any format -> a square of RGB, and a square of RGB -> a JPEG.

The rule, in this order:
  1. To 8 bits of red, green and blue, by FFmpeg's conversion and the colour matrix and range that the frame
     names (BT.601 where it names none). Grey becomes equal red, green and blue, CMYK is converted, deeper
     samples are rounded. Transparent pixels are laid over white.
  2. The largest square in the centre of what a viewer shows, so with the sample aspect ratio applied.
  3. To `size` x `size`: the mean over the area of each new pixel along an axis that shrinks (no aliasing),
     linear interpolation along one that grows.
  4. Turned and mirrored as the display matrix (of a telephone's video) says, turned as the EXIF orientation
     does; the mirrored orientations of EXIF, which cameras do not write, are not told from their turns.
A JPEG has no chroma subsampling (4:4:4) and FFmpeg's quantiser scale 3, of 1 to 31: about libjpeg's quality
90, 5 kB for a frame of 128 x 128. The same picture is always the same bytes.
"""

import math
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import Interpolation

from tfsound.media.containers import open_container
from tfsound.media.integrity import MediaError, Path, bad, check_is_whole, open_file

# More is a broken header, or would take gigabytes: 8,192 x 8,192.
MAX_PIXELS = 1 << 26
_MIN_SIZE, _MAX_SIZE = 16, 1024
_JPEG_QUANTISER = 3
# The same result from every processor's instructions, and colours at full resolution.
_EXACT = (
    Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


def check_size(size: int) -> None:
    """Raises: ValueError for a size of pictures that is none."""
    if not isinstance(size, (int, np.integer)) or not _MIN_SIZE <= size <= _MAX_SIZE:
        raise ValueError(f"size must be an integer from {_MIN_SIZE} to {_MAX_SIZE} pixels, got {size!r}.")


def video_stream(container: "av.container.InputContainer") -> "av.video.VideoStream | None":
    """The first video stream that is not the cover of a sound file, ready to decode; None without."""
    covers = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    return streams[0] if streams else None


def prepare_decoder(path: Path, stream: "av.video.VideoStream") -> None:
    """Bounds what decoding may take. Raises: MediaError for an unknown codec or too large a picture."""
    codec = stream.codec_context
    if codec is None:
        raise bad(path, "its video codec is unknown to FFmpeg; expected a known one: convert it to H.264.")
    if codec.width * codec.height > MAX_PIXELS:
        raise bad(
            path,
            f"its pictures have {codec.width} x {codec.height} pixels; expected at most {MAX_PIXELS}, so "
            "scale them down.",
        )
    codec.options = {"max_pixels": str(MAX_PIXELS)}
    codec.thread_count = 1  # the workers of a job are as many as the cores


def square_rgb(
    path: Path, frame: "av.VideoFrame", sample_aspect_ratio: Fraction | None, size: int
) -> np.ndarray:
    """The centre of a frame as a viewer shows it: uint8, (size, size, 3).

    Raises: MediaError where its pixel format cannot be converted.
    """
    rows, columns = _central_square(frame.width, frame.height, sample_aspect_ratio or Fraction(1))
    has_alpha = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
    try:
        pixels = _reformatted(frame, format="rgba" if has_alpha else "gbrp").to_ndarray()[rows, columns]
        if has_alpha:
            pixels = _over_white(pixels)
        square = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        square = _reformatted(square, width=size, height=size, format="rgb24").to_ndarray()
    except (av.FFmpegError, OSError, ValueError) as error:
        raise bad(
            path,
            f"a picture of {frame.width} x {frame.height} pixels of format {frame.format.name} cannot be "
            f"converted to RGB ({error}); convert the file to H.264 or PNG.",
        ) from error
    return np.ascontiguousarray(_upright(square, _display_matrix(frame)))


def _reformatted(frame: "av.VideoFrame", **target) -> "av.VideoFrame":
    return frame.reformat(interpolation=Interpolation.AREA | _EXACT, threads=1, **target)


def _central_square(width: int, height: int, sample_aspect_ratio: Fraction) -> tuple[slice, slice]:
    """The rows and columns that are a square where a pixel is `sample_aspect_ratio` times as wide as high."""
    num_columns = min(width, max(1, round(height / sample_aspect_ratio)))
    num_rows = min(height, max(1, round(width * sample_aspect_ratio)))
    top, left = (height - num_rows) // 2, (width - num_columns) // 2
    return slice(top, top + num_rows), slice(left, left + num_columns)


def _over_white(rgba: np.ndarray) -> np.ndarray:
    """Straight alpha over white: uint8, (rows, columns, 4) -> uint8, (rows, columns, 3)."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _display_matrix(frame: "av.VideoFrame") -> np.ndarray:
    """What takes stored pixels (x, y) to shown ones, without its shift: float64, (2, 2), rows x and y."""
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV lists no side data if a type that it does not know, such as EXIF, is among them.
        angle = math.radians(-frame.rotation)
        return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    if data is None:
        return np.eye(2)
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].astype(np.float64)
    return np.array([[a, c], [b, d]])


def _upright(square: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turns by the multiple of 90 degrees, and mirrors, that come nearest to the matrix."""
    (xx, xy), (yx, yy) = matrix
    if abs(xy) + abs(yx) > abs(xx) + abs(yy):
        square, x_direction, y_direction = square.swapaxes(0, 1), xy, yx
    else:
        x_direction, y_direction = xx, yy
    return square[:: -1 if y_direction < 0 else 1, :: -1 if x_direction < 0 else 1]


def read_image(path: Path, size: int = 128) -> np.ndarray:
    """Reads a still picture, or the first frame of an animation or video: uint8 RGB, (size, size, 3).

    Raises: ValueError for a bad size; MediaError where the file is no picture, or is truncated or damaged.
    """
    check_size(size)
    with open_file(path) as file:
        check_is_whole(path, file)
        with open_container(path, file, kind="picture", known="PNG, JPEG, WEBP") as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                found = ", ".join(other.type for other in container.streams) or "none"
                raise bad(path, f"holds no picture (streams found: {found}); expected a picture.")
            prepare_decoder(path, stream)
            # Half a picture is none: without this, decoders make up what is missing.
            stream.codec_context.options |= {"err_detect": "explode"}
            try:
                frame = next(container.decode(stream), None)
            except (av.FFmpegError, OSError, ValueError) as error:
                raise _damaged(path, str(error)) from error
            if frame is None or frame.is_corrupt:
                raise _damaged(path, "no whole picture in it")
            return square_rgb(path, frame, stream.sample_aspect_ratio, size)


def _damaged(path: Path, reason: str) -> MediaError:
    return bad(path, f"truncated or damaged picture ({reason}); fetch or encode it again.")


def encode_jpeg(image: np.ndarray) -> bytes:
    """Encodes a picture, uint8 RGB, (height, width, 3), as a JPEG.

    Raises: ValueError where it is anything else.
    """
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image must be uint8, (height, width, 3), got {image.dtype}, {image.shape}.")
    codec = av.CodecContext.create("mjpeg", "w")
    codec.height, codec.width = image.shape[:2]
    codec.pix_fmt, codec.time_base, codec.thread_count = "yuvj444p", Fraction(1), 1
    codec.qmin = codec.qmax = _JPEG_QUANTISER
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    frame = frame.reformat(
        format="yuvj444p", dst_colorspace="ITU601", dst_color_range="JPEG",
        interpolation=Interpolation.AREA | _EXACT, threads=1,
    )  # fmt: skip
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])
