"""Pair examples: what a record holds and a batch says, merged sets, and the streams of batches."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsound import examples, mel

UNTIMED = settings(deadline=None, max_examples=40)
TEXT = st.text(max_size=12)  # of any Unicode that UTF-8 can hold
MODALITIES = ("audio_audio", "audio_image")


def window(number) -> np.ndarray:
    return np.random.default_rng(number).uniform(0, 1, tiny.WINDOW).astype("<f2")


def make_pair(number, modality) -> bytes:
    ref = examples.WindowRef(f"clip-{number}", f"recording-{number % 5}", float(number))
    audio = examples.encode_mel_energy(window(number))
    if modality == "audio_audio":
        other = dataclasses.replace(ref, start_seconds=number + 1.5)
        return examples.encode_pair(audio, ref, examples.encode_mel_energy(window(number + 1000)), other)
    frame = examples.FrameRef(f"other-{number}", ref.recording_id, number + 0.25)
    return examples.encode_pair(audio, ref, tiny.jpeg(number), frame)


def write_pairs(directory, numbers, modality, *, num_shards=3, gap=10.0, **fields):
    records = [make_pair(number, modality) for number in numbers]
    parameters = {"modality": modality, "max_time_gap_seconds": gap}
    shards = [records[i::num_shards] for i in range(num_shards)]
    return tiny.write_set(directory, examples.PAIRS, shards, parameters=parameters, **fields)


def log_mel_of(number) -> np.ndarray:
    return np.log(window(number).astype(np.float64) + tiny.PARAMS.log_offset)


TOTALS = np.array([log_mel_of(number).sum() for number in range(40)])


def numbers_of(batch) -> list[int]:
    """The numbers of the pairs of a batch, found by their windows."""
    distances = np.abs(batch["audio"].numpy().sum(axis=(1, 2))[:, None] - TOTALS)
    assert distances.min(axis=1).max() < 1e-3
    return distances.argmin(axis=1).tolist()


def test_the_windows_tell_the_pairs_apart():
    assert np.diff(np.sort(TOTALS)).min() > 5e-3


def values_of(record) -> dict[str, list]:
    features = tf.train.Example.FromString(record).features.feature
    return {name: list(f.bytes_list.value or f.float_list.value) for name, f in features.items()}


def test_a_pair_of_sounds_holds_what_it_was_made_of():
    assert values_of(make_pair(7, "audio_audio")) == {
        "audio": [window(7).tobytes()], "audio_clip_id": [b"clip-7"], "audio_recording_id": [b"recording-2"],
        "audio_start_seconds": [7.0],
        "audio_2": [window(1007).tobytes()], "audio_2_clip_id": [b"clip-7"],
        "audio_2_recording_id": [b"recording-2"], "audio_2_start_seconds": [8.5],
    }  # fmt: skip
    assert make_pair(7, "audio_audio") == make_pair(7, "audio_audio")


def test_a_pair_of_sound_and_image_holds_what_it_was_made_of():
    assert values_of(make_pair(7, "audio_image")) == {
        "audio": [window(7).tobytes()], "audio_clip_id": [b"clip-7"], "audio_recording_id": [b"recording-2"],
        "audio_start_seconds": [7.0],
        "image": [tiny.jpeg(7)], "image_clip_id": [b"other-7"], "image_recording_id": [b"recording-2"],
        "image_seconds": [7.25],
    }  # fmt: skip


@UNTIMED
@given(
    ids=st.tuples(TEXT, TEXT, TEXT, TEXT),
    times=st.tuples(st.floats(0, 1e6, width=32), st.floats(-1e3, 1e6, width=32)),
    other=st.binary(max_size=40),
    is_image=st.booleans(),
)
def test_ids_and_times_of_any_kind_come_back(ids, times, other, is_image):
    kind, role, time = (
        (examples.FrameRef, "image", "image_seconds") if is_image
        else (examples.WindowRef, "audio_2", "audio_2_start_seconds")
    )  # fmt: skip
    record = examples.encode_pair(
        b"", examples.WindowRef(ids[0], ids[1], times[0]), other, kind(ids[2], ids[3], times[1])
    )
    feature = tf.train.Example.FromString(record).features.feature
    texts = ("audio_clip_id", "audio_recording_id", f"{role}_clip_id", f"{role}_recording_id")
    assert tuple(feature[name].bytes_list.value[0].decode() for name in texts) == ids
    assert feature["audio_start_seconds"].float_list.value[0] == times[0]
    assert feature[time].float_list.value[0] == times[1]
    assert feature[role].bytes_list.value == [other]


def test_parsed_pairs_of_sounds_agree_with_numpy():
    batch = examples.parse_pairs([make_pair(n, "audio_audio") for n in range(9)], tiny.PARAMS, "audio_audio")
    assert set(batch) == {"audio", "audio_2"}
    np.testing.assert_allclose(batch["audio"], [log_mel_of(n) for n in range(9)], atol=1e-6)
    np.testing.assert_allclose(batch["audio_2"], [log_mel_of(n + 1000) for n in range(9)], atol=1e-6)
    assert batch["audio"].dtype == batch["audio_2"].dtype == tf.float32


def test_parsed_images_are_the_pictures_in_zero_to_one():
    batch = examples.parse_pairs([make_pair(n, "audio_image") for n in range(4)], tiny.PARAMS, "audio_image")
    assert set(batch) == {"audio", "image"}
    assert batch["image"].dtype == tf.float32
    assert batch["image"].shape == (4, 128, 128, 3)
    for number in range(4):
        expected = tf.io.decode_jpeg(tiny.jpeg(number), dct_method="INTEGER_ACCURATE").numpy() / 255
        np.testing.assert_allclose(batch["image"][number], expected, atol=1e-6)
    assert 0 <= batch["image"].numpy().min() < 0.1
    assert 0.9 < batch["image"].numpy().max() <= 1
    # The same inside a graph, where the pictures' shape is known.
    traced = tf.function(lambda records: examples.parse_pairs(records, tiny.PARAMS, "audio_image"))
    graph = traced.get_concrete_function(tf.TensorSpec([None], tf.string))
    assert graph.structured_outputs["image"].shape.as_list() == [None, 128, 128, 3]
    records = tf.constant([make_pair(n, "audio_image") for n in range(4)])
    np.testing.assert_array_equal(traced(records)["image"], batch["image"])


def test_grey_jpegs_have_three_channels():
    grey = tf.io.encode_jpeg(np.full((128, 128, 1), 77, np.uint8)).numpy()
    images = examples.decode_images([grey])
    np.testing.assert_allclose(images, np.full((1, 128, 128, 3), 77 / 255), atol=1e-6)
    assert examples.decode_images(tf.zeros([0], tf.string)).shape == (0, 128, 128, 3)


@pytest.mark.parametrize(
    "data",
    [b"", b"no jpeg", tiny.jpeg(0)[:50], tf.io.encode_jpeg(np.zeros((64, 128, 3), np.uint8)).numpy()],
)
def test_what_is_no_picture_of_that_size_is_refused(data):
    ref = examples.WindowRef("c", "r", 0.0)
    audio = examples.encode_mel_energy(window(0))
    record = examples.encode_pair(audio, ref, data, examples.FrameRef("c", "r", 0.0))
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        examples.parse_pairs([record], tiny.PARAMS, "audio_image")


@UNTIMED
@given(data=st.data())
def test_a_mutated_record_is_parsed_or_refused(data):
    """Whatever the bytes are: a batch of the right shape, or an error of TensorFlow's, and no crash."""
    record = bytearray(make_pair(3, "audio_image"))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(record) - 1))
        how = data.draw(st.sampled_from(["change", "cut"]))
        if how == "change":
            record[position] = data.draw(st.integers(0, 255))
        else:
            del record[max(1, position) :]
    try:
        batch = examples.parse_pairs([bytes(record)], tiny.PARAMS, "audio_image")
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError):  # the latter: of its message's own bytes
        return
    assert batch["audio"].shape[1:] == tiny.WINDOW
    assert batch["image"].shape == (1, 128, 128, 3)


