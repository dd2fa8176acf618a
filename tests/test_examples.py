"""Clip examples and sidecars: round trips, and every way a set can be broken."""

import dataclasses
import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfsound import examples

FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(max_size=12)  # of any Unicode that UTF-8 can hold

# Float32, which records hold, ascending; and a picture for each.
FRAME_SECONDS = st.lists(st.floats(0, 1e5, width=32), max_size=4).map(sorted).map(tuple)

CLIPS = st.builds(
    lambda frame_seconds, **fields: examples.Clip(
        frame_seconds=frame_seconds,
        frame_jpegs=tuple(bytes([number]) * number for number in range(len(frame_seconds))),
        **fields,
    ),
    frame_seconds=FRAME_SECONDS,
    clip_id=TEXT,
    recording_id=TEXT,
    start_seconds=st.floats(0, 1e6, width=32),
    labels=st.lists(TEXT, max_size=4).map(tuple),
    fold=TEXT,
    split=TEXT,
    mel_energy=st.tuples(st.integers(0, 5), st.integers(0, 2**32 - 1)).map(
        lambda drawn: np.random.default_rng(drawn[1]).uniform(0, 60000, (drawn[0], 8)).astype("<f2")
    ),
)


def require_equal_clips(found, expected):
    for field in dataclasses.fields(examples.Clip):
        left, right = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "mel_energy":
            assert left.dtype == np.dtype("<f2")
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right, field.name


@FEW
@given(clip=CLIPS)
def test_a_clip_comes_back_as_it_was(clip):
    record = examples.encode_clip(clip)
    require_equal_clips(examples.decode_clip(record, 8), clip)
    assert examples.encode_clip(clip) == record


@FEW
@given(clip=CLIPS)
def test_tensorflow_reads_a_clip_as_numpy_does(clip):
    decoded = examples.decode_clip(examples.encode_clip(clip), 8)
    scalar = {"clip_id": tf.string, "recording_id": tf.string, "fold": tf.string, "split": tf.string}
    scalar |= {"start_seconds": tf.float32, "num_frames": tf.int64, "mel_energy": tf.string}
    schema = {name: tf.io.FixedLenFeature([], dtype) for name, dtype in scalar.items()}
    schema["labels"] = tf.io.RaggedFeature(tf.string)
    schema |= {
        "frame_jpegs": tf.io.RaggedFeature(tf.string),
        "frame_seconds": tf.io.RaggedFeature(tf.float32),
    }
    parsed = tf.io.parse_single_example(examples.encode_clip(clip), schema)
    for name in ("clip_id", "recording_id", "fold", "split"):
        assert parsed[name].numpy().decode() == getattr(decoded, name)
    assert [label.decode() for label in parsed["labels"].numpy()] == list(decoded.labels)
    assert tuple(parsed["frame_jpegs"].numpy()) == decoded.frame_jpegs
    assert tuple(parsed["frame_seconds"].numpy()) == decoded.frame_seconds
    assert parsed["start_seconds"] == decoded.start_seconds
    assert parsed["num_frames"] == len(decoded.mel_energy)
    energies = tf.reshape(tf.io.decode_raw(parsed["mel_energy"], tf.float16), [-1, 8])
    np.testing.assert_array_equal(energies, decoded.mel_energy)


def test_mel_energies_are_little_endian_float16_row_by_row():
    data = examples.encode_mel_energy(np.array([[1.0, 2.0], [0.5, 65504.0]]))
    assert data == bytes.fromhex("003c 0040 0038 ff7b")
    decoded = examples.decode_mel_energy(data, 2)
    assert decoded.dtype == np.dtype("<f2")
    np.testing.assert_array_equal(decoded, [[1.0, 2.0], [0.5, 65504.0]])


