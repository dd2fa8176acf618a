"""The job `questions`: from embeddings or clips to a folder; sounds, rounds, what is left after a failure."""

import json
import os
import warnings

import numpy as np
import pytest

from tests import active_learning_sets as sets
from tests import tiny
from tests.test_active_learning_clustering import blobs
from tfsound import active_learning as al
from tfsound import arguments, datasets, evaluation, examples, media
from tfsound.active_learning import audio

CLASSES = [al.SoundClass(name) for name in sets.CLASSES]


def make(output, *, order=None, **options):
    """Questions about 100 clips in 5 blobs; clips 2k and 2k + 1 are of one recording."""
    embeddings, _ = blobs()
    ids = [f"clip-{number:03d}" for number in range(100)]
    recordings = [f"recording-{number // 2}" for number in range(100)]
    order = range(100) if order is None else order
    own = {
        name: options.pop(name)
        for name in ("manifest_rows", "assign", "overwrite", "classes")
        if name in options
    }
    return al.questions_from_embeddings(
        embeddings[list(order)], [ids[row] for row in order], str(output),
        recording_ids=[recordings[row] for row in order], window_seconds=5.0,
        options=al.QuestionOptions(**options), **({"classes": CLASSES} | own),
    )  # fmt: skip


def test_a_set_from_embeddings(tmp_path):
    made = make(tmp_path / "q", num_questions=8, num_clusters=20, seed=3)
    assert sorted(os.listdir(tmp_path)) == ["q"]
    assert sorted(os.listdir(tmp_path / "q")) == [
        "classes.csv",
        "questions.json",
        "questions.jsonl",
        "windows.npz",
    ]
    read = al.read_questions(str(tmp_path / "q"))
    assert vars(read) | {"settings": 0} == vars(made) | {"settings": 0}
    assert (len(read.questions), read.num_windows, read.num_clusters) == (8, 100, 20)
    assert read.settings["seed"] == 3
    sizes = [question.cluster_size for question in read.questions]
    assert sizes == sorted(sizes, reverse=True)
    assert all(question.end_seconds == 5.0 for question in read.questions)
    windows = al.read_windows(read)
    clusters = dict(zip(sets.window_keys(windows), windows.cluster.tolist(), strict=True))
    for question in read.questions:
        assert clusters[question.key] == question.cluster
        for neighbour in question.neighbours:
            assert clusters[neighbour.clip_id, 0] == question.cluster
            assert neighbour.recording_id != question.recording_id
    assert "8 questions about 8 of" in str(made)


def test_the_order_of_the_windows_counts_for_nothing(tmp_path):
    order = np.random.default_rng(0).permutation(100)
    for strategy in ("largest", "random", "diverse"):
        first = make(tmp_path / strategy, num_questions=9, num_clusters=17, strategy=strategy)
        second = make(
            tmp_path / f"{strategy}-2", num_questions=9, num_clusters=17, strategy=strategy, order=order
        )
        for name in ("questions.jsonl", "questions.json", "classes.csv"):
            assert (tmp_path / strategy / name).read_bytes() == (
                tmp_path / f"{strategy}-2" / name
            ).read_bytes()
        assert first.questions == second.questions
        np.testing.assert_array_equal(al.read_windows(first).cluster, al.read_windows(second).cluster)
    assert make(tmp_path / "seed", num_questions=9, num_clusters=17, seed=1).questions != first.questions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_questions": 0}, "num_questions must be at least 1, got 0"),
        ({"num_clusters": -1}, "num_clusters must be at least 0, got -1"),
        ({"num_clusters": 101}, "from 1 to the number of windows, 100, got 101"),
        ({"neighbours": -1}, "neighbours must be at least 0"),
        ({"strategy": "best"}, "strategy must be of largest, random, diverse, got 'best'"),
        ({"formats": ("xml",)}, "formats must be of csv, label-studio, got 'xml'"),
        ({"annotations": ("x.csv",)}, "annotations are answers to earlier rounds; name these with after"),
        (
            {"formats": ("label-studio",)},
            "5 questions have no sound, such as q0001; make them with a manifest",
        ),
        ({"classes": []}, "found no class"),
        ({"classes": [CLASSES[0]] * 2}, "'cat' is there twice"),
        ({"assign": lambda units: np.zeros(3, int)}, r"assignments must be int \(100,\)"),
        ({"cluster_by": "magic"}, "cluster_by must be of auto, head, k-means, got 'magic'"),
        ({"cluster_by": "head"}, "there is no cluster head to cluster by; cluster by k-means"),
        (
            {"cluster_by": "k-means", "assign": lambda units: np.zeros(100, int)},
            "cluster_by is k-means, and a cluster head was given; name one",
        ),
        ({"after": ("nowhere",)}, "nowhere is no finished set of questions"),
    ],
)
def test_a_failure_leaves_nothing(tmp_path, options, message):
    with pytest.raises(al.ActiveLearningError, match=message):
        make(tmp_path / "q", **({"num_questions": 5} | options))
    assert os.listdir(tmp_path) == []


