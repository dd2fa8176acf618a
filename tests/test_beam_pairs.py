"""The job `pairs`: what each pair may hold, exact counts, the same bytes from any workers."""

import collections
import functools
import json
import math
import operator
import os

import numpy as np
import pytest
import tensorflow as tf
import tiny
from test_beam_window_index import PARAMS, STEP, make_clip, window_bytes, write_clip_set

from tfsound import examples, on_the_fly, pairs, sampling, windows
from tfsound.beam import drawn_sets, window_index
from tfsound.beam import pairs as job

MODALITIES = (examples.AUDIO_AUDIO, examples.AUDIO_IMAGE)
MAX_GAP = 2.5


def many_shards() -> list[list[examples.Clip]]:
    """40 clips of 25 recordings in 3 shards: some overlap in time, some have no window, some no frame.

    Frames come at uneven times; those of a few recordings lie a minute behind the sound.
    """
    clips = []
    for n in range(40):
        start = 1.5 * (n // 25)
        delay = 60.0 if n % 25 in (3, 9) else 0.0
        # In quarters, which float32 holds, and none a gap from the centre of a window.
        seconds = tuple(delay + start + 0.25 + 1.25 * step for step in range(n % 4))
        clips.append(
            make_clip(
                f"c{n:02d}", f"r{n % 25}", n % 5, start_seconds=start, fold=str(n % 3), frame_seconds=seconds
            )
        )
    return [clips[0::3], clips[1::3], clips[2::3]]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """The folder of a set of clips: see `many_shards`."""
    folder = tmp_path_factory.mktemp("clips") / "clips"
    write_clip_set(folder, *many_shards())
    return folder


def sample(clips, output, **options) -> examples.DatasetInfo:
    options = {"max_time_gap_seconds": MAX_GAP, "count": 60, "num_workers": 1} | options
    return job.sample_pairs(str(clips), str(output), **options)


def records_of(path) -> list[bytes]:
    return tiny.records_of(path, examples.PAIRS)


def pairs_of(path) -> list[dict]:
    """Each pair: of its window and of what goes with it the clip, recording, time and bytes."""
    found = []
    for record in records_of(path):
        feature = tf.train.Example.FromString(record).features.feature
        pair = {"fields": set(feature)}
        for role, time in (
            ("audio", "audio_start_seconds"),
            ("audio_2", "audio_2_start_seconds"),
            ("image", "image_seconds"),
        ):
            if role in feature:
                pair[role] = (
                    feature[f"{role}_clip_id"].bytes_list.value[0].decode(),
                    feature[f"{role}_recording_id"].bytes_list.value[0].decode(),
                    feature[time].float_list.value[0],
                    feature[role].bytes_list.value[0],
                )
        found.append(pair)
    return found


def shard_bytes(path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.glob("*.tfrecord"))}


def possible_pairs(shards, modality, gap) -> dict[tuple[str, int], set]:
    """By the definition, with the true times: (clip, window) -> what it may go with."""
    everything = [clip for clips in shards for clip in clips]
    starts = [
        (clip, n, clip.start_seconds + n * STEP)
        for clip in everything
        for n in range(PARAMS.num_windows(len(clip.mel_energy)))
    ]
    frames = [(clip, seconds) for clip in everything if len(clip.mel_energy) >= 96
              for seconds in clip.frame_seconds]  # fmt: skip
    found = {}
    for clip, n, start in starts:
        if modality == examples.AUDIO_AUDIO:
            others = {
                (c.clip_id, m) for c, m, s in starts
                if c.recording_id == clip.recording_id and (c, m) != (clip, n) and abs(s - start) < gap
            }  # fmt: skip
        else:
            centre = start + STEP / 2
            others = {
                (c.clip_id, s) for c, s in frames
                if c.recording_id == clip.recording_id and abs(s - centre) <= gap
            }  # fmt: skip
        if others:
            found[clip.clip_id, n] = others
    return found


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("count", [1, 2001])
def test_every_pair_is_near_in_true_time_and_of_one_recording(clips, tmp_path, modality, count):
    info = sample(clips, tmp_path / "set", modality=modality, count=count, allow_repeats=True)
    by_id = {clip.clip_id: clip for shard in many_shards() for clip in shard}
    possible = possible_pairs(many_shards(), modality, MAX_GAP)
    found = pairs_of(tmp_path / "set")
    assert len(found) == info.num_examples == count
    anchors, drawn = collections.Counter(), set()
    for pair in found:
        clip_id, recording, start, energies = pair["audio"]
        window = round((start - by_id[clip_id].start_seconds) / STEP)
        assert energies == window_bytes(by_id[clip_id], window)
        anchors[clip_id, window] += 1
        if modality == examples.AUDIO_AUDIO:
            other_id, other_recording, other_start, other = pair["audio_2"]
            other_key = (other_id, round((other_start - by_id[other_id].start_seconds) / STEP))
            assert other == window_bytes(by_id[other_id], other_key[1])
            assert abs(other_start - start) < MAX_GAP
            assert "image" not in pair["fields"]
        else:
            other_id, other_recording, seconds, other = pair["image"]
            other_key = (other_id, seconds)
            at = by_id[other_id].frame_seconds.index(seconds)
            assert other == by_id[other_id].frame_jpegs[at]
            assert abs(seconds - (start + STEP / 2)) <= MAX_GAP
            assert "audio_2" not in pair["fields"]
        assert other_key in possible[clip_id, window]
        assert recording == other_recording == by_id[clip_id].recording_id == by_id[other_id].recording_id
        drawn.add(((clip_id, window), other_key))
    if count > 1:  # enough that all there is occurs
        assert drawn == {(anchor, other) for anchor, others in possible.items() for other in others}
        assert set(anchors) == set(possible)
        assert max(anchors.values()) - min(anchors.values()) == 1