def test_a_pair_is_not_read_as_the_other_modality():
    with pytest.raises(tf.errors.InvalidArgumentError, match="Feature: image"):
        examples.parse_pairs([make_pair(0, "audio_audio")], tiny.PARAMS, "audio_image")
    with pytest.raises(ValueError, match=r"modality must be one of .*got 'image'"):
        examples.parse_pairs([make_pair(0, "audio_image")], tiny.PARAMS, "image")


# Streams.


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_pair_comes_once_an_epoch_and_a_stream_can_be_taken_up(tmp_path, modality):
    directory = write_pairs(tmp_path / "pairs", range(11), modality)
    options = {"batch_size": 4, "modality": modality, "seed": 3, "shuffle_block": 5}
    batches = list(examples.pair_dataset([directory], **options).take(11))
    stream = [number for batch in batches for number in numbers_of(batch)]
    epochs = [stream[11 * epoch : 11 * (epoch + 1)] for epoch in range(4)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(11))] * 4
    assert len(set(map(tuple, epochs))) == 4
    for first_batch in (1, 3, 7):
        again = examples.pair_dataset([directory], first_batch=first_batch, **options).take(2)
        for found, expected in zip(again, batches[first_batch:], strict=False):
            for name, values in expected.items():
                np.testing.assert_array_equal(found[name], values)


