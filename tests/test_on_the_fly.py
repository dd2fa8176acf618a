"""Triplets on the fly: the job's own records, then others of the same distribution, for ever."""

import collections
import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf
import tiny
from scipy import stats
from test_beam_triplets import records_of

from tfsound import examples, on_the_fly, sampling, triplets, windows
from tfsound.beam import triplets as job

CONSTRAINTS = ("noise:0.5,translation:2", "mixing:0.25", "proximity:0.2", "labels")


def some_clips() -> list[examples.Clip]:
    """16 clips of 10 recordings, of 1 to 4 windows, of three labels or none, in two folds; one is silent."""
    labels = [(), ("dog",), ("dog", "owl"), ("owl",), ("rain",)]
    clips = [
        tiny.make_clip(
            n, num_frames=8 * (1 + n % 4) + 3, labels=labels[n % 5],
            fold=str(n % 2), recording=f"r{n % 10}",
        )
        for n in range(16)
    ]  # fmt: skip
    clips[3] = dataclasses.replace(clips[3], mel_energy=np.zeros_like(clips[3].mel_energy))
    return clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return tiny.write_clips(tmp_path_factory.mktemp("sets") / "clips", some_clips())


def batches_of(clips, num_batches, **options) -> list[dict[str, np.ndarray]]:
    options = {"constraints": CONSTRAINTS, "batch_size": 20, "count": 300} | options
    return list(on_the_fly.triplet_stream(clips, **options).take(num_batches).as_numpy_iterator())


def rows(batches) -> list[tuple]:
    """Triplets as what can be compared; labels of the negative without what pads them in a batch."""
    return [
        tuple(
            tuple(row[row >= 0]) if name == "negative_labels" else row.tobytes()
            for name, row in zip(sorted(batch), of_triplet, strict=True)
        )
        for batch in batches
        for of_triplet in zip(*(batch[name] for name in sorted(batch)), strict=True)
    ]


def sample(clips, output, **options) -> list[bytes]:
    """The records of the job with the same arguments."""
    options = {"constraints": CONSTRAINTS, "count": 300, "num_workers": 1, "num_shards": 3} | options
    job.sample_triplets(clips, str(output), **options)
    return records_of(output)


