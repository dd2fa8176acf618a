"""Tests of tfsound.examples.instances: dense, stable ids; streams that go on; what is refused."""

import dataclasses
import os

import numpy as np
import pytest
import tiny

from tfsound import examples, mel

CLIPS = [
    tiny.make_clip(n, num_frames=8 + n % 5, labels=(("cat", "dog")[n % 2],) if n % 3 else (), fold=str(n % 4))
    for n in range(20)
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return tiny.write_clips(tmp_path_factory.mktemp("instances") / "clips", CLIPS)


def in_order_of_ids(excluded=()):
    """Shard after shard, the admitted clips: what ids are to be."""
    return [clip for clip in [*CLIPS[::2], *CLIPS[1::2]] if clip.fold not in excluded]


def first_window(clip):
    """As it is served: padded with silence to a window."""
    energies = np.zeros(tiny.WINDOW, np.float32)
    found = clip.mel_energy[: tiny.WINDOW[0]].astype(np.float32)
    energies[: len(found)] = found
    return mel.log_mel(energies, tiny.PARAMS).numpy()


def read_epochs(instances, num_epochs, *, first_batch=0, **options):
    """Rows of whole epochs: (id, log-mel, labels)."""
    batch_size = 5
    data = examples.instance_dataset(instances, batch_size=batch_size, first_batch=first_batch, **options)
    num_batches = num_epochs * instances.num_instances // batch_size
    rows = []
    for batch in data.take(num_batches).as_numpy_iterator():
        rows += list(zip(batch["instance_id"], batch["log_mel"], batch["labels"], strict=True))
    return rows


@pytest.mark.parametrize("excluded", [(), ("1",), ("0", "3")])
def test_every_epoch_has_every_id_once_with_its_clip(clips, excluded):
    instances = examples.find_instances([clips], exclude_folds=excluded)
    expected = in_order_of_ids(excluded=excluded)
    assert instances.num_instances == len(expected)
    rows = read_epochs(instances, 2)
    size = instances.num_instances
    for epoch in (rows[:size], rows[size:]):
        assert sorted(number for number, *_ in epoch) == list(range(size))
    assert [number for number, *_ in rows[:size]] != [number for number, *_ in rows[size:]]
    for number, log_mel, labels in rows:
        np.testing.assert_allclose(log_mel, first_window(expected[number]), atol=1e-6)
        assert [name for name, has in zip(instances.class_names, labels, strict=True) if has] == list(
            expected[number].labels
        )


def test_folds_may_be_named_that_are_admitted(clips):
    instances = examples.find_instances([clips], folds=("1", "2"), exclude_folds=("2",))
    assert instances.num_instances == sum(clip.fold == "1" for clip in CLIPS) == 5
    rows = read_epochs(instances, 1)
    expected = [clip for clip in in_order_of_ids() if clip.fold == "1"]
    for number, log_mel, _ in rows:
        np.testing.assert_allclose(log_mel, first_window(expected[number]), atol=1e-6)


@pytest.mark.parametrize("first_batch", [1, 4, 9])
def test_a_stream_can_be_taken_up_anywhere_with_its_augmentation(clips, first_batch):
    instances = examples.find_instances([clips])
    options = {"augmentation": examples.Augmentation(), "seed": 3, "shuffle_block": 4}
    whole = read_epochs(instances, 3, **options)
    rest = read_epochs(instances, 1, first_batch=first_batch, **options)
    for found, expected in zip(rest, whole[5 * first_batch :], strict=False):
        assert found[0] == expected[0]
        np.testing.assert_array_equal(found[1], expected[1])


def test_a_clip_is_augmented_anew_each_time(clips):
    instances = examples.find_instances([clips])
    views = {}
    for number, log_mel, _ in read_epochs(instances, 4, augmentation=examples.Augmentation()):
        views.setdefault(number, []).append(log_mel.tobytes())
    num_different = [len(set(seen)) for seen in views.values()]
    assert min(num_different) > 1  # of a few frames, some views are alike by chance
    assert np.mean(num_different) > 3


def test_ids_of_added_sets_come_behind_the_old(clips, tmp_path):
    more = tiny.write_clips(tmp_path / "more", [tiny.make_clip(n) for n in range(50, 57)])
    alone, both = examples.find_instances([clips]), examples.find_instances([clips, more])
    assert both.paths[: len(alone.paths)] == alone.paths
    np.testing.assert_array_equal(both.first_ids[: len(alone.paths)], alone.first_ids)
    assert both.num_instances == 27


def test_sets_of_other_front_ends_are_refused(clips, tmp_path):
    other = dataclasses.replace(tiny.PARAMS, sample_rate=44_100)
    records = [examples.encode_clip(tiny.make_clip(1))]
    path = tiny.write_set(tmp_path / "other", examples.CLIPS, [records], mel_params=other)
    with pytest.raises(ValueError, match="sample_rate is 44100 and must be 16000"):
        examples.find_instances([clips, path])
    stereo = dataclasses.replace(tiny.PARAMS, num_channels=2)
    path = tiny.write_set(tmp_path / "stereo", examples.CLIPS, [records], mel_params=stereo)
    with pytest.raises(ValueError, match="num_channels is 2 and must be 1"):
        examples.find_instances([clips, path])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": ("9",)}, "fold '9' does not occur in"),
        ({"exclude_folds": ("a",)}, "fold 'a' does not occur in"),
        ({"exclude_folds": ("0", "1", "2", "3")}, "holds no clip in folds of any name without"),
    ],
)
def test_folds_that_leave_nothing_are_refused(clips, options, message):
    with pytest.raises(examples.DatasetError, match=message):
        examples.find_instances([clips], **options)


def test_a_set_given_twice_is_refused(clips):
    with pytest.raises(examples.DatasetError, match="was given twice"):
        examples.find_instances([clips, clips])


def test_a_batch_of_nothing_is_refused(clips):
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        examples.instance_dataset(examples.find_instances([clips]), batch_size=0)


def test_a_damaged_shard_is_named(clips, tmp_path):
    copy = tiny.write_clips(tmp_path / "copy", CLIPS)
    path = os.path.join(copy, "clips-00001.tfrecord")
    tiny.flip_byte(path, 500)
    with pytest.raises(examples.DatasetError, match=r"clips-00001\.tfrecord is damaged"):
        examples.find_instances([copy])