@pytest.mark.parametrize("value", [1e5, 65520.0, np.inf, np.nan])
def test_energies_beyond_float16_are_refused(value):
    energies = np.array([[1.0, value]])
    with pytest.raises(
        ValueError, match=r"mel energies reach .*, beyond float16; .*scale the recording down"
    ):
        examples.encode_mel_energy(energies)
    with pytest.raises(ValueError, match="beyond float16"):
        examples.encode_clip(dataclasses.replace(tiny.make_clip(0), mel_energy=energies))


def require_decodes_or_says_why(record):
    try:
        clip = examples.decode_clip(record, 8)
    except examples.DatasetError:
        return
    assert clip.mel_energy.ndim == 2
    assert clip.mel_energy.shape[1] == 8
    assert isinstance(clip.clip_id, str)
    assert all(isinstance(label, str) for label in clip.labels)


@FEW
@given(record=st.binary(max_size=300))
def test_random_bytes_are_no_clip(record):
    require_decodes_or_says_why(record)


@settings(FEW, max_examples=300)
@given(data=st.data())
def test_a_mutated_clip_is_read_or_refused(data):
    clip = tiny.make_clip(1, labels=("bell",), num_frames=2)
    if data.draw(st.booleans()):
        clip = dataclasses.replace(clip, frame_jpegs=(b"one", b"two"), frame_seconds=(0.5, 1.5))
    record = bytearray(examples.encode_clip(clip))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(record) - 1))
        how = data.draw(st.sampled_from(["change", "remove", "insert", "cut"]))
        if how == "change":
            record[position] = data.draw(st.integers(0, 255))
        elif how == "remove" and len(record) > 1:
            del record[position]
        elif how == "insert":
            record.insert(position, data.draw(st.integers(0, 255)))
        else:
            del record[max(1, position) :]
    require_decodes_or_says_why(bytes(record))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(examples.Clip)])
def test_a_clip_without_a_field_is_refused(name):
    example = tf.train.Example.FromString(examples.encode_clip(tiny.make_clip(0)))
    example.features.feature.pop(name, None)
    if name in ("labels", "frame_jpegs", "frame_seconds"):  # which may be none
        assert getattr(examples.decode_clip(example.SerializeToString(), 8), name) == ()
    else:
        with pytest.raises(examples.DatasetError, match="is no clip example of schema 1"):
            examples.decode_clip(example.SerializeToString(), 8)


def make_video_clip(seconds=(0.5, 1.5), jpegs=(b"one", b"two")):
    return dataclasses.replace(tiny.make_clip(0), frame_jpegs=jpegs, frame_seconds=seconds)


def test_a_clip_of_sound_alone_is_the_bytes_that_it_was_before_there_were_pictures():
    example = tf.train.Example.FromString(examples.encode_clip(tiny.make_clip(0)))
    assert set(example.features.feature) == {
        *("clip_id", "recording_id", "start_seconds", "labels", "fold", "split", "num_frames", "mel_energy"),
    }


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (make_video_clip(seconds=(0.5,)), "has 2 pictures and 1 times"),
        (make_video_clip(jpegs=()), "has 0 pictures and 2 times"),
        (make_video_clip(seconds=(1.5, 0.5)), r"has pictures at \[1.5, 0.5\] s; expected ascending times"),
        (make_video_clip(seconds=(0.5, np.nan)), r"has pictures at \[0.5, nan\] s; expected ascending times"),
    ],
)
def test_pictures_without_a_time_each_are_refused(clip, message):
    with pytest.raises(ValueError, match=f"clip 'clip-0' {message}"):
        examples.encode_clip(clip)


def test_a_record_whose_pictures_and_times_do_not_match_is_refused():
    example = tf.train.Example.FromString(examples.encode_clip(make_video_clip()))
    example.features.feature["frame_seconds"].float_list.value.append(0.25)
    with pytest.raises(examples.DatasetError, match="clip 'clip-0' has 2 pictures and 3 times"):
        examples.decode_clip(example.SerializeToString(), 8)
    del example.features.feature["frame_seconds"].float_list.value[0]
    with pytest.raises(examples.DatasetError, match="expected ascending times"):
        examples.decode_clip(example.SerializeToString(), 8)


