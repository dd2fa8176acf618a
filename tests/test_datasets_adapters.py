"""Tests of tfsound.datasets.adapters: exact rows on made-up official trees, counts on the real data."""

import inspect
import os
import re
from collections import Counter

import pytest

from tfsound import datasets
from tfsound.datasets import ManifestError, ManifestRow
from tfsound.datasets.adapters import (
    ADAPTERS,
    audioset,
    dcase2013,
    esc10,
    esc50,
    folder,
    from_csv,
    fsdd,
    tuxpaint,
    urbansound8k,
    videos,
)


def put(root, name, text):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")


def make(root, *names):
    for name in names:
        put(root, name, "")


ESC50_CSV = """filename,fold,target,category,esc10,src_file,take
1-100-A-0.wav,1,0,dog,True,100,A
1-100-B-0.wav,1,0,dog,True,100,B
2-7-A-36.wav,2,36,vacuum_cleaner,False,7,A
3-8-A-1.wav,3,1,rooster,True,8,A
"""


def test_esc50_rows(tmp_path):
    put(tmp_path, "meta/esc50.csv", ESC50_CSV)
    make(tmp_path, "audio/1-100-A-0.wav", "audio/1-100-A-0.ogg", "audio/1-100-B-0.ogg", "audio/2-7-A-36.wav")
    audio = tmp_path / "audio"
    result = esc50(str(tmp_path))
    assert result.rows == [
        ManifestRow("1-100-A-0", "100", f"{audio}/1-100-A-0.wav", labels=("dog",), fold="1"),
        ManifestRow("1-100-B-0", "100", f"{audio}/1-100-B-0.ogg", labels=("dog",), fold="1"),
        ManifestRow("2-7-A-36", "7", f"{audio}/2-7-A-36.wav", labels=("vacuum_cleaner",), fold="2"),
    ]
    assert (result.num_listed, result.num_absent, result.absent_examples) == (4, 1, ("3-8-A-1.wav",))
    assert result.note == ""
    tens = esc10(str(tmp_path))
    assert (tens.rows, tens.num_listed, tens.num_absent) == (result.rows[:2], 3, 1)


def test_a_recording_in_two_folds_becomes_two_and_is_noted(tmp_path):
    put(tmp_path, "meta/esc50.csv", ESC50_CSV.replace("False,7,A", "False,100,C"))
    make(tmp_path, "audio/1-100-A-0.wav", "audio/2-7-A-36.wav")
    result = esc50(str(tmp_path))
    assert result.note == (
        "recordings that lie in several folds, whose parts count as recordings of their own: 100"
    )
    assert [row.recording_id for row in result.rows] == ["100/fold1", "100/fold2"]


def test_urbansound8k_rows(tmp_path):
    put(
        tmp_path,
        "metadata/UrbanSound8K.csv",
        "slice_file_name,fsID,start,end,salience,fold,classID,class\n"
        "100-3-0-0.wav,100,0.0,0.3,1,5,3,dog_bark\n"
        "200-2-0-1.wav,200,58.5,62.5,1,10,2,children_playing\n"
        "300-2-0-1.wav,300,58.5,62.5,1,1,2,children_playing\n",
    )
    make(tmp_path, "audio/fold5/100-3-0-0.wav", "audio/fold10/200-2-0-1.wav", "audio/fold2/300-2-0-1.wav")
    result = urbansound8k(str(tmp_path))
    audio = tmp_path / "audio"
    assert result.rows == [
        ManifestRow("100-3-0-0", "100", f"{audio}/fold5/100-3-0-0.wav", labels=("dog_bark",), fold="5"),
        ManifestRow(
            "200-2-0-1", "200", f"{audio}/fold10/200-2-0-1.wav", labels=("children_playing",), fold="10"
        ),
    ]
    assert (result.num_listed, result.num_absent, result.absent_examples) == (3, 1, ("fold1/300-2-0-1.wav",))


