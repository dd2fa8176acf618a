"""Digit scenes: videos in which a digit is heard and seen, each second in another voice and handwriting.

A small world in which sounds and pictures belong together, and nothing but the digit holds them together.
Sound: recordings of the Free Spoken Digit Dataset (6 speakers x 10 digits x 50 takes, 8 kHz), each in the
middle of its second with silence around it; one longer than a second loses both ends. Some of its speakers
were recorded 20 dB louder than others, so takes are brought to one level unless told otherwise. Pictures:
scikit-learn's 8 x 8 handwritten digits, each pixel a square of 16 x 16, white on black, one a second. Files:
Matroska with FFV1 and 16-bit PCM, both lossless.
What is evaluated on is not learnt from. Split by `takes`, the takes 0 to 9 of every speaker and every fifth
handwriting of a digit are for evaluation. Split by `speakers`, every take of a third of the speakers, drawn
by the seed, and every fifth handwriting are. Every scene is drawn from a generator of its own, seeded by
(seed, clip_id).
Scenes are dealt evenly to the digits. Under the class prior `longtail` the digit of each scene to learn from
is drawn instead, by Zipf's law over digits whose ranks the seed draws; those to evaluate on stay even.
"""

import collections
import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

import av
import numpy as np
import soundfile

from tfsound.datasets import class_priors, generated
from tfsound.datasets.manifest_rows import AdapterResult, ManifestError, ManifestRow

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS_BY = ("takes", "speakers")
LEVELS = ("equal", "recorded")
# DIGIT_SPEAKER_INDEX, the names that FSDD gives its files.
TAKE_NAME = re.compile(r"(\d)_(.+)_(\d+)")
_TRAIN, _EVAL = "train", "eval"
_SAMPLE_RATE = 8000
_PIXEL_SIZE = 16
_EQUAL_RMS = 0.05  # of full scale
_NUM_EVAL_TAKES = 10
_EVAL_SPEAKERS = 1 / 3
_EVAL_HANDWRITING_STEP = 5
_ZIPF_EXPONENT = 1.0
_VERSION = 1  # Raised whenever the same parameters would give other scenes.
_RANGES = {"num_scenes": (1, 10**6), "num_eval_scenes": (1, 10**6), "scene_seconds": (1, 3600)}


@dataclasses.dataclass(frozen=True)
class _Take:
    """One recording of FSDD."""

    digit: int
    speaker: str
    index: int
    path: str