def test_frames_that_do_not_add_up_are_refused():
    record = examples.encode_clip(tiny.make_clip(3, num_frames=6))
    with pytest.raises(examples.DatasetError, match="clip 'clip-3' says 6 frames and holds 12"):
        examples.decode_clip(record, 4)
    with pytest.raises(examples.DatasetError, match="cannot reshape"):
        examples.decode_clip(record, 5)


# The sidecar.


def make_info(**fields):
    defaults = {
        "kind": examples.CLIPS, "mel_params": tiny.PARAMS, "num_windows": 7,
        "shards": (examples.Shard("a", 2, 30), examples.Shard("b", 1, 20)),
        "label_names": ("Käuzchen", "bell"), "folds": ("1", "2"), "num_failures": 3, "num_images": 5,
        "num_clips_without_images": 1,
        "parameters": {"hop": 0.5, "names": ["x"]}, "command": "tfsound examples …",
    }  # fmt: skip
    return examples.DatasetInfo(**(defaults | fields))


def test_a_sidecar_comes_back_as_it_was():
    info = make_info()
    assert info.num_examples == 3
    assert examples.DatasetInfo.from_json(info.to_json(), "here") == info
    assert examples.DatasetInfo.from_json(info.to_json().encode(), "here") == info
    assert json.loads(info.to_json())["num_examples"] == 3
    whole = dataclasses.replace(tiny.PARAMS, mel_min_hz=125)  # JSON does not tell 125 from 125.0
    assert examples.DatasetInfo.from_json(make_info(mel_params=whole).to_json(), "here").mel_params == whole


def test_a_sidecar_from_before_there_were_pictures_is_read():
    fields = json.loads(make_info(num_images=0, num_clips_without_images=0).to_json())
    del fields["num_images"], fields["num_clips_without_images"]
    info = examples.DatasetInfo.from_json(json.dumps(fields), "here")
    assert (info.num_images, info.num_clips_without_images) == (0, 0)
    assert "images" not in str(info)
    assert str(make_info()).endswith("3 clips rejected; 5 images, 1 clips without one")


def test_what_a_sidecar_says_of_itself():
    assert str(make_info()).startswith(
        "3 clips (7 windows) in 2 files; 2 labels, 2 folds, 3 clips rejected; "
    )
    assert str(make_info(num_clips=3)).startswith("3 clips (7 windows)")
    assert str(make_info(num_clips=2, folds=("",))).startswith(
        "3 pieces of 2 clips (7 windows) in 2 files; 2 labels, 0 folds, 3 clips rejected; "
    )
    assert ", 1 folds, " in str(make_info(folds=("", "1")))


@pytest.mark.parametrize("number", [float("inf"), float("-inf"), float("nan")])
def test_what_is_no_json_is_not_written(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        make_info(parameters={"gap": number}).to_json()


def test_a_sidecar_of_another_schema_is_refused():
    text = make_info(schema_version=2).to_json()
    with pytest.raises(examples.DatasetError, match="here has schema version 2, this tfsound reads 1"):
        examples.DatasetInfo.from_json(text, "here")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '"schema_version"', "null", "{}", "[" * 100_000, "\ufeff{}", "9" * 5000]
)
def test_garbled_json_is_no_sidecar(text):
    with pytest.raises(examples.DatasetError, match="here is not a sidecar of tfsound"):
        examples.DatasetInfo.from_json(text, "here")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_windows", "7"), ("shards", None), ("shards", [["a", 1, 2]]), ("label_names", [1]), ("folds", 1),
        ("shards", [{"name": 1, "num_examples": 1, "num_bytes": 1}]),
        ("shards", [{"name": "a", "num_examples": "1", "num_bytes": 1}]),
        ("mel_params", 3), ("mel_params", {}), ("mel_params", dataclasses.asdict(tiny.PARAMS) | {"extra": 1}),
        ("mel_params", dataclasses.asdict(tiny.PARAMS) | {"context_frames": 8.0}),
        ("mel_params", dataclasses.asdict(tiny.PARAMS) | {"sample_rate": 10**400}),
        ("label_names", ["\ud800"]), ("shards", [{"name": "\ud800", "num_examples": 1, "num_bytes": 1}]),
        ("kind", 1), ("parameters", []), ("surplus", 1), ("num_windows", None),
    ],
)  # fmt: skip
def test_a_garbled_field_is_refused(name, value):
    fields = json.loads(make_info().to_json()) | {name: value}
    with pytest.raises(examples.DatasetError, match=r"here lacks or garbles a field: .*make the set again"):
        examples.DatasetInfo.from_json(json.dumps(fields), "here")