def test_dcase2013_development_set(tmp_path):
    make(tmp_path, "scenes_stereo/bus01.wav", "scenes_stereo/tube06.wav", "scenes_stereo/other01.wav")
    result = dcase2013(str(tmp_path))
    scenes = tmp_path / "scenes_stereo"
    assert result.rows == [
        ManifestRow("bus01", "bus01", f"{scenes}/bus01.wav", labels=("bus",), fold="1", split="train"),
        ManifestRow("tube06", "tube06", f"{scenes}/tube06.wav", labels=("tube",), fold="2", split="train"),
    ]
    assert (result.num_listed, result.num_absent, result.absent_examples[0]) == (100, 98, "bus02.wav")


def test_dcase2013_both_sets(tmp_path):
    make(tmp_path, "scenes_stereo/bus09.wav", "scenes_stereo_testset/bus09.wav")
    result = dcase2013(str(tmp_path))
    assert [(row.clip_id, row.fold, row.split) for row in result.rows] == [
        ("bus09", "1", "train"),
        ("testset/bus09", "2", "test"),
    ]
    assert result.num_listed == 200


def make_audioset(root):
    put(
        root,
        "class_labels_indices.csv",
        'index,mid,display_name\n0,/m/1,"Male speech, man"\n1,/t/dd2,"Dog"\n',
    )
    put(
        root,
        "balanced_train_segments.csv",
        "# Segments csv created ...\n# num_ytids=8\n# YTID, start_seconds, end_seconds, positive_labels\n"
        '--PJHxphWEs, 30.000, 40.000, "/m/1,/t/dd2"\n'
        + "".join(f'cut{i}_-789012, 30.000, 40.000, "/t/dd2"\n' for i in range(6))
        + 'wrong_time12, 30.000, 40.000, "/m/1"\n',
    )
    put(root, "eval_segments.csv", '# x\nevaluation1, 0.500, 10.500, "/m/1"\n')


def test_audioset_rows(tmp_path):
    make_audioset(tmp_path)
    cuts = ("30.000_40.000", "30.000", "30_40", "30", "30000_40000", "30000")
    ytids = [f"cut{i}_-789012" for i in range(6)]
    files = [f"media/deep/{ytid}_{cut}.flac" for ytid, cut in zip(ytids, cuts, strict=True)]
    make(tmp_path, "media/--PJHxphWEs.mp4", *files, "media/evaluation1.webm", "media/wrong_time12_20.wav")
    result = audioset(str(tmp_path), media_dir="media")
    labels = ("Male speech, man", "Dog")
    whole, *cut_rows, evaluation = result.rows
    media, ytid = tmp_path / "media", "--PJHxphWEs"
    assert whole == ManifestRow(
        f"{ytid}_30.000_40.000", ytid, f"{media}/{ytid}.mp4", 30.0, 40.0, labels, split="train"
    )
    assert cut_rows == [
        ManifestRow(f"{ytid}_30.000_40.000", ytid, f"{tmp_path}/{file}", labels=("Dog",), split="train")
        for ytid, file in zip(ytids, files, strict=True)
    ]
    assert evaluation == ManifestRow(
        "evaluation1_0.500_10.500",
        "evaluation1",
        f"{media}/evaluation1.webm",
        0.5,
        10.5,
        labels[:1],
        split="test",
    )
    assert (result.num_listed, result.num_absent, result.absent_examples) == (9, 1, ("wrong_time12.*",))
    only = audioset(str(tmp_path), segments_csv="eval_segments.csv")
    assert (only.rows, only.num_listed) == ([evaluation], 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('x, 0.000, 10.000, "/m/9"', "eval_segments.csv: x has label '/m/9', not in "),
        ("x, 0.000, 10.000", "eval_segments.csv, line 1: found ['x', '0.000', '10.000'], expected YTID"),
        ('x, a, 10.000, "/m/1"', "line 1: found ['x', 'a', '10.000', '/m/1'], expected YTID"),
    ],
)
def test_audioset_bad_segments(tmp_path, line, message):
    make_audioset(tmp_path)
    put(tmp_path, "eval_segments.csv", line + "\n")
    with pytest.raises(ManifestError, match=re.escape(message)):
        audioset(str(tmp_path), segments_csv="eval_segments.csv")