def parsed(records) -> list[tuple]:
    batch = examples.parse_triplets(records, tiny.PARAMS)
    return rows([{name: tensor.numpy() for name, tensor in batch.items()}])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": 7, "exclude_folds": ("1",), "constraints": ("noise,mixing",), "count": 40},
        {"shares": (3.0, 0.0, 1.0, 1.0, 1.0)},
    ],
)
def test_the_first_triplets_are_the_jobs_record_for_record(clips, tmp_path, options):
    expected = parsed(sample(clips, tmp_path / "set", **options))
    found = rows(batches_of(clips, len(expected) // 20, **options))
    assert found == expected


def test_the_records_are_the_jobs_byte_for_byte(clips, tmp_path):
    info = examples.read_dataset_info(clips, kind=examples.CLIPS)
    plan = triplets.make_plan(info, CONSTRAINTS, 300, (), 0)
    held = on_the_fly._HeldClips(clips, info, plan, ())
    assert held.triplet_records(range(300), plan) == sample(clips, tmp_path / "set")


def test_the_next_epoch_is_another_set_of_the_same_kind(clips, tmp_path):
    """The draws of the job under another seed; as many of each constraint, each anchor as often."""
    batches = batches_of(clips, 45)
    epochs = [rows(batches[15 * epoch : 15 * (epoch + 1)]) for epoch in range(3)]
    for first, second in itertools.combinations(epochs, 2):
        assert len(set(first) & set(second)) < 30  # of 300, some few of so small a set come again
    expected = parsed(sample(clips, tmp_path / "set", seed=sampling.stable_hash(0, 2)))
    assert epochs[2] == expected


def test_both_routes_draw_from_the_same_distribution(clips, tmp_path):
    """Anchors, positives and negatives of later epochs against those of a large set: chi-square."""
    stream = batches_of(clips, 30, constraints=("translation:2",), count=200, batch_size=100)
    batch = {
        role: np.concatenate([b[role] for b in stream[2:]]) for role in ("anchor", "positive", "negative")
    }
    dataset_records = sample(
        clips, tmp_path / "set", constraints=("translation:2",), count=2800, seed=99, allow_repeats=True
    )
    whole = examples.parse_triplets(dataset_records, tiny.PARAMS)
    for role in ("anchor", "negative"):
        counts = [
            collections.Counter(window.tobytes() for window in windows)
            for windows in (batch[role], whole[role].numpy())
        ]
        keys = sorted(set(counts[0]) | set(counts[1]))
        table = [[count[key] for key in keys] for count in counts]
        assert stats.chi2_contingency(table).pvalue > 1e-3
    energies = [windows.sum(axis=(1, 2)) for windows in (batch["positive"], whole["positive"].numpy())]
    assert stats.ks_2samp(*energies).pvalue > 1e-3


def test_a_stream_without_a_count_draws_each_window_once_a_constraint(clips):
    num_windows = sum(len(clip.mel_energy) // 8 for clip in some_clips())
    constraints = ("noise", "mixing")
    whole = batches_of(clips, 2, constraints=constraints, count=0, batch_size=num_windows)
    again = batches_of(clips, 2, constraints=constraints, count=2 * num_windows, batch_size=num_windows)
    assert rows(whole) == rows(again)
    minable = np.concatenate([batch["is_minable"] for batch in whole])
    anchors = np.concatenate([batch["anchor"] for batch in whole])
    for of_constraint in (anchors[minable], anchors[~minable]):
        assert len(of_constraint) == num_windows
        # Windows are told apart by their energies, but for those of the silent clip.
        num_silent = len(some_clips()[3].mel_energy) // 8
        assert len({window.tobytes() for window in of_constraint}) == num_windows - num_silent + 1


def test_batches_are_what_training_reads(clips, tmp_path):
    sample(clips, tmp_path / "set")
    read = examples.triplet_dataset([str(tmp_path / "set")], batch_size=6)
    streamed = on_the_fly.triplet_stream(clips, constraints=CONSTRAINTS, batch_size=6, count=300)
    spec = dict(read.element_spec)
    del spec["weight"]  # which is 1 where there is none
    assert streamed.element_spec == spec
    for batch in streamed.take(3):
        for role in ("anchor", "positive", "negative"):
            assert batch[role].shape == (6, *tiny.WINDOW)
            assert np.isfinite(batch[role]).all()


def test_a_stream_goes_over_the_ends_of_its_epochs(clips):
    batches = batches_of(clips, 20, count=7, batch_size=5)
    assert {len(batch["anchor"]) for batch in batches} == {5}
    assert rows(batches[:7]) == rows(batches_of(clips, 5, count=7, batch_size=7))
    assert rows(batches) == rows(batches_of(clips, 20, count=7, batch_size=5))


def test_blocks_change_nothing(clips, monkeypatch):
    whole = rows(batches_of(clips, 15))
    monkeypatch.setattr(on_the_fly, "_BLOCK", 7)
    assert rows(batches_of(clips, 15)) == whole


def test_excluded_folds_occur_nowhere(clips):
    of_fold = {clip.recording_id for clip in some_clips() if clip.fold == "1"}
    assert of_fold & {clip.recording_id for clip in some_clips() if clip.fold == "0"} == set()
    excluded = set(examples.fingerprint(sorted(of_fold)).numpy().tolist())
    for batch in batches_of(clips, 30, exclude_folds=("1",)):
        assert not excluded & set(batch["anchor_recording"].tolist())
        assert not excluded & set(batch["negative_recording"].tolist())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1 and count at least 0, got 0 and 300"),
        ({"count": -1}, "got 20 and -1"),
        ({"constraints": ("noise:-1",)}, "noise_stddev must be a number from"),
        ({"constraints": ("translation:8",)}, "must be less than the 8 mel bins, got 8"),
        ({"shares": (1.0,)}, "shares must be one a constraint, 5, got 1"),
        ({"exclude_folds": ("9",)}, r"fold '9' does not occur in .*clips; it has \['0', '1'\]"),
    ],
)
def test_bad_arguments_are_refused(clips, options, message):
    with pytest.raises(ValueError, match=message):
        batches_of(clips, 1, **options)


def test_what_cannot_be_is_said_before_the_first_batch(tmp_path):
    def stream(name, clips, **options):
        folder = tiny.write_clips(tmp_path / name, clips)
        return on_the_fly.triplet_stream(folder, batch_size=2, **options)

    with pytest.raises(windows.ImpossibleError, match=r"none has 0 recording\(s\) with at least one window"):
        stream("none", [tiny.make_clip(0, num_frames=7)])
    with pytest.raises(windows.ImpossibleError, match=r"one has 1 recording\(s\) with at least one window"):
        stream("one", [tiny.make_clip(0, num_frames=30)])
    with pytest.raises(windows.ImpossibleError, match=r"no window of .*apart can be an anchor"):
        stream("apart", [tiny.make_clip(n, num_frames=8) for n in range(3)])
    with pytest.raises(windows.ImpossibleError, match=r"the clips of .*plain have no labels"):
        stream("plain", [tiny.make_clip(n) for n in range(3)], constraints=("labels",))
    with pytest.raises(windows.ImpossibleError, match=r"no class of .*single has two windows"):
        stream("single", [tiny.make_clip(n, labels=("x",)) for n in range(3)], constraints=("labels",))
    with pytest.raises(examples.DatasetError, match="nowhere is not a folder"):
        on_the_fly.triplet_stream(str(tmp_path / "nowhere"), batch_size=1)


def test_a_small_set_repeats_itself(tmp_path):
    """A stream is endless, so it says nothing of repeats."""
    folder = tiny.write_clips(tmp_path / "clips", [tiny.make_clip(n, num_frames=8) for n in range(2)])
    batches = batches_of(folder, 3, constraints=("mixing",), count=0, batch_size=2)
    assert len(set(rows(batches))) == 2


def test_damaged_clips_are_named(tmp_path):
    folder = tiny.write_clips(tmp_path / "clips", some_clips())
    tiny.flip_byte(tmp_path / "clips" / "clips-00001.tfrecord", -100)
    with pytest.raises(examples.DatasetError, match=r"clips-00001\.tfrecord is damaged after record 7"):
        on_the_fly.triplet_stream(folder, batch_size=2)


def test_a_stream_can_be_trained_on_from_a_graph(clips):
    """`from_generator` works inside what Keras makes of a data set."""
    stream = on_the_fly.triplet_stream(clips, constraints=CONSTRAINTS, batch_size=4)

    @tf.function
    def mean_gap(batch):
        return tf.reduce_mean(batch["anchor"] - batch["negative"])

    assert all(np.isfinite(mean_gap(batch)) for batch in stream.take(3))
