"""Digit scenes: every sample and pixel comes from its own split's takes and handwritings; files are exact."""

import itertools
import json
import os
import re

import numpy as np
import pytest
import soundfile
from sklearn.datasets import load_digits

from tfsound import datasets, media
from tfsound.datasets import ManifestError, class_priors
from tfsound.datasets.digit_scenes import DIGITS, _centred, compose, draw_digits

SPEAKERS = ("ann", "bob", "cid")
TAKES = (0, 1, 2, 9, 10, 11, 12, 13)


@pytest.fixture(scope="module")
def fsdd(tmp_path_factory):
    """A made-up FSDD: each take has a level of its own, which tells it apart in any scene."""
    root = tmp_path_factory.mktemp("fsdd")
    (root / "recordings").mkdir()
    (root / "recordings" / "notes.txt").write_text("no take")
    rng = np.random.default_rng(0)
    for number, (digit, speaker, take) in enumerate(itertools.product(range(10), SPEAKERS, TAKES)):
        seconds = rng.uniform(0.3, 0.9) if number % 50 else 1.4
        samples = np.full(round(8000 * seconds), 1000 + 5 * number, np.int16)
        soundfile.write(root / "recordings" / f"{digit}_{speaker}_{take}.wav", samples, 8000)
    return root


def seconds_of(path):
    """What is heard and seen in each second of a scene: (digit, speaker, take) and handwriting."""
    handwritings = {
        np.round(image * 255 / 16).astype(np.uint8).tobytes(): (int(target), number)
        for number, (image, target) in enumerate(zip(*load_digits(return_X_y=True), strict=True))
    }
    waveform = media.read_audio(path, sample_rate=8000)
    found = []
    for seconds, frame in media.video_frames(path):
        begin = round(seconds * 8000)
        number = round((np.abs(waveform[begin + 4000]) * 32768 - 1000) / 5)
        digit, rest = divmod(number, len(SPEAKERS) * len(TAKES))
        speaker, take = divmod(rest, len(TAKES))
        picture = frame[8::16, 8::16, 0]
        found.append(((digit, SPEAKERS[speaker], TAKES[take]), handwritings[picture.tobytes()]))
    return found, waveform


def scenes(fsdd, folder, **options):
    options = {"num_scenes": 20, "num_eval_scenes": 20, "scene_seconds": 6, "levels": "recorded"} | options
    return compose(str(fsdd), scenes_dir=str(folder), **options)


@pytest.mark.parametrize("split_by", ["takes", "speakers"])
def test_a_scene_is_one_digit_in_many_voices_and_handwritings(fsdd, tmp_path, split_by):
    result = scenes(fsdd, tmp_path, split_by=split_by)
    assert len(result.rows) == result.num_listed == 40
    heard, seen = {"train": set(), "eval": set()}, {"train": set(), "eval": set()}
    for row in result.rows:
        (label,) = row.labels
        assert row.clip_id == row.recording_id
        assert re.fullmatch(rf"(train|eval)/{label}-00[01]", row.clip_id)
        assert (row.uri, row.fold) == (f"{tmp_path}/{row.clip_id}.mkv", row.split)
        found, waveform = seconds_of(row.uri)
        assert len(found) == 6
        assert len(waveform) == 6 * 8000
        assert {take[0] for take, _ in found} | {image[0] for _, image in found} == {DIGITS.index(label)}
        takes, images = [take for take, _ in found], [image for _, image in found]
        assert len(set(takes)) == len(set(images)) == 6  # nothing twice
        speakers = [speaker for _, speaker, _ in takes]
        if split_by == "takes":
            assert set(speakers) == set(SPEAKERS)
            assert all(before != after for before, after in itertools.pairwise(speakers))
        heard[row.split].update(takes)
        seen[row.split].update(images)
    assert not heard["train"] & heard["eval"]
    assert not seen["train"] & seen["eval"]
    speakers = {split: {speaker for _, speaker, _ in takes} for split, takes in heard.items()}
    if split_by == "takes":
        assert speakers["train"] == speakers["eval"] == set(SPEAKERS)
        assert {take for _, _, take in heard["eval"]} <= {0, 1, 2, 9}
        assert {take for _, _, take in heard["train"]} <= {10, 11, 12, 13}
    else:
        assert (len(speakers["train"]), len(speakers["eval"])) == (2, 1)
        assert not speakers["train"] & speakers["eval"]