def test_extreme_numbers_of_clusters_and_budgets(tmp_path):
    assert len(make(tmp_path / "one", num_clusters=1).questions) == 1
    every = make(tmp_path / "every", num_questions=5000, num_clusters=100)
    assert len({question.clip_id for question in every.questions}) == 100
    assert len(make(tmp_path / "default", num_questions=5000).questions) == 100
    one = al.questions_from_embeddings(
        np.ones((1, 2), np.float32), ["x"], str(tmp_path / "x"), classes=CLASSES
    )
    assert [question.neighbours for question in one.questions] == [()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_ids": ["a"]}, "clip_ids must be one a window, 2, got 1"),
        ({"clip_ids": ["a", "a"]}, "the window of clip 'a' at 0.0 s is there twice"),
        ({"clip_ids": ["a", "a"], "start_seconds": [0, 0.0001]}, "is there twice"),
        (
            {"clip_ids": ["a", "a"], "start_seconds": [0, 1], "recording_ids": ["r", "s"]},
            "is of the recordings 'r' and",
        ),
        ({"start_seconds": [0.0, np.nan]}, "must be finite"),
        ({"window_seconds": 0}, "window_seconds positive"),
    ],
)
def test_ids_and_times_that_do_not_fit(tmp_path, change, message):
    arguments_ = {"clip_ids": ["a", "b"], "output": str(tmp_path / "q"), "classes": CLASSES} | change
    with pytest.raises(al.ActiveLearningError, match=message):
        al.questions_from_embeddings(np.eye(2, dtype=np.float32), **arguments_)