def test_fsdd_rows(tmp_path):
    make(tmp_path, "recordings/7_leo_4.wav", "recordings/0_max_5.wav", "recordings/notes.wav")
    recordings = tmp_path / "recordings"
    result = fsdd(str(tmp_path))
    assert result.rows == [
        ManifestRow(
            "0_max_5", "0_max_5", f"{recordings}/0_max_5.wav", labels=("0",), fold="max", split="train"
        ),
        ManifestRow(
            "7_leo_4", "7_leo_4", f"{recordings}/7_leo_4.wav", labels=("7",), fold="leo", split="test"
        ),
    ]
    assert (result.num_listed, result.num_absent) == (2, 0)


def test_folder_rows(tmp_path):
    make(tmp_path, "b.WAV", "owl/x/2.mp4", "owl/10.flac", "cat/a, b.ogg")
    make(tmp_path, "owl/.hidden.wav", ".git/a.wav", "owl/notes.txt")
    (tmp_path / "owl" / "x" / "back").symlink_to(tmp_path)
    (tmp_path / "zoo").symlink_to(tmp_path / "owl")
    (tmp_path / "broken.wav").symlink_to(tmp_path / "nowhere.wav")
    result = folder(str(tmp_path), labels_from_folders=True)
    expected = {"b.WAV": (), "cat/a, b.ogg": ("cat",), "owl/10.flac": ("owl",), "owl/x/2.mp4": ("owl",)}
    assert result.rows == [
        ManifestRow(path, path, f"{tmp_path}/{path}", labels=labels) for path, labels in expected.items()
    ]
    assert {row.labels for row in folder(str(tmp_path)).rows} == {()}


def test_folder_refuses_what_is_no_folder(tmp_path):
    with pytest.raises(ManifestError, match="nowhere is not a folder; the folder adapter expects one"):
        folder(str(tmp_path / "nowhere"))


def test_folder_counts_names_that_are_not_utf8(tmp_path):
    make(tmp_path, "a.wav")
    try:
        open(os.fsencode(tmp_path) + b"/caf\xe9.wav", "wb").close()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    result = folder(str(tmp_path))
    assert (len(result.rows), result.num_absent, result.absent_examples) == (1, 1, (r"'caf\udce9.wav'",))


def test_a_video_is_preferred_to_its_sound(tmp_path):
    """Where the sound of videos was extracted beside them, pictures are wanted from the videos."""
    make_audioset(tmp_path)
    make(tmp_path, "evaluation1.mp4", "evaluation1.wav", "evaluation1.flac", "cut0_-789012_30.wav")
    make(tmp_path, "cut0_-789012_30.mkv", "cut1_-789012_30.3gp", "cut2_-789012_30.MP4")
    uris = [os.path.relpath(row.uri, tmp_path) for row in audioset(str(tmp_path)).rows]
    assert uris == [
        *("cut0_-789012_30.mkv", "cut1_-789012_30.3gp", "cut2_-789012_30.MP4", "evaluation1.mp4"),
    ]


def test_videos_of_a_folder(tmp_path):
    make(tmp_path, "b.MKV", "owl/x/2.mp4", "owl/10.flac", "cat/a, b.webm", "owl/.hidden.mp4", "cat/c.png")
    result = videos(str(tmp_path), labels_from_folders=True)
    expected = {"b.MKV": (), "cat/a, b.webm": ("cat",), "owl/x/2.mp4": ("owl",)}
    assert result.rows == [
        ManifestRow(path, path, f"{tmp_path}/{path}", labels=labels) for path, labels in expected.items()
    ]
    assert {row.labels for row in videos(str(tmp_path)).rows} == {()}


def test_videos_of_a_csv(tmp_path):
    put(tmp_path, "list.csv", "file,label,audio\na.mp4,owl,aac\ngone.mp4,crow,aac\n")
    make(tmp_path, "a.mp4")
    result = videos(str(tmp_path / "list.csv"), columns="uri=file,labels=label")
    assert [(row.recording_id, row.uri, row.labels) for row in result.rows] == [
        ("a.mp4", f"{tmp_path}/a.mp4", ("owl",))
    ]
    assert result.num_absent == 1