@pytest.mark.parametrize("modality", MODALITIES)
def test_no_pair_comes_twice_up_to_the_capacity_that_is_told(clips, tmp_path, modality):
    possible = possible_pairs(many_shards(), modality, MAX_GAP)
    most = len(possible) * min(map(len, possible.values()))
    with pytest.raises(
        windows.ImpossibleError, match=rf"clips can give {most:,} pairs without one coming twi"
    ):
        sample(clips, tmp_path / "set", modality=modality, count=most + 1)
    assert os.listdir(tmp_path) == []
    sample(clips, tmp_path / "set", modality=modality, count=most)
    assert len(set(records_of(tmp_path / "set"))) == most > 30


def test_sound_and_sound_is_what_proximity_chooses(clips, tmp_path):
    """The same windows may be anchors, and the same their positives, as in triplets under `proximity`."""
    from tfsound.beam import triplets

    sample(clips, tmp_path / "pairs", count=3000, allow_repeats=True)
    triplets.sample_triplets(
        str(clips), str(tmp_path / "triplets"), constraints=(f"proximity:{MAX_GAP}",), count=3000,
        num_workers=1, allow_repeats=True,
    )  # fmt: skip
    chosen = set()
    for record in tiny.records_of(tmp_path / "triplets", examples.TRIPLETS):
        feature = tf.train.Example.FromString(record).features.feature
        chosen.add(tuple(feature[role].bytes_list.value[0] for role in ("anchor", "positive")))
    assert {(pair["audio"][3], pair["audio_2"][3]) for pair in pairs_of(tmp_path / "pairs")} == chosen


@pytest.mark.parametrize(
    ("modality", "worker_mode"),
    [("audio_audio", "threads"), ("audio_image", "threads"), ("audio_image", "processes")],
)
def test_the_same_bytes_come_from_any_workers(clips, tmp_path, modality, worker_mode):
    sample(clips, tmp_path / "one", num_shards=4, modality=modality)
    sample(clips, tmp_path / "other", num_shards=4, modality=modality, num_workers=2,
           worker_mode=worker_mode)  # fmt: skip
    assert len(shard_bytes(tmp_path / "one")) == 4
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "other")


@pytest.mark.parametrize("modality", MODALITIES)
def test_buckets_and_shards_do_not_change_the_set(clips, tmp_path, monkeypatch, modality):
    sample(clips, tmp_path / "one", modality=modality)
    write_clip_set(tmp_path / "clips", functools.reduce(operator.iadd, many_shards(), []))
    sample(tmp_path / "clips", tmp_path / "one shard of clips", modality=modality)
    monkeypatch.setattr(window_index, "_CLIPS_PER_BUCKET", 1)
    monkeypatch.setattr(drawn_sets, "EXAMPLES_PER_SHARD", 7)
    monkeypatch.setattr(drawn_sets, "_EXAMPLES_PER_BUCKET", 1)
    sample(clips, tmp_path / "many", num_shards=3, modality=modality)
    expected = records_of(tmp_path / "one")
    assert records_of(tmp_path / "many") == expected
    assert records_of(tmp_path / "one shard of clips") == expected


def test_a_large_shard_is_drawn_a_part_at_a_time(clips, tmp_path, monkeypatch):
    """So that memory does not grow with the count, whatever the number of shards."""
    draw, sizes = pairs.draw_pairs, []

    def counting(slots, *rest):
        sizes.append(len(slots))
        return draw(slots, *rest)

    monkeypatch.setattr(pairs, "draw_pairs", counting)
    monkeypatch.setattr(drawn_sets, "EXAMPLES_PER_SHARD", 25)
    monkeypatch.setattr(drawn_sets, "_EXAMPLES_PER_BUCKET", 1)
    sample(clips, tmp_path / "set", num_shards=1)
    assert sizes == [20, 20, 20]


