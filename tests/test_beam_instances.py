"""The job `instances`: ids that stay, the same set from any workers, what is refused."""

import os
import shutil

import pytest
import tensorflow as tf
import tiny

from tfsound import examples
from tfsound.beam import instances as job
from tfsound.beam import output as job_output

CLIPS = [
    tiny.make_clip(n, num_frames=8, labels=(f"class {n % 3}",) if n % 5 else (), fold=str(n % 2))
    for n in range(12)
]


@pytest.fixture
def clips(tmp_path):
    return tiny.write_clips(tmp_path / "clips", CLIPS)


def find(clips, output, **options):
    return job.assign_instances((clips,) if isinstance(clips, str) else clips, str(output), **options)


def names_of(directory):
    """The clip of each id."""
    names = []
    for shard in examples.read_dataset_info(str(directory), kind=examples.INSTANCES).shards:
        for _, record in examples.read_records(os.path.join(directory, shard.name)):
            feature = tf.train.Example.FromString(record).features.feature
            names.append(feature["clip_id"].bytes_list.value[0].decode())
    return names


@pytest.mark.parametrize("options", [{"num_workers": 1}, {"num_workers": 2, "worker_mode": "processes"}])
def test_the_job_finds_what_reading_finds(clips, tmp_path, options):
    info = find(clips, tmp_path / "set", exclude_folds=("1",), **options)
    expected = [clip for clip in [*CLIPS[::2], *CLIPS[1::2]] if clip.fold != "1"]
    assert info.num_examples == len(expected) == 6
    assert names_of(tmp_path / "set") == [clip.clip_id for clip in expected]
    found = examples.read_instances(str(tmp_path / "set"))
    assert found == examples.find_instances([clips], exclude_folds=("1",))
    labels = examples.instance_labels(str(tmp_path / "set"), found.class_names)
    assert [found.class_names[label] if label >= 0 else "" for label in labels] == [
        (clip.labels or ("",))[0] for clip in expected
    ]


def test_added_sets_leave_the_old_ids(clips, tmp_path):
    more = tiny.write_clips(tmp_path / "more", [tiny.make_clip(n) for n in range(50, 57)])
    find(clips, tmp_path / "old", num_workers=1)
    find((clips, more), tmp_path / "new", extends=str(tmp_path / "old"), num_workers=1)
    assert names_of(tmp_path / "new")[:12] == names_of(tmp_path / "old")
    assert len(names_of(tmp_path / "new")) == 19


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": (1, 0)}, "was made with clips .* old clips would not keep their ids"),
        ({"options": {"exclude_folds": ("1",)}}, r"was made with exclude_folds \[\], now \['1'\]"),
    ],
)
def test_what_would_move_ids_is_refused(clips, tmp_path, change, message):
    more = tiny.write_clips(tmp_path / "more", [tiny.make_clip(n) for n in range(50, 57)])
    find(clips, tmp_path / "old", num_workers=1)
    sets = [(clips, more)[place] for place in change.get("order", (0, 1))]
    options = change.get("options", {})
    with pytest.raises(examples.DatasetError, match=message):
        find(tuple(sets), tmp_path / "new", extends=str(tmp_path / "old"), **options)
    assert not os.path.exists(tmp_path / "new")


def test_clips_that_became_others_are_named(clips, tmp_path):
    find(clips, tmp_path / "set", num_workers=1)
    shutil.rmtree(clips)
    tiny.write_clips(clips, CLIPS[:10])
    with pytest.raises(examples.DatasetError, match=r"clips is another set than when .* ids would"):
        examples.read_instances(str(tmp_path / "set"))


def test_two_clips_of_one_name_are_refused(clips, tmp_path):
    other = tiny.write_clips(tmp_path / "other", [tiny.make_clip(n) for n in (3, 4, 90)])
    with pytest.raises(job_output.JobError, match=r"2 clips occur twice, such as 'clip-3', 'clip-4';"):
        find((clips, other), tmp_path / "set", num_workers=1)
    assert not os.path.exists(tmp_path / "set")


def test_one_clip_is_nothing_to_tell_apart(tmp_path):
    one = tiny.write_clips(tmp_path / "one", [tiny.make_clip(1)])
    with pytest.raises(job_output.JobError, match=r"1 clip\(s\) in folds of any .* expected two or more"):
        find(one, tmp_path / "set", num_workers=1)


def test_an_output_is_overwritten_only_when_asked(clips, tmp_path):
    find(clips, tmp_path / "set", num_workers=1)
    with pytest.raises(job_output.JobError, match="is a finished data set; pass --overwrite"):
        find(clips, tmp_path / "set")
    assert find(clips, tmp_path / "set", overwrite=True, num_workers=1).num_examples == 12


def test_run_is_the_function_from_a_command_line(clips, tmp_path, capsys):
    info = job.run([clips, str(tmp_path / "set"), "--exclude-folds", "0", "--num-workers", "1"])
    assert info.num_examples == 6
    assert info.parameters["exclude_folds"] == ["0"]
    with pytest.raises(SystemExit):
        job.run(["--help"])
    assert "keep their ids" in " ".join(capsys.readouterr().out.split())