def test_videos_refuses_options_that_do_not_fit_its_root(tmp_path):
    put(tmp_path, "list.csv", "uri\na.mp4\n")
    with pytest.raises(
        ManifestError, match=r"columns: .* is a folder, expected a CSV for them; leave them out"
    ):
        videos(str(tmp_path), columns="uri=file")
    with pytest.raises(ManifestError, match=r"labels_from_folders: .*list\.csv is a file, expected a folder"):
        videos(str(tmp_path / "list.csv"), labels_from_folders=True)
    with pytest.raises(ManifestError, match="nowhere is not a folder; the videos adapter expects one"):
        videos(str(tmp_path / "nowhere"))


def test_tuxpaint_rows(tmp_path):
    put(
        tmp_path,
        "pairs.csv",
        "audio,image,group,name,caption,same_audio_as\n"
        'a__owl.ogg,a__owl.png,animals,owl,"An owl, at night.",\n'
        "a__eagle.ogg,a__eagle.png,animals,eagle,,a__owl.ogg\n"
        "b__cup.ogg,b__cup.png,household,cup,,\n",
    )
    make(tmp_path, "a__owl.ogg", "a__owl.png", "a__eagle.ogg", "a__eagle.png", "b__cup.ogg")
    result = tuxpaint(str(tmp_path))
    assert result.rows == [
        ManifestRow(
            f"a__{name}", "a__owl", f"{tmp_path}/a__{name}.ogg", labels=("animals",),
            image_uri=f"{tmp_path}/a__{name}.png",
        )
        for name in ("owl", "eagle")
    ]  # fmt: skip
    assert (result.num_listed, result.num_absent, result.absent_examples) == (3, 1, ("b__cup.ogg",))


def test_csv_rows_with_pictures(tmp_path):
    put(tmp_path, "m.csv", "uri,image_uri\na.wav,a.png\nb.wav,gone.png\nc.wav,gs://b/c.png\nd.wav,\n")
    make(tmp_path, "a.wav", "a.png", "b.wav", "c.wav", "d.wav")
    result = from_csv(str(tmp_path / "m.csv"))
    assert [row.image_uri for row in result.rows] == [f"{tmp_path}/a.png", "gs://b/c.png", ""]
    assert (result.num_absent, result.absent_examples) == (1, (f"{tmp_path}/gone.png",))


def test_csv_rows(tmp_path):
    put(tmp_path, "birds.csv", "path,species,comment\na.wav,owl;barn owl,x\nb.wav,,y\ngs://b/c.wav,crow,z\n")
    make(tmp_path, "a.wav")
    result = from_csv(str(tmp_path / "birds.csv"), columns="uri=path, labels=species")
    assert [(row.recording_id, row.uri, row.labels) for row in result.rows] == [
        ("a.wav", f"{tmp_path}/a.wav", ("owl", "barn owl")),
        ("gs://b/c.wav", "gs://b/c.wav", ("crow",)),
    ]
    assert (result.num_listed, result.num_absent, result.absent_examples) == (3, 1, (f"{tmp_path}/b.wav",))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("", "unknown column 'path'"),
        ("uri", "columns: found 'uri', expected NAME=NAME_IN_FILE with NAME one of clip_id"),
        ("url=path", "columns: found 'url=path', expected NAME=NAME_IN_FILE"),
        ("uri=pat", "no column 'pat' for uri; did you mean 'path'?"),
        ("uri=path,start_seconds=labels", "birds.csv: 1 bad rows:\n"),
    ],
)
def test_csv_bad_input(tmp_path, columns, message):
    put(tmp_path, "birds.csv", "path,labels\na.wav,owl\n")
    with pytest.raises(ManifestError, match=re.escape(message)):
        from_csv(str(tmp_path / "birds.csv"), columns=columns)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("audioset", "class_labels_indices.csv does not exist; AudioSet expects class_labels_indices.csv in"),
        ("csv", "is not a file; the csv adapter expects a .csv or .jsonl file"),
        ("dcase2013", "scenes_stereo does not exist; DCASE 2013 scenes expects scenes_stereo in its root"),
        ("esc10", "meta/esc50.csv does not exist; ESC-50 expects meta/esc50.csv in its root"),
        ("esc50", "esc50.csv does not exist; ESC-50 expects meta/esc50.csv in its root; give that folder."),
        ("folder", "found no media file; looked in "),
        ("fsdd", "recordings does not exist; FSDD expects recordings in its root"),
        ("tuxpaint", "pairs.csv does not exist; Tux Paint expects pairs.csv in its root"),
        ("urbansound8k", "UrbanSound8K.csv does not exist; UrbanSound8K expects metadata/UrbanSound8K.csv"),
        ("videos", "found no media file; looked in "),
    ],
)
def test_a_wrong_root_names_what_was_expected(tmp_path, name, expected):
    with pytest.raises(ManifestError, match=re.escape(expected)):
        ADAPTERS[name](str(tmp_path))