def compose(
    root: str,
    *,
    scenes_dir: str = "",
    num_scenes: int = 300,
    num_eval_scenes: int = 100,
    scene_seconds: int = 10,
    split_by: str = "takes",
    levels: str = "equal",
    class_prior: str = class_priors.NATURAL,
    zipf_exponent: float = _ZIPF_EXPONENT,
    seed: int = 0,
) -> AdapterResult:
    """Writes `train/<digit>-<nnn>.mkv`, `eval/...` and `digit_scenes.json` (the parameters) into scenes_dir.

    The label is the digit, fold and split are the folder. The same parameters give the same files, byte by
    byte. Scenes there already are kept, so a call that was interrupted, or is for more scenes, adds to them.

    Args:
      root: the folder of FSDD, which holds `recordings`.
      scenes_dir: where to write.
      num_scenes: how many scenes to learn from.
      num_eval_scenes: how many to evaluate on.
      scene_seconds: their length, in seconds.
      split_by: what only one of the splits holds, `takes` or `speakers`.
      levels: `equal` scales each take to one RMS level, `recorded` keeps it as it is.
      class_prior: `natural` deals the scenes to learn from evenly to the digits, `longtail` draws the digit
        of each.
      zipf_exponent: of the long tail, from 0 (all digits alike) to 10.
      seed: of everything drawn.

    Raises:
      ManifestError: a parameter out of range; no scenes_dir, or one that holds other scenes; takes missing.
    """
    parameters = {"scene_seconds": scene_seconds, "split_by": split_by, "levels": levels, "seed": seed}
    generated.check_ranges(
        {"num_scenes": num_scenes, "num_eval_scenes": num_eval_scenes, **parameters}, _RANGES
    )
    if split_by not in SPLITS_BY:
        raise ManifestError(f"split_by must be one of {', '.join(SPLITS_BY)}, got {split_by!r}.")
    if levels not in LEVELS:
        raise ManifestError(f"levels must be one of {', '.join(LEVELS)}, got {levels!r}.")
    if class_prior not in class_priors.CLASS_PRIORS:
        expected = ", ".join(class_priors.CLASS_PRIORS)
        raise ManifestError(f"class_prior must be one of {expected}, got {class_prior!r}.")
    if class_prior == class_priors.NATURAL and zipf_exponent != _ZIPF_EXPONENT:
        raise ManifestError(f"zipf_exponent {zipf_exponent} is for class_prior longtail; leave it out.")
    digits = {_TRAIN: np.arange(num_scenes) % len(DIGITS), _EVAL: np.arange(num_eval_scenes) % len(DIGITS)}
    if class_prior == class_priors.LONGTAIL:
        digits[_TRAIN] = draw_digits(num_scenes, zipf_exponent, seed)
        # Absent without a long tail, so that scenes made before there was one are still known.
        parameters |= {"class_prior": class_prior, "zipf_exponent": zipf_exponent}
    if not scenes_dir:
        raise ManifestError("scenes_dir is empty, expected the folder to write the scenes into; give one.")
    takes = _takes(os.path.join(os.path.abspath(root), "recordings"))
    held_out = _held_out(takes, split_by, seed)
    handwritings = _handwritings()
    stems = sorted(os.path.basename(take.path) for take in takes)
    parameters |= {"version": _VERSION, "takes": hashlib.sha256("\n".join(stems).encode()).hexdigest()}
    scenes_dir = os.path.abspath(scenes_dir)
    generated.claim(scenes_dir, "digit_scenes", parameters, (_TRAIN, _EVAL))
    rows = []
    for split, digits_of_split in digits.items():
        of_split = [take for take in takes if (take in held_out) == (split == _EVAL)]
        num_of_digit = collections.Counter()
        for digit in digits_of_split.tolist():
            clip_id = f"{split}/{DIGITS[digit]}-{num_of_digit[digit]:03d}"
            num_of_digit[digit] += 1
            path = os.path.join(scenes_dir, f"{clip_id}.mkv")
            if not os.path.exists(path):
                chosen = [take for take in of_split if take.digit == digit]
                rng = generated.generator(seed, clip_id)
                drawn, images = _draw(rng, chosen, handwritings[split][digit], scene_seconds)
                _write_scene(path, [_centred(take, levels) for take in drawn], images)
            rows.append(ManifestRow(clip_id, clip_id, path, labels=(DIGITS[digit],), fold=split, split=split))
    return AdapterResult(rows, len(rows))


def draw_digits(num_scenes: int, zipf_exponent: float, seed: int) -> np.ndarray:
    """The digit of each scene under a long tail: int64, (num_scenes,).

    The first scenes are the same however many there are.

    Raises:
      ManifestError: an exponent outside [0, 10].
    """
    ranked = class_priors.draw_ranks(map(str, range(len(DIGITS))), seed)
    bounds = np.cumsum(class_priors.zipf(len(DIGITS), zipf_exponent))
    drawn = generated.generator(seed, "digits").random(num_scenes)
    return np.asarray(ranked, np.int64)[np.searchsorted(bounds / bounds[-1], drawn, side="right")]


def _takes(recordings: str) -> list[_Take]:
    """The takes of FSDD, sorted. Raises: ManifestError where the folder is missing."""
    if not os.path.isdir(recordings):
        raise ManifestError(
            f"{recordings} does not exist; digit_scenes expects recordings of FSDD in its root; give that "
            "folder."
        )
    takes = []
    for name in sorted(os.listdir(recordings)):
        match = TAKE_NAME.fullmatch(os.path.splitext(name)[0])
        if match and name.endswith(".wav"):
            digit, speaker, index = match.groups()
            takes.append(_Take(int(digit), speaker, int(index), os.path.join(recordings, name)))
    return takes


def _held_out(takes: Sequence[_Take], split_by: str, seed: int) -> set[_Take]:
    """The takes for evaluation. Raises: ManifestError where a split lacks a digit."""
    if split_by == "takes":
        held_out = {take for take in takes if take.index < _NUM_EVAL_TAKES}
    else:
        speakers = sorted({take.speaker for take in takes})
        drawn = generated.generator(seed, "speakers").permutation(speakers)
        chosen = set(drawn[: round(_EVAL_SPEAKERS * len(speakers))])
        held_out = {take for take in takes if take.speaker in chosen}
    for split, of_split in ((_TRAIN, set(takes) - held_out), (_EVAL, held_out)):
        missing = set(range(len(DIGITS))) - {take.digit for take in of_split}
        if missing:
            raise ManifestError(
                f"split by {split_by}, {len(takes)} takes leave none of {DIGITS[min(missing)]} to the "
                f"{split} split; expected all of FSDD: fetch it again."
            )
    return held_out