def test_sound_and_picture_of_a_pair_stay_together(tmp_path):
    directory = write_pairs(tmp_path / "pairs", range(9), "audio_image")
    for batch in examples.pair_dataset([directory], batch_size=6, modality="audio_image").take(4):
        for number, image in zip(numbers_of(batch), batch["image"], strict=True):
            np.testing.assert_array_equal(image, examples.decode_images([tiny.jpeg(number)])[0])


def test_sets_are_merged_by_listing_and_other_gaps_are_told(tmp_path):
    near = write_pairs(tmp_path / "near", range(5), "audio_audio", gap=1.0)
    far = write_pairs(tmp_path / "far", range(5, 12), "audio_audio", gap=10.0)
    with pytest.warns(UserWarning, match=r"audio_audio: sets of different max_time_gap_seconds are merged"):
        assert examples.read_pair_infos([near, far], "audio_audio") == (tiny.PARAMS, 12)
    with pytest.warns(UserWarning, match="merged"):
        dataset = examples.pair_dataset([near, far], batch_size=12, modality="audio_audio")
    assert sorted(numbers_of(next(iter(dataset)))) == list(range(12))


def test_both_modalities_side_by_side(tmp_path):
    sounds = write_pairs(tmp_path / "sounds", range(7), "audio_audio")
    pictures = write_pairs(tmp_path / "pictures", range(20, 31), "audio_image")
    options = {"batch_size": 3, "seed": 2}
    both = list(examples.coincidence_dataset([sounds], [pictures], **options).take(9))
    assert [set(batch) for batch in both] == [{"audio_audio", "audio_image"}] * 9
    for modality, directory in (("audio_audio", sounds), ("audio_image", pictures)):
        alone = list(examples.pair_dataset([directory], modality=modality, **options).take(9))
        only = [[directory], []] if modality == "audio_audio" else [[], [directory]]
        one_sided = list(examples.coincidence_dataset(*only, **options).take(9))
        for batch, own, single in zip(both, alone, one_sided, strict=True):
            assert set(single) == {modality}
            for name, values in own.items():
                np.testing.assert_array_equal(batch[modality][name], values)
                np.testing.assert_array_equal(single[modality][name], values)
    later = list(examples.coincidence_dataset([sounds], [pictures], first_batch=5, **options).take(4))
    for found, expected in zip(later, both[5:], strict=True):
        np.testing.assert_array_equal(found["audio_image"]["image"], expected["audio_image"]["image"])
        np.testing.assert_array_equal(found["audio_audio"]["audio_2"], expected["audio_audio"]["audio_2"])


def test_what_cannot_be_a_stream_is_refused(tmp_path):
    sounds = write_pairs(tmp_path / "sounds", range(4), "audio_audio")
    pictures = write_pairs(tmp_path / "pictures", range(4), "audio_image")
    empty = write_pairs(tmp_path / "empty", [], "audio_audio")
    triplets = tiny.write_triplets(tmp_path / "triplets", range(4))
    options = {"batch_size": 2, "modality": "audio_audio"}
    with pytest.raises(examples.DatasetError, match="no set of pairs was given; name at least one folder"):
        examples.pair_dataset([], **options)
    with pytest.raises(examples.DatasetError, match="either modality"):
        examples.coincidence_dataset(batch_size=2)
    with pytest.raises(examples.DatasetError, match="empty holds no pair"):
        examples.pair_dataset([sounds, empty], **options)
    with pytest.raises(
        examples.DatasetError, match="pictures holds pairs of modality 'audio_image', expected 'audio_audio'"
    ):
        examples.pair_dataset([sounds, pictures], **options)
    with pytest.raises(examples.DatasetError, match="triplets holds triplets examples, expected pairs"):
        examples.pair_dataset([triplets], **options)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        examples.pair_dataset([sounds], batch_size=0, modality="audio_audio")
    other = dataclasses.replace(tiny.PARAMS, log_offset=0.5)
    strange = write_pairs(tmp_path / "strange", range(4), "audio_image", mel_params=other)
    with pytest.raises(ValueError, match=r"log_offset is 0\.5 and must be 0\.01"):
        examples.coincidence_dataset([sounds], [strange], batch_size=2)
    with pytest.raises(ValueError, match=r"log_offset is 0\.01 and must be 0\.5"):
        examples.pair_dataset([sounds], mel_params=other, **options)


def test_the_front_end_is_the_one_of_the_library():
    batch = examples.parse_pairs([make_pair(0, "audio_audio")], tiny.PARAMS, "audio_audio")
    np.testing.assert_array_equal(batch["audio"][0], mel.log_mel(tf.constant(window(0)), tiny.PARAMS))