def test_other_wrong_layouts(tmp_path):
    put(tmp_path, "meta/esc50.csv", "filename,fold\n")
    (tmp_path / "audio").mkdir()
    with pytest.raises(
        ManifestError, match=r"found columns \['filename', 'fold'\], expected also category, esc10"
    ):
        esc50(str(tmp_path))
    put(tmp_path, "meta/esc50.csv", ESC50_CSV)
    message = f"found no media file of the 4 listed, such as 1-100-A-0.wav; looked in {tmp_path}/audio."
    with pytest.raises(ManifestError, match=re.escape(message)):
        esc50(str(tmp_path))
    put(tmp_path, "class_labels_indices.csv", "index,mid,display_name\n")
    with pytest.raises(ManifestError, match=r"found none of balanced_train_segments.csv.* give segments_csv"):
        audioset(str(tmp_path))


def test_manifest_writes_and_sums_up(tmp_path):
    put(tmp_path, "meta/esc50.csv", ESC50_CSV)
    make(tmp_path, "audio/1-100-A-0.wav", "audio/1-100-B-0.wav", "audio/2-7-A-36.wav")
    output = str(tmp_path / "out" / "m.jsonl")
    summary = datasets.make_manifest("esc50", str(tmp_path), output)
    assert datasets.read_manifest(output) == esc50(str(tmp_path)).rows
    assert str(summary) == (
        f"esc50: 3 clips of 2 recordings, 2 labels, 2 folds -> {output}\n"
        "absent: 1 of the 4 listed, such as 3-8-A-1.wav"
    )
    with pytest.raises(ManifestError, match="exists; choose another output or pass --overwrite"):
        datasets.make_manifest("esc50", str(tmp_path), output)
    assert datasets.make_manifest("esc10", str(tmp_path), output, overwrite=True).num_rows == 2


def test_manifest_passes_the_options_on(tmp_path):
    make(tmp_path, "owl/1.wav")
    summary = datasets.make_manifest(
        "folder", str(tmp_path), str(tmp_path / "m.csv"), labels_from_folders=True
    )
    assert summary.num_labels == 1
    root = str(tmp_path / "synthetic")
    summary = datasets.make_manifest(
        "synthetic", root, str(tmp_path / "s.csv"), num_recordings=4, num_classes=2, seconds=1.0, num_folds=2
    )
    assert (summary.num_labels, summary.folds) == (2, ("1", "2"))
    assert len(datasets.read_manifest(summary.output)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "esc5", "root": ".", "output": "m.csv"},
            "name: found 'esc5', expected one of audioset, csv",
        ),
        ({"name": "esc50", "root": ""}, "root is empty, expected the path of esc50"),
        ({"name": "esc50", "output": "m.txt"}, "found extension '.txt'"),
        ({"name": "esc50", "seed": 1}, "seed: no option of esc50, only of digit_scenes, synthetic; leave"),
        ({"name": "folder", "media_dir": "m"}, "media_dir: no option of folder, only"),
    ],
)
def test_manifest_bad_arguments(arguments, message):
    with pytest.raises(ManifestError, match=re.escape(message)):
        datasets.make_manifest(**({"root": ".", "output": "m.csv"} | arguments))