def _handwritings() -> dict[str, list[np.ndarray]]:
    """Split -> digit -> its handwritings, uint8, (handwritings, 8, 8)."""
    from sklearn import datasets as sklearn_datasets  # takes a second to import

    digits = sklearn_datasets.load_digits()
    by_split = {_TRAIN: [], _EVAL: []}
    for digit in range(len(DIGITS)):
        images = np.round(digits.images[digits.target == digit] * (255 / 16)).astype(np.uint8)
        is_eval = np.arange(len(images)) % _EVAL_HANDWRITING_STEP == 0
        by_split[_TRAIN].append(images[~is_eval])
        by_split[_EVAL].append(images[is_eval])
    return by_split


def _draw(
    rng: np.random.Generator, takes: Sequence[_Take], images: np.ndarray, num_seconds: int
) -> tuple[list[str], list[np.ndarray]]:
    """A take's path and a picture for each second: none twice before all were, no speaker twice running."""
    of_speaker: dict[str, list[str]] = {}
    for take in takes:
        of_speaker.setdefault(take.speaker, []).append(take.path)
    paths = {speaker: _endless(rng, of_speaker[speaker]) for speaker in of_speaker}
    speakers, pictures = _endless(rng, list(of_speaker)), _endless(rng, list(images))
    return (
        [next(paths[next(speakers)]) for _ in range(num_seconds)],
        [next(pictures) for _ in range(num_seconds)],
    )


def _endless(rng: np.random.Generator, items: list) -> Iterator:
    """All items in a drawn order, again and again, never one twice running if there are two."""
    last = None
    while True:
        order = rng.permutation(len(items))
        if order[0] == last:
            order = np.roll(order, 1)
        yield from (items[index] for index in order)
        last = order[-1]


def _centred(path: str, levels: str) -> np.ndarray:
    """A take in the middle of a second: int16, (8000,). Silence stays silence."""
    samples, rate = soundfile.read(path, dtype="int16")
    if rate != _SAMPLE_RATE or samples.ndim != 1:
        raise ManifestError(
            f"{path} has {rate} Hz and shape {samples.shape}, expected {_SAMPLE_RATE} Hz mono as in FSDD; "
            "fetch it again."
        )
    surplus = max(0, len(samples) - _SAMPLE_RATE)
    samples = samples[surplus // 2 : surplus // 2 + _SAMPLE_RATE]
    rms = np.sqrt(np.mean(np.square(samples, dtype=np.float64)))
    if levels == "equal" and rms > 0:
        scaled = np.round(samples * (_EQUAL_RMS * 32768 / rms))
        samples = np.clip(scaled, -32768, 32767).astype(np.int16)
    before = (_SAMPLE_RATE - len(samples)) // 2
    return np.pad(samples, (before, _SAMPLE_RATE - len(samples) - before))


def _write_scene(path: str, sounds: Sequence[np.ndarray], images: Sequence[np.ndarray]) -> None:
    """Writes second after second of sound and picture; the file appears when complete."""
    temporary = f"{path}.{os.getpid()}.tmp"
    # bitexact: no random identifiers and no version of FFmpeg, so that equal scenes are equal bytes.
    with av.open(temporary, "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        pictures = container.add_stream("ffv1", rate=1)
        pictures.width = pictures.height = _PIXEL_SIZE * images[0].shape[0]
        pictures.pix_fmt, pictures.thread_count = "gray", 1
        speech = container.add_stream("pcm_s16le", rate=_SAMPLE_RATE, layout="mono")
        for stream in (pictures, speech):
            stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for second, (samples, image) in enumerate(zip(sounds, images, strict=True)):
            enlarged = np.kron(image, np.ones((_PIXEL_SIZE, _PIXEL_SIZE), np.uint8))
            picture = av.VideoFrame.from_ndarray(enlarged, format="gray")
            picture.pts, picture.time_base = second, Fraction(1)
            container.mux(pictures.encode(picture))
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate = _SAMPLE_RATE
            frame.pts, frame.time_base = second * _SAMPLE_RATE, Fraction(1, _SAMPLE_RATE)
            container.mux(speech.encode(frame))
        for stream in (pictures, speech):
            container.mux(stream.encode(None))
    os.replace(temporary, path)