def test_a_take_lies_in_the_middle_of_its_second_unchanged(fsdd, tmp_path):
    for row in scenes(fsdd, tmp_path, num_scenes=10, num_eval_scenes=1).rows:
        found, waveform = seconds_of(row.uri)
        for second, ((digit, speaker, take), _) in enumerate(found):
            samples, _ = soundfile.read(
                fsdd / "recordings" / f"{digit}_{speaker}_{take}.wav", dtype="float32"
            )
            if len(samples) > 8000:  # loses both ends
                samples = samples[len(samples) // 2 - 4000 :][:8000]
            expected = np.zeros(8000, np.float32)
            first = (8000 - len(samples)) // 2
            expected[first : first + len(samples)] = samples
            np.testing.assert_array_equal(waveform[8000 * second : 8000 * (second + 1)], expected)


def contents(folder) -> dict[str, bytes]:
    return {
        f"{file.parent.name}/{file.name}": file.read_bytes()
        for place in ("train", "eval")
        for file in (folder / place).iterdir()
    }


def test_bytes_depend_on_the_parameters_and_the_seed_only(fsdd, tmp_path):
    few = {"num_scenes": 4, "num_eval_scenes": 2, "scene_seconds": 2}
    scenes(fsdd, tmp_path / "first", **few)
    scenes(fsdd, tmp_path / "again", **few)
    scenes(fsdd, tmp_path / "other", seed=1, **few)
    first = contents(tmp_path / "first")
    assert len(first) == 6
    assert first == contents(tmp_path / "again")
    assert not set(first.values()) & set(contents(tmp_path / "other").values())


def test_natural_scenes_are_as_they_have_always_been(fsdd, tmp_path):
    scenes(fsdd, tmp_path / "plain", num_scenes=12, num_eval_scenes=3, scene_seconds=1)
    scenes(fsdd, tmp_path / "named", num_scenes=12, num_eval_scenes=3, scene_seconds=1, class_prior="natural")
    assert contents(tmp_path / "plain") == contents(tmp_path / "named")
    parameters = [(tmp_path / name / "digit_scenes.json").read_text() for name in ("plain", "named")]
    assert parameters[0] == parameters[1]
    assert set(json.loads(parameters[0])) == {
        "scene_seconds", "split_by", "levels", "seed", "version", "takes",
    }  # fmt: skip


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_digits_of_a_long_tail_are_drawn_by_zipf(exponent):
    digits = draw_digits(20_000, exponent, seed=0)
    assert (digits == draw_digits(20_000, exponent, seed=0)).all()
    np.testing.assert_array_equal(draw_digits(123, exponent, seed=0), digits[:123])  # more only adds
    assert (draw_digits(20_000, exponent, seed=1) != digits).any()
    shares = np.bincount(digits, minlength=10) / len(digits)
    expected = np.arange(1, 11) ** -exponent
    ranked = [int(digit) for digit in class_priors.draw_ranks(map(str, range(10)), 0)]
    # Five standard errors of a share of a half.
    np.testing.assert_allclose(shares[ranked], expected / expected.sum(), atol=5 * 0.5 / np.sqrt(20_000))


def test_a_long_tail_is_of_the_scenes_to_learn_from_alone(fsdd, tmp_path):
    few = {"num_scenes": 30, "num_eval_scenes": 20, "scene_seconds": 1, "seed": 2}
    tail = scenes(fsdd, tmp_path / "tail", class_prior="longtail", zipf_exponent=1.5, **few)
    digits = [DIGITS.index(row.labels[0]) for row in tail.rows]
    assert digits[:30] == draw_digits(30, 1.5, seed=2).tolist()
    assert digits[30:] == [*range(10)] * 2
    assert len({row.clip_id for row in tail.rows}) == 50
    for row in tail.rows[:30:5]:
        ((digit, _, _), (seen, _)), *_ = seconds_of(row.uri)[0]
        assert DIGITS[digit] == DIGITS[seen] == row.labels[0]
    even = scenes(fsdd, tmp_path / "even", **few)
    assert [row.clip_id for row in tail.rows[30:]] == [row.clip_id for row in even.rows[30:]]
    tail_files, even_files = contents(tmp_path / "tail"), contents(tmp_path / "even")
    assert {name for name in even_files if name.startswith("eval")} <= set(tail_files)
    # A scene of the same name is the same scene.
    for name in set(tail_files) & set(even_files):
        assert tail_files[name] == even_files[name]
    more = scenes(
        fsdd, tmp_path / "tail", class_prior="longtail", zipf_exponent=1.5, **few | {"num_scenes": 31}
    )
    assert more.rows[:30] == tail.rows[:30]
    assert contents(tmp_path / "tail").items() >= tail_files.items()
    for other in ({"zipf_exponent": 2.0, "class_prior": "longtail"}, {}):
        with pytest.raises(ManifestError, match=r"zipf_exponent was 1\.5"):
            scenes(fsdd, tmp_path / "tail", **few | other)


def test_what_is_there_is_kept_and_what_is_missing_is_added(fsdd, tmp_path):
    few = {"num_scenes": 4, "num_eval_scenes": 2, "scene_seconds": 2}
    scenes(fsdd, tmp_path, **few)
    before = contents(tmp_path)
    kept, lost = tmp_path / "train" / "zero-000.mkv", tmp_path / "train" / "one-000.mkv"
    modified = os.stat(kept).st_mtime_ns
    lost.unlink()
    result = scenes(fsdd, tmp_path, **few | {"num_scenes": 5})
    assert contents(tmp_path).items() >= before.items()
    assert len(result.rows) == 7
    assert os.stat(kept).st_mtime_ns == modified
    with pytest.raises(
        ManifestError,
        match="holds digit_scenes recordings of other parameters: seed was 0, and is now 1; ask",
    ):
        scenes(fsdd, tmp_path, seed=1, **few)
    (tmp_path / "mine" / "train").mkdir(parents=True)
    (tmp_path / "mine" / "train" / "holiday.mkv").write_text("mine")
    with pytest.raises(
        ManifestError, match="holds recordings that are not digit_scenes; name another folder"
    ):
        scenes(fsdd, tmp_path / "mine", **few)
    assert os.listdir(tmp_path / "mine" / "train") == ["holiday.mkv"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_scenes": 0}, "num_scenes must be from 1 to 1000000, got 0"),
        ({"num_eval_scenes": 0}, "num_eval_scenes must be from 1"),
        ({"scene_seconds": 0}, "scene_seconds must be from 1 to 3600, got 0"),
        ({"split_by": "rooms"}, "split_by must be one of takes, speakers, got 'rooms'"),
        ({"class_prior": "flat"}, "class_prior must be one of natural, longtail, got 'flat'"),
        (
            {"class_prior": "longtail", "zipf_exponent": -1.0},
            "the exponent of Zipf must be from 0 to 10, got -1.0",
        ),
        ({"zipf_exponent": 2.0}, "zipf_exponent 2.0 is for class_prior longtail; leave it out"),
        ({"levels": "loud"}, "levels must be one of equal, recorded, got 'loud'"),
        ({"scenes_dir": ""}, "scenes_dir is empty, expected the folder to write the scenes into; give one"),
    ],
)
def test_bad_parameters_are_refused_before_anything_is_written(fsdd, tmp_path, options, message):
    with pytest.raises(ManifestError, match=re.escape(message)):
        compose(str(fsdd), **{"scenes_dir": str(tmp_path / "scenes")} | options)
    assert not (tmp_path / "scenes").exists()