def test_manifest_suits_a_generated_command_line():
    """Plain annotated types, an Args entry a parameter, every adapter's options with its defaults."""
    parameters = inspect.signature(datasets.make_manifest).parameters
    arguments = datasets.make_manifest.__doc__.split("Args:\n")[1].split("\n\n")[0]
    assert re.findall(r"^      (\w+):", arguments, re.MULTILINE) == list(parameters)
    assert {parameter.annotation for parameter in parameters.values()} <= {str, int, float, bool}
    names = " ".join(re.search(r"the data set: ([^.]*)\.", arguments)[1].split())
    assert names.replace(" or ", ", ").split(", ") == list(ADAPTERS)
    for adapter in ADAPTERS.values():
        for name, parameter in inspect.signature(adapter).parameters.items():
            assert parameter.annotation == parameters[name].annotation
            assert name == "root" or parameter.default == parameters[name].default


def crossing(rows):
    """The recordings that lie in more than one fold."""
    folds = {(row.recording_id, row.fold) for row in rows}
    return {
        recording for recording, count in Counter(recording for recording, _ in folds).items() if count > 1
    }


def test_real_esc50(shared_data):
    result = esc50(str(shared_data / "esc50"))
    assert (len(result.rows), result.num_absent) == (2000, 0)
    assert set(Counter(row.labels for row in result.rows).values()) == {40}
    assert Counter(row.fold for row in result.rows) == dict.fromkeys("12345", 400)
    assert len({row.labels for row in result.rows}) == 50
    assert not crossing(result.rows)
    # The official release has these sources in two folds, each time with other classes.
    assert result.note.endswith(": 131943, 134049, 209698, 234879")


def test_real_esc10(shared_data):
    result = esc10(str(shared_data / "esc50"))
    assert (len(result.rows), len({row.labels for row in result.rows})) == (400, 10)
    assert Counter(row.fold for row in result.rows) == dict.fromkeys("12345", 80)
    assert not crossing(result.rows)


def test_real_urbansound8k(shared_data):
    result = urbansound8k(str(shared_data / "urbansound8k"))
    assert (result.num_listed, len(result.rows), result.num_absent) == (8732, 21, 8711)
    assert not crossing(result.rows)
    assert all(os.path.isfile(row.uri) for row in result.rows)


def test_real_fsdd(shared_data):
    result = fsdd(str(shared_data / "fsdd"))
    assert len(result.rows) == 3000
    assert Counter(row.split for row in result.rows) == {"train": 2700, "test": 300}
    assert set(Counter(row.fold for row in result.rows).values()) == {500}
    assert set(Counter(row.labels for row in result.rows).values()) == {300}
    assert not crossing(result.rows)


def test_real_audioset_metadata(shared_data, tmp_path):
    root = str(shared_data / "audioset")
    with pytest.raises(ManifestError, match="found no media file of the 42531 listed, such as --PJHxphWEs"):
        audioset(root)
    make(tmp_path, "--PJHxphWEs.mp4", "--ZhevVpy1s_50000_60000.wav", "--4gqARaEJE_0.m4a")
    result = audioset(root, media_dir=str(tmp_path))
    assert [(row.recording_id, row.start_seconds, row.labels[0], row.split) for row in result.rows] == [
        ("--PJHxphWEs", 30.0, "Speech", "train"),
        ("--ZhevVpy1s", None, "Toothbrush", "train"),
        ("--4gqARaEJE", None, "Domestic animals, pets", "test"),
    ]
    assert (result.num_listed, result.num_absent) == (22160 + 20371, 22160 + 20371 - 3)


def test_real_tuxpaint(shared_data):
    result = tuxpaint(str(shared_data / "tuxpaint_pairs"))
    assert (result.num_listed, len(result.rows), result.num_absent) == (102, 102, 0)
    assert all(os.path.isfile(row.uri) and os.path.isfile(row.image_uri) for row in result.rows)


def test_real_videos(shared_data):
    assert len(videos(str(shared_data / "video")).rows) == 36
    result = folder(str(shared_data / "video"), labels_from_folders=True)
    assert Counter(row.labels[0] for row in result.rows) == {"clips": 33, "edge": 3}
    manifest = from_csv(str(shared_data / "video" / "manifest.csv"), columns="uri=file,labels=label")
    assert (manifest.num_listed, manifest.num_absent) == (36, 0)