@pytest.mark.parametrize(
    "name", ["kind", "mel_params", "shards", "num_windows", "num_examples", "label_names"]
)
def test_a_missing_field_is_refused(name):
    fields = json.loads(make_info().to_json())
    del fields[name]
    with pytest.raises(examples.DatasetError, match="here lacks or garbles a field"):
        examples.DatasetInfo.from_json(json.dumps(fields), "here")


def read_or_refuse(directory, content):
    (directory / examples.INFO_NAME).write_bytes(content)
    try:
        info = examples.read_dataset_info(str(directory), kind=examples.CLIPS)
    except examples.DatasetError:
        return
    assert info.kind == examples.CLIPS
    assert info.num_examples >= 0 or info.shards


@FEW
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_random_sidecars_are_refused(tmp_path, content):
    read_or_refuse(tmp_path, content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """The path of every value in a JSON tree."""
    yield path
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        yield from places(child, (*path, key))


@settings(FEW, max_examples=200)
@given(data=st.data())
def test_a_mutated_sidecar_is_read_or_refused(tmp_path, data):
    tree = json.loads(make_info(shards=(examples.Shard("a", 1, 3),)).to_json())
    (tmp_path / "a").write_bytes(b"abc")
    path = data.draw(st.sampled_from([place for place in places(tree) if place]))
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = data.draw(JSON)
    read_or_refuse(tmp_path, json.dumps(tree).encode())


@FEW
@given(position=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_sidecar_with_one_byte_changed_is_read_or_refused(tmp_path, position, byte):
    content = bytearray(make_info(shards=(examples.Shard("a", 1, 3),)).to_json().encode())
    (tmp_path / "a").write_bytes(b"abc")
    content[position % len(content)] = byte
    read_or_refuse(tmp_path, bytes(content))


# Folders.


@pytest.fixture
def clips(tmp_path):
    return [tiny.make_clip(i, labels=("ab"[i % 2],), fold=str(i % 3 + 1)) for i in range(7)]


@pytest.fixture
def clip_set(tmp_path, clips):
    return tiny.write_clips(tmp_path / "clips", clips)


def test_clips_are_read_in_the_order_of_the_shards(clip_set, clips):
    info = examples.read_dataset_info(clip_set, kind=examples.CLIPS)
    assert (info.num_examples, info.folds, info.label_names) == (7, ("1", "2", "3"), ("a", "b"))
    found = list(examples.iter_clips(clip_set))
    for clip, expected in zip(found, clips[::2] + clips[1::2], strict=True):
        require_equal_clips(clip, expected)


def test_clips_of_chosen_folds(clip_set):
    assert sorted(clip.clip_id for clip in examples.iter_clips(clip_set, folds=("1", "3"))) == [
        "clip-0", "clip-2", "clip-3", "clip-5", "clip-6",
    ]  # fmt: skip
    with pytest.raises(
        examples.DatasetError, match=r"fold '4' does not occur in .*; it has \['1', '2', '3'\]"
    ):
        list(examples.iter_clips(clip_set, folds=("1", "4")))


def test_a_missing_folder_or_a_file_is_refused(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path / "file"):
        (tmp_path / "file").write_text("x")
        with pytest.raises(
            examples.DatasetError, match="is not a folder; expected a folder of clips examples"
        ):
            examples.read_dataset_info(str(path), kind=examples.CLIPS)


def test_a_folder_without_a_sidecar_is_unfinished(clip_set):
    os.remove(os.path.join(clip_set, examples.INFO_NAME))
    with pytest.raises(examples.DatasetError, match=r"holds no dataset_info.json: it is not a finished set"):
        examples.read_dataset_info(clip_set, kind=examples.CLIPS)


def test_an_unreadable_sidecar_is_refused(tmp_path):
    (tmp_path / examples.INFO_NAME).mkdir()
    with pytest.raises(examples.DatasetError, match=r"dataset_info.json cannot be read"):
        examples.read_dataset_info(str(tmp_path), kind=examples.CLIPS)


def test_another_kind_is_refused(clip_set):
    with pytest.raises(examples.DatasetError, match="holds clips examples, expected triplets"):
        examples.read_dataset_info(clip_set, kind=examples.TRIPLETS)


def shard_of(directory, number=0):
    return sorted(os.path.join(directory, name) for name in os.listdir(directory) if "tfrecord" in name)[
        number
    ]


def test_a_missing_shard_is_named(clip_set):
    os.remove(shard_of(clip_set, 1))
    with pytest.raises(examples.DatasetError, match=r"clips-00001.tfrecord is missing, expected \d+ bytes"):
        examples.read_dataset_info(clip_set, kind=examples.CLIPS)


def test_a_truncated_shard_is_named(clip_set):
    path = shard_of(clip_set)
    size = os.path.getsize(path)
    os.truncate(path, size - 1)
    with pytest.raises(
        examples.DatasetError, match=rf"clips-00000.tfrecord has {size - 1} bytes, expected {size}"
    ):
        list(examples.iter_clips(clip_set))


@pytest.mark.parametrize("position", [0, 9, 40, -30, -2])
def test_a_flipped_byte_is_found_and_its_shard_named(clip_set, position):
    info = examples.read_dataset_info(clip_set, kind=examples.CLIPS)
    examples.require_undamaged(clip_set, info)
    tiny.flip_byte(shard_of(clip_set, 1), position)
    num_good = 0 if position >= 0 else 2
    message = rf"clips-00001.tfrecord is damaged after record {num_good} \("
    with pytest.raises(examples.DatasetError, match=message):
        list(examples.read_records(shard_of(clip_set, 1)))
    with pytest.raises(examples.DatasetError, match=message):
        examples.require_undamaged(clip_set, info)
    with pytest.raises(examples.DatasetError, match=message):
        list(examples.iter_clips(clip_set))
    assert len(list(examples.read_records(shard_of(clip_set, 0)))) == 4


def test_a_shard_with_fewer_records_is_found(clip_set):
    info = examples.read_dataset_info(clip_set, kind=examples.CLIPS)
    shards = (dataclasses.replace(info.shards[0], num_examples=9), info.shards[1])
    with pytest.raises(examples.DatasetError, match=r"clips-00000.tfrecord holds 4 records, expected 9"):
        examples.require_undamaged(clip_set, dataclasses.replace(info, shards=shards))


def test_records_are_found_at_their_offsets(clip_set):
    path = shard_of(clip_set)
    records = list(examples.read_records(path))
    content = pathlib.Path(path).read_bytes()
    assert len(records) == 4
    for offset, payload in records:
        assert content[offset : offset + len(payload)] == payload
    with pytest.raises(
        examples.DatasetError, match=r"nothing-here is damaged after record 0 \(.*nothing-here"
    ):
        list(examples.read_records(os.path.join(clip_set, "nothing-here")))
