"""Changes of a clip that leave what it is: reversed, faster or slower, cut or padded elsewhere.

They work on energies, (frames, columns), as clip examples hold them, and take their randomness as numbers.

Source: Guzhov et al. 2020 (ESResNet), whose training Hornauer et al. 2021 (DLS), section 5, follow. There the
waveform is changed: to play it faster raises its pitch, too, which `scale_time` leaves.
"""

import dataclasses

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What may happen to a clip each time that it is seen.

    Attributes:
      flip: whether it is reversed in time, every second time.
      max_time_scale: by which factor it becomes longer or shorter at most, at least 1; its logarithm is
        uniform.
      shift: whether the stretch that is cut out of a longer clip, or the place of a shorter one in silence,
        is random; else both begin together, as the first window of a clip when it is served.

    Raises:
      ValueError: a factor below 1.
    """

    flip: bool = True
    max_time_scale: float = 1.25
    shift: bool = True

    def __post_init__(self):
        if not 1 <= self.max_time_scale < float("inf"):
            raise ValueError(f"max_time_scale must be at least 1 and finite, got {self.max_time_scale}.")


NO_AUGMENTATION = Augmentation(flip=False, max_time_scale=1.0, shift=False)


def augment(
    energies: tf.Tensor, num_frames: int, augmentation: Augmentation, uniform: tf.Tensor
) -> tf.Tensor:
    """One view of a clip, of a fixed length.

    Silence at the end of a clip, such as what padded it to a window, is no part of it.

    Args:
      energies: float32, (frames, columns).
      num_frames: of the view.
      uniform: float32, (3,), in [0, 1): what is drawn for the flip, the scale and the place.

    Returns:
      float32, (num_frames, columns).
    """
    is_sound = tf.reduce_any(energies > 0, axis=1)
    last = tf.reduce_max(tf.where(is_sound, tf.range(1, tf.size(is_sound) + 1), 1))
    energies = energies[:last]
    if augmentation.flip:
        energies = tf.cond(uniform[0] < 0.5, lambda: tf.reverse(energies, [0]), lambda: energies)
    if augmentation.max_time_scale > 1:
        energies = scale_time(energies, augmentation.max_time_scale ** (2 * uniform[1] - 1))
    place = uniform[2] if augmentation.shift else tf.constant(0.0)
    return fit_length(energies, num_frames, place)


def scale_time(energies: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """The same sound `factor` times as long, its pitch unchanged: frames are interpolated.

    Args:
      energies: float32, (frames, columns).

    Returns:
      float32, (round(factor * frames), columns), of one frame at least.
    """
    num_frames, num_columns = tf.unstack(tf.shape(energies))
    scaled = tf.cast(tf.round(tf.cast(num_frames, tf.float32) * factor), tf.int32)
    image = tf.image.resize(energies[:, :, None], [tf.maximum(1, scaled), num_columns])
    return image[:, :, 0]


def fit_length(energies: tf.Tensor, num_frames: int, place: tf.Tensor) -> tf.Tensor:
    """A stretch of a longer clip, or a shorter clip in silence.

    Args:
      energies: float32, (frames, columns).
      place: from 0, at the beginning, to 1, at the end.

    Returns:
      float32, (num_frames, columns).
    """
    surplus = tf.shape(energies)[0] - num_frames
    # As many places as there are, all alike for a uniform number.
    offset = tf.cast(tf.floor(place * tf.cast(tf.abs(surplus) + 1, tf.float32)), tf.int32)
    offset = tf.minimum(offset, tf.abs(surplus))
    if_longer, if_shorter = tf.maximum(surplus, 0), tf.maximum(-surplus, 0)
    start = tf.minimum(offset, if_longer)
    before = tf.minimum(offset, if_shorter)
    cut = energies[start : start + num_frames]
    fitted = tf.pad(cut, [[before, if_shorter - before], [0, 0]])
    return tf.ensure_shape(fitted, [num_frames, energies.shape[1]])