def test_a_gap_without_a_bound_is_the_whole_recording(clips, tmp_path):
    info = sample(clips, tmp_path / "set", max_time_gap_seconds=math.inf)
    text = (tmp_path / "set" / "dataset_info.json").read_text()
    json.loads(text, parse_constant=pytest.fail)  # JSON has no Infinity
    assert info.parameters["max_time_gap_seconds"] == "inf"
    assert examples.read_dataset_info(str(tmp_path / "set"), kind=examples.PAIRS) == info
    sample(clips, tmp_path / "longest", max_time_gap_seconds=1e6)
    with pytest.warns(UserWarning, match=r"different max_time_gap_seconds are merged: 1000000\.0, inf"):
        examples.read_pair_infos([str(tmp_path / "set"), str(tmp_path / "longest")], "audio_audio")


def test_the_seed_decides(clips, tmp_path):
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        sample(clips, tmp_path / name, seed=seed, count=30)
    a, b, c = (records_of(tmp_path / name) for name in "abc")
    assert a == c
    assert a != b


def test_a_gap_of_a_second_is_the_correspondence_of_the_ablation(clips, tmp_path):
    sample(clips, tmp_path / "set", modality="audio_image", max_time_gap_seconds=1.0, count=30)
    for pair in pairs_of(tmp_path / "set"):
        assert abs(pair["image"][2] - (pair["audio"][2] + STEP / 2)) <= 1.0


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_sidecar(clips, tmp_path, modality):
    info = sample(clips, tmp_path / "set", seed=3, num_shards=2, exclude_folds=("1",), modality=modality,
                  count=20)  # fmt: skip
    assert info == examples.read_dataset_info(str(tmp_path / "set"), kind=examples.PAIRS)
    num_windows, num_images = (40, 0) if modality == examples.AUDIO_AUDIO else (20, 20)
    assert (info.mel_params, info.num_windows, info.num_images) == (PARAMS, num_windows, num_images)
    assert info.folds == ("0", "2")
    kept = [[clip for clip in shard if clip.fold != "1"] for shard in many_shards()]
    by_id = {clip.clip_id: clip.recording_id for shard in kept for clip in shard}
    recordings = {by_id[clip.clip_id] for shard in kept for clip in shard if len(clip.mel_energy) >= 96}
    used = {by_id[clip_id] for clip_id, _ in possible_pairs(kept, modality, MAX_GAP)}
    assert info.parameters == {
        "modality": modality, "max_time_gap_seconds": MAX_GAP, "exclude_folds": ["1"], "seed": 3,
        "num_recordings": len(recordings), "num_recordings_without_pairs": len(recordings - used),
    }  # fmt: skip
    assert len(recordings - used) > 1
    assert [(shard.name, shard.num_examples) for shard in info.shards] == [
        ("pairs-00000-of-00002.tfrecord", 10),
        ("pairs-00001-of-00002.tfrecord", 10),
    ]
    assert info.command.startswith("tfsound pairs ")
    assert f"{len(recordings - used)} of {len(recordings)} recordings gave no pair" in str(info)
    folds = {clip.clip_id: clip.fold for shard in many_shards() for clip in shard}
    roles = ("audio", "audio_2", "image")
    clip_ids = {pair[role][0] for pair in pairs_of(tmp_path / "set") for role in roles if role in pair}
    assert {folds[clip_id] for clip_id in clip_ids} == {"0", "2"}


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_dry_run_says_the_size_and_writes_nothing(clips, tmp_path, modality):
    options = {"modality": modality, "count": 300, "num_shards": 2, "allow_repeats": True}
    estimate = sample(clips, tmp_path / "set", dry_run=True, **options)
    assert os.listdir(tmp_path) == []
    info = sample(clips, tmp_path / "set", **options)
    assert estimate.num_bytes == pytest.approx(sum(shard.num_bytes for shard in info.shards), rel=0.05)
    assert str(estimate).startswith(f"300 pairs (300 {modality}, 2.5 s), about 0.00")
    assert " GB in 2 files\n  reads " in str(estimate)
    assert str(estimate).endswith("300 pairs drawn from them, seed 0; nothing was written")