def test_answers_are_never_overwritten(tmp_path):
    output = tmp_path / "q"
    make(output, num_questions=2)
    with pytest.raises(al.ActiveLearningError, match="is finished; pass --overwrite"):
        make(output, num_questions=3)
    assert len(make(output, num_questions=3, overwrite=True).questions) == 3
    sets.answer(output, ("q0001", ("dog",)))
    with pytest.raises(al.ActiveLearningError, match=r"answers\.jsonl holds answers that somebody gave"):
        make(output, num_questions=4, overwrite=True)
    assert len(al.read_answers(str(output))) == 1
    assert sorted(os.listdir(tmp_path)) == ["q"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_folders_of_others_are_left_alone(tmp_path, overwrite):
    (tmp_path / "q").mkdir()
    make(tmp_path / "q", num_questions=2)  # an empty folder is no obstacle
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    with pytest.raises(al.ActiveLearningError, match="it is not ours to replace"):
        make(tmp_path / "thesis", overwrite=overwrite)
    (tmp_path / "x.partial").mkdir()
    (tmp_path / "x.partial" / "thesis.tex").write_text("years of work")
    with pytest.raises(al.ActiveLearningError, match="was left by no job of ours"):
        make(tmp_path / "x", overwrite=overwrite)
    assert (tmp_path / "x.partial" / "thesis.tex").exists()


def test_what_a_killed_job_left_is_cleared_away(tmp_path):
    (tmp_path / "q.partial").mkdir()
    (tmp_path / "q.partial" / ".tfsound-partial").touch()
    (tmp_path / "q.partial" / "questions.jsonl").write_text("half")
    make(tmp_path / "q", num_questions=2)
    assert sorted(os.listdir(tmp_path)) == ["q"]


def test_rounds_use_the_same_clusters_and_go_on_numbering(tmp_path):
    first = make(tmp_path / "1", num_questions=4, num_clusters=10)
    given = [("q0001", ("dog",)), ("q0002", "unsure"), ("q0003", ("dog", "cat"))]
    sets.answer(tmp_path / "1", *given)
    second = make(tmp_path / "2", num_questions=20, after=(str(tmp_path / "1"),), order=range(99, -1, -1))
    assert second.num_clusters == 10
    np.testing.assert_array_equal(al.read_windows(second).cluster, al.read_windows(first).cluster)
    clusters = [question.cluster for question in first.questions]
    sizes = np.bincount(al.read_windows(first).cluster)
    unclear = {cluster for cluster in clusters[1:3] if sizes[cluster] > 1}
    assert {question.cluster for question in second.questions} == (set(range(10)) - set(clusters)) | unclear
    assert not {question.key for question in first.questions} & {
        question.key for question in second.questions
    }
    assert second.questions[0].question_id == "q0005"
    third = make(
        tmp_path / "3", num_questions=50, num_clusters=30, after=(str(tmp_path / "1"), str(tmp_path / "2"))
    )
    assert third.num_clusters == 30
    asked = {question.key for made in (first, second) for question in made.questions}
    assert not asked & {question.key for question in third.questions}
    numbers = [int(question.question_id[1:]) for question in third.questions]
    assert min(numbers) == 5 + len(second.questions)


def test_rounds_find_windows_that_are_in_another_order(tmp_path):
    first = make(tmp_path / "1", num_questions=4, num_clusters=10)
    expected = make(tmp_path / "2", after=(first.folder,))
    with np.load(tmp_path / "1" / "windows.npz") as file:
        arrays = {name: value[::-1] if len(value) == first.num_windows and name[:4] != "clip" else value
                  for name, value in file.items()}  # fmt: skip
        arrays["clip_index"], arrays["recording_ids"] = file["clip_index"][::-1], file["recording_ids"]
    np.savez(tmp_path / "1" / "windows.npz", **arrays)
    found = make(tmp_path / "3", after=(first.folder,))
    assert found.questions == expected.questions


def test_answers_from_elsewhere_count_for_the_next_round(tmp_path):
    make(tmp_path / "1", num_questions=5)
    (tmp_path / "given.csv").write_text("question_id,labels\nq0001,dog\nq0002,\nq0003,dog;cat\n")
    second = make(tmp_path / "2", after=(str(tmp_path / "1"),), annotations=(str(tmp_path / "given.csv"),))
    first = al.read_questions(str(tmp_path / "1")).by_id()
    assert [question.cluster for question in second.questions] == [first["q0003"].cluster]


def test_clusters_of_other_windows_cannot_be_used_again(tmp_path):
    make(tmp_path / "1", num_questions=5)
    embeddings, _ = blobs()
    with pytest.raises(al.ActiveLearningError, match=r"about other windows than these.*name num_clusters"):
        al.questions_from_embeddings(
            embeddings[:50], [f"other-{n}" for n in range(50)], str(tmp_path / "2"), classes=CLASSES,
            options=al.QuestionOptions(after=(str(tmp_path / "1"),)),
        )  # fmt: skip


# Sounds.


def ramp(seconds, rate=16000):
    """A waveform whose every sample tells when it is."""
    return (np.arange(round(seconds * rate)) / (64 * rate)).astype(np.float32)


def question_at(start, clip_id="a", neighbours=()):
    return al.Question("q0001", 0, 1, clip_id, "r", start, round(start + 0.96, 6), neighbours=neighbours)


def rows_of(tmp_path, seconds=6.0, uri="{path}"):
    path = tmp_path / "a b#?.wav"
    media.write_wav(str(path), ramp(seconds), 16000)
    return {"a": datasets.ManifestRow("a", "r", uri.format(path=path))}


@pytest.mark.parametrize("uri", ["{path}", "file://{path}"])
@pytest.mark.parametrize(
    ("start", "begin", "end"),
    [(2.0, 1.0, 3.96), (0.0, 0.0, 1.96), (0.5, 0.0, 2.46), (5.04, 4.04, 6.0), (5.5, 4.5, 6.0)],
)
def test_a_sound_is_the_window_and_a_second_around_it(tmp_path, start, begin, end, uri):
    neighbour = al.Neighbour("a+3", "r", 1.0, 1.96)  # a piece of the clip
    rows = rows_of(tmp_path, uri=uri)
    questions, problems = audio.write_audio(
        str(tmp_path), [question_at(start, neighbours=(neighbour,))], rows
    )
    assert problems == []
    (question,) = questions
    assert (question.audio, question.audio_start_seconds) == ("audio/q0001.wav", begin)
    sound = media.read_audio(str(tmp_path / question.audio))
    expected = ramp(6.0)[round(begin * 16000) : round(end * 16000)]
    assert len(sound) == len(expected)
    np.testing.assert_allclose(sound, expected, atol=1 / 32768)
    assert question.neighbours[0].audio == "audio/q0001_1.wav"
    assert len(media.read_audio(str(tmp_path / "audio" / "q0001_1.wav"))) == round(2.96 * 16000)


def test_sounds_that_cannot_be_read_are_told_of_and_their_questions_stay(tmp_path):
    rows = rows_of(tmp_path)
    rows["gone"] = datasets.ManifestRow("gone", "r", str(tmp_path / "gone.wav"))
    asked = [question_at(1.0), question_at(1.0, "gone"), question_at(1.0, "unlisted"), question_at(99.0)]
    questions, problems = audio.write_audio(str(tmp_path), asked, rows)
    assert [bool(question.audio) for question in questions] == [True, False, False, False]
    assert len(problems) == 3
    assert "the clip 'unlisted' is not in the manifest" in problems[1]
    with pytest.raises(
        al.ActiveLearningError, match=r"none of the sounds of 2 questions can be read; the first: "
    ):
        audio.write_audio(str(tmp_path), asked[1:3], rows)
    remote = {"a": datasets.ManifestRow("a", "r", "nosuch://bucket/a.wav")}
    with pytest.raises(al.ActiveLearningError, match="none of the sounds"):
        audio.write_audio(str(tmp_path), asked[:1], remote)


# The job on clip examples.


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """12 clips of 3 windows in 3 folds; the embedding is the energy of each band."""
    labels = [("bell",), ("dog",), ()]
    made = [tiny.make_clip(n, labels=labels[n % 3], fold=str(n % 3)) for n in range(12)]
    monkeypatch.setattr(
        evaluation, "load_embed", lambda model: (lambda log_mel: log_mel.mean(axis=1), tiny.PARAMS)
    )
    return tiny.write_clips(tmp_path / "clips", made)


def test_the_job_asks_about_the_windows_of_clips(clips, tmp_path):
    made = al.questions(clips, "model", str(tmp_path / "q"), num_questions=4, num_clusters=6)
    assert (made.num_windows, made.class_names, made.window_seconds) == (36, ("bell", "dog"), 0.08)
    windows = al.read_windows(made)
    expected = {
        (clip.clip_id, round(1000 * start))
        for clip in examples.iter_clips(clips)
        for start in al.window_starts(clip.start_seconds, 3, 0.08)
    }
    assert set(sets.window_keys(windows)) == expected
    assert set(windows.recording_ids) == {f"recording-{n}" for n in range(12)}
    assert made.settings["clips"] == clips
    assert (tmp_path / "q" / "questions.json").exists()


def test_folds_to_ask_about(clips, tmp_path):
    some = al.questions(clips, "model", str(tmp_path / "1"), folds=("0", "2"))
    rest = al.questions(clips, "model", str(tmp_path / "2"), exclude_folds=("1",))
    assert some.num_windows == 24
    assert some.questions == rest.questions
    with pytest.raises(examples.DatasetError, match="fold '7' does not occur"):
        al.questions(clips, "model", str(tmp_path / "3"), exclude_folds=("7",))
    with pytest.raises(al.ActiveLearningError, match="there is no clip to ask about"):
        al.questions(clips, "model", str(tmp_path / "3"), exclude_folds=("0", "1", "2"))
    assert not os.path.exists(tmp_path / "3")


def test_classes_of_ones_own_and_of_the_last_round(clips, tmp_path):
    (tmp_path / "mine.txt").write_text("wolf\nfox\n")
    mine = str(tmp_path / "mine.txt")
    first = al.questions(clips, "model", str(tmp_path / "1"), classes=mine, num_questions=2, num_clusters=6)
    assert first.class_names == ("wolf", "fox")
    with al.AnswerLog(first.folder) as log:
        log.add_class("owl")
    second = al.questions(clips, "model", str(tmp_path / "2"), after=(first.folder,))
    assert second.class_names == ("wolf", "fox", "owl")


def test_clips_without_labels_need_a_list_of_classes(clips, tmp_path):
    unlabelled = tiny.write_clips(tmp_path / "unlabelled", [tiny.make_clip(n) for n in range(4)])
    with pytest.raises(al.ActiveLearningError, match="the clips have no labels to take classes from"):
        al.questions(unlabelled, "model", str(tmp_path / "q"))


def test_sounds_and_files_for_other_tools(clips, tmp_path):
    rows = [
        datasets.ManifestRow(f"clip-{n}", f"recording-{n}", str(tmp_path / f"{n}.wav")) for n in range(12)
    ]
    for n in range(11):  # the last is missing
        media.write_wav(rows[n].uri, ramp(4.0), 16000)
    datasets.write_manifest(str(tmp_path / "manifest.csv"), rows)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = al.questions(
            clips, "model", str(tmp_path / "my q"), manifest=str(tmp_path / "manifest.csv"), num_questions=3,
            formats=("csv",),
        )  # fmt: skip
    missing = sum(
        window.clip_id == "clip-11"
        for question in made.questions
        for window in (question, *question.neighbours)
    )
    told = [str(warning.message) for warning in caught if "cannot be read" in str(warning.message)]
    assert [text.split()[0] for text in told] == ([str(missing)] if missing else [])
    for question in made.questions:
        for window in (question, *question.neighbours):
            assert bool(window.audio) == (window.clip_id != "clip-11")
            if window.audio:
                assert os.path.getsize(tmp_path / "my q" / window.audio) > 1000
    made = al.questions(
        clips, "model", str(tmp_path / "my q"), manifest=str(tmp_path / "manifest.csv"), num_questions=1,
        formats=("label-studio", "csv"), overwrite=True, seed=1,
    )  # fmt: skip
    (task,) = json.loads((tmp_path / "my q" / "label_studio_tasks.json").read_text())
    assert task["data"]["audio"] == "/data/local-files/?d=my%20q/audio/q0001.wav"
    assert (tmp_path / "my q" / "questions.csv").exists()


def test_what_needs_sounds_is_refused_before_anything_is_embedded(clips, tmp_path, monkeypatch):
    monkeypatch.delattr(evaluation, "load_embed")
    with pytest.raises(al.ActiveLearningError, match="label-studio needs sounds; name the manifest"):
        al.questions(clips, "model", str(tmp_path / "q"), formats=("csv", "label-studio"))


def test_that_nothing_can_be_heard_is_said(tmp_path):
    made = make(tmp_path / "q", num_questions=2)
    assert f"3 classes; without sounds to hear -> {tmp_path}" in str(made)


def test_other_front_ends_are_refused(clips, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "load_embed", lambda model: (None, tiny.mel.MelParams()))
    with pytest.raises(ValueError, match="other mel parameters"):
        al.questions(clips, "model", str(tmp_path / "q"))


@pytest.mark.parametrize("function", [al.questions, al.answers])
def test_jobs_are_commands(function):
    """Every option has its help, and positional arguments come in the order of the signature."""
    parser = arguments.make_parser(function, "tfsound job")
    assert all(action.help for action in parser._actions)
    names = "CLIPS EMBEDDER OUTPUT" if function is al.questions else "QUESTIONS... OUTPUT"
    assert f"tfsound job {names} [options]" in parser.format_help()


def test_answers_from_a_command_line(tmp_path):
    for name in ("a", "b"):
        sets.write_set(tmp_path / name, [0, 0], prefix=name)
        sets.answer(tmp_path / name, ("q0001", ("dog",)))
    parser = arguments.make_parser(al.answers, "tfsound answers")
    argv = [str(tmp_path / name) for name in ("a", "b", "labels")]
    assert arguments.call(parser, al.answers, argv).num_positive == 4