def test_recordings_that_are_not_all_of_fsdd_are_refused(tmp_path):
    with pytest.raises(
        ManifestError, match="recordings does not exist; digit_scenes expects recordings of FSDD"
    ):
        compose(str(tmp_path), scenes_dir=str(tmp_path / "scenes"))
    (tmp_path / "recordings").mkdir()
    for digit in range(10):
        for take in (0, 10) if digit != 7 else (10,):
            soundfile.write(
                tmp_path / "recordings" / f"{digit}_ann_{take}.wav", np.zeros(99, np.int16), 16_000
            )
    with pytest.raises(
        ManifestError, match="19 takes leave none of seven to the eval split; expected all of FSDD"
    ):
        compose(str(tmp_path), scenes_dir=str(tmp_path / "scenes"))
    soundfile.write(tmp_path / "recordings" / "7_ann_0.wav", np.zeros(99, np.int16), 16_000)
    with pytest.raises(ManifestError, match=r"has 16000 Hz and shape .*expected 8000 Hz mono as in FSDD"):
        compose(str(tmp_path), scenes_dir=str(tmp_path / "scenes"))
    assert os.listdir(tmp_path / "scenes" / "train") == []


def test_the_manifest_command_composes_them(fsdd, tmp_path):
    summary = datasets.make_manifest(
        "digit_scenes", str(fsdd), str(tmp_path / "m.csv"), scenes_dir=str(tmp_path / "scenes"),
        num_scenes=10, num_eval_scenes=10, scene_seconds=1, split_by="speakers", seed=3,
    )  # fmt: skip
    assert (summary.num_rows, summary.num_labels, summary.folds) == (20, 10, ("eval", "train"))
    assert all(os.path.isfile(row.uri) for row in datasets.read_manifest(summary.output))


def test_real_digits_make_scenes(shared_data, tmp_path):
    result = compose(
        str(shared_data / "fsdd"),
        scenes_dir=str(tmp_path),
        num_scenes=10,
        num_eval_scenes=10,
        split_by="speakers",
    )
    for row in result.rows[::5]:
        waveform = media.read_audio(row.uri)
        assert len(waveform) == 160_000
        loud = np.sqrt(np.mean(waveform.reshape(10, 16_000) ** 2, axis=1))
        assert loud.min() > 1e-4
        assert [seconds for seconds, _ in media.video_frames(row.uri)] == list(range(10))


def test_takes_of_all_speakers_have_one_level(fsdd, tmp_path):
    result = scenes(fsdd, tmp_path, levels="equal")
    for row in result.rows[::10]:
        for second in media.read_audio(row.uri, sample_rate=8000).reshape(-1, 8000):
            sound = second[second != 0]
            assert np.sqrt(np.mean(sound**2)) == pytest.approx(0.05, rel=1e-3)


def test_a_silent_take_stays_silent(tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(4000, np.int16), 8000)
    np.testing.assert_array_equal(_centred(str(tmp_path / "silent.wav"), "equal"), np.zeros(8000))