@pytest.mark.parametrize("modality", MODALITIES)
def test_sets_merge_by_listing_and_are_read_back(clips, tmp_path, modality):
    for seed in (0, 1):
        sample(clips, tmp_path / str(seed), modality=modality, seed=seed, count=20)
    folders = [str(tmp_path / "0"), str(tmp_path / "1")]
    assert examples.read_pair_infos(folders, modality) == (PARAMS, 40)
    batch = next(iter(examples.pair_dataset(folders, batch_size=40, modality=modality)))
    found = pairs_of(tmp_path / "0") + pairs_of(tmp_path / "1")
    expected = sorted(
        np.log(np.frombuffer(pair["audio"][3], "<f2").astype(np.float64) + 0.01).sum() for pair in found
    )
    np.testing.assert_allclose(sorted(batch["audio"].numpy().sum(axis=(1, 2))), expected, rtol=1e-4)


def test_run_is_the_function_from_a_command_line(clips, tmp_path):
    sample(clips, tmp_path / "function", modality="audio_image", count=8, seed=5, exclude_folds=("0", "2"))
    info = job.run(
        f"{clips} {tmp_path}/command --modality audio_image --max-time-gap-seconds {MAX_GAP} --count 8 "
        "--seed 5 --exclude-folds 0 2 --num-workers 1 --job_name=x".split()
    )
    assert info.num_examples == 8
    assert shard_bytes(tmp_path / "command") == shard_bytes(tmp_path / "function")


def test_help_names_every_argument(capsys):
    with pytest.raises(SystemExit, match="0"):
        job.run(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "CLIPS OUTPUT" in text
    assert "Samples pairs of windows, or of windows and frames" in text
    for option in (
        *("--modality", "--max-time-gap-seconds", "--count", "--exclude-folds", "--seed", "--num-shards"),
        *("--allow-repeats", "--dry-run", "--overwrite", "--runner", "--num-workers", "--worker-mode"),
    ):
        assert option in text


# On the fly.


def some_clips() -> list[examples.Clip]:
    """12 clips of 8 recordings with up to 3 windows and frames."""
    return [
        tiny.make_clip(
            n, num_frames=8 * (1 + n % 3), recording=f"r{n % 8}", fold=str(n % 2),
            frame_seconds=tuple(0.25 * n + 0.1 * step for step in range(n % 4)),
        )
        for n in range(12)
    ]  # fmt: skip


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("exclude_folds", [(), ("1",)])
def test_the_first_pairs_of_a_stream_are_the_jobs(tmp_path, modality, exclude_folds):
    folder = tiny.write_clips(tmp_path / "clips", some_clips())
    options = {"modality": modality, "max_time_gap_seconds": 4.0, "count": 30, "seed": 3,
               "exclude_folds": exclude_folds}  # fmt: skip
    job.sample_pairs(folder, str(tmp_path / "set"), num_workers=1, allow_repeats=True, **options)
    expected = examples.parse_pairs(records_of(tmp_path / "set"), tiny.PARAMS, modality)
    stream = on_the_fly.pair_stream(folder, batch_size=10, **options)
    read = examples.pair_dataset([str(tmp_path / "set")], batch_size=10, modality=modality)
    assert stream.element_spec == read.element_spec
    batches = list(stream.take(6).as_numpy_iterator())
    for name, values in expected.items():
        found = np.concatenate([batch[name] for batch in batches])
        np.testing.assert_array_equal(found[:30], values)
    # The next epoch is the job's under another seed.
    options["seed"] = sampling.stable_hash(3, 1)
    job.sample_pairs(folder, str(tmp_path / "next"), num_workers=1, allow_repeats=True, **options)
    expected = examples.parse_pairs(records_of(tmp_path / "next"), tiny.PARAMS, modality)
    for name, values in expected.items():
        np.testing.assert_array_equal(np.concatenate([batch[name] for batch in batches])[30:], values)


def test_a_stream_without_a_count_draws_each_anchor_once(tmp_path):
    folder = tiny.write_clips(tmp_path / "clips", [tiny.make_clip(n, num_frames=24) for n in range(4)])
    batch = next(iter(on_the_fly.pair_stream(folder, batch_size=12)))
    assert len({window.tobytes() for window in batch["audio"].numpy()}) == 12


def test_what_a_stream_cannot_give_is_said_before_the_first_batch(tmp_path):
    folder = tiny.write_clips(tmp_path / "clips", [tiny.make_clip(n, num_frames=8) for n in range(3)])
    with pytest.raises(windows.ImpossibleError, match=r"no recording of .* has two windows that start less"):
        on_the_fly.pair_stream(folder, batch_size=2)
    with pytest.raises(windows.ImpossibleError, match="the set holds no frames"):
        on_the_fly.pair_stream(folder, batch_size=2, modality="audio_image")
    with pytest.raises(ValueError, match="modality must be one of"):
        on_the_fly.pair_stream(folder, batch_size=2, modality="smell")
    with pytest.raises(ValueError, match="batch_size must be at least 1 and count at least 0, got 0 and 0"):
        on_the_fly.pair_stream(folder, batch_size=0)
