"""Clusters of clips in place of windows: what is asked, what answers reach, later rounds."""

import json

import numpy as np
import pytest
import tiny

from tests import active_learning_sets as sets
from tests.test_active_learning_annotated import make_windows
from tfsound import active_learning as al
from tfsound import arguments, evaluation

WINDOWS_EACH = 4


def make(output, *, windows=None, order=None, assign=None, **options):
    """Questions about 12 clips of 4 windows in 3 clouds, by clips."""
    windows = windows or make_windows(windows_each=WINDOWS_EACH)
    order = np.arange(len(windows)) if order is None else order
    return al.questions_from_embeddings(
        windows.embeddings[order], [windows.clip_ids[row] for row in order], str(output),
        recording_ids=[windows.recording_ids[row] for row in order],
        start_seconds=windows.start_seconds[order], assign=assign,
        classes=[al.SoundClass(name) for name in windows.class_names],
        options=al.QuestionOptions(**({"pools_clips": True} | options)),
    )  # fmt: skip


def clusters_of_clips(question_set):
    """{clip: its clusters}"""
    windows = al.read_windows(question_set)
    found = {}
    for clip, cluster in zip(windows.clip_ids[windows.clip_index], windows.cluster, strict=True):
        found.setdefault(str(clip), set()).add(int(cluster))
    return found


def lines_of(folder):
    lines = (folder / "labels.jsonl").read_text().splitlines()
    return {(line["clip_id"], round(1000 * line["start_seconds"])): line for line in map(json.loads, lines)}


@pytest.mark.parametrize("num_clusters", [3, 7])
def test_a_clip_is_in_one_cluster_as_under_simulation(tmp_path, num_clusters):
    windows = make_windows(windows_each=WINDOWS_EACH)
    made = make(tmp_path / "q", num_questions=3, num_clusters=num_clusters)
    clusters = clusters_of_clips(made)
    assert {len(own) for own in clusters.values()} == {1}
    assert len(set.union(*clusters.values())) == made.num_active_clusters == num_clusters
    assert (made.pools_clips, al.read_questions(made.folder).pools_clips) == (True, True)
    for question in made.questions:
        num_clips = sum(own == {question.cluster} for own in clusters.values())
        assert question.cluster_size == num_clips * WINDOWS_EACH
        assert len(question.neighbours) == min(3, num_clips - 1)
        assert all(clusters[near.clip_id] == {question.cluster} for near in question.neighbours)
    # The same questions as those of the simulation that the reproduction runs.
    simulated = windows.pooled().ask_of_clusters(3, num_clusters=num_clusters)
    assert [question.key for question in simulated.questions] == [one.key for one in made.questions]
    # Windows alone are not clustered by clip.
    alone = make(tmp_path / "alone", num_questions=3, num_clusters=12, pools_clips=False)
    assert max(map(len, clusters_of_clips(alone).values())) > 1
    assert not alone.pools_clips


def test_the_order_of_the_windows_counts_for_nothing(tmp_path):
    order = np.random.default_rng(1).permutation(48)
    first, second = make(tmp_path / "1", num_questions=5), make(tmp_path / "2", num_questions=5, order=order)
    assert first.questions == second.questions
    np.testing.assert_array_equal(al.read_windows(first).cluster, al.read_windows(second).cluster)


def test_a_cluster_head_clusters_clips_and_never_splits_one(tmp_path):
    seen = []

    def assign(embeddings):
        seen.append(embeddings)
        return np.arange(len(embeddings)) % 2  # as if rounding had parted equal rows

    made = make(tmp_path / "q", assign=assign, num_clusters=2)
    assert {len(own) for own in clusters_of_clips(made).values()} == {1}
    assert len(np.unique(seen[0], axis=0)) == 12
    np.testing.assert_allclose(np.linalg.norm(seen[0], axis=1), 1, atol=1e-6)
    with pytest.raises(al.ActiveLearningError, match=r"assignments must be int \(48,\)"):
        make(tmp_path / "x", assign=lambda embeddings: np.zeros(3, int), num_clusters=2)


def test_there_are_no_more_clusters_than_clips(tmp_path):
    made = make(tmp_path / "q", num_questions=40)
    assert made.num_clusters == 12
    assert len({question.clip_id for question in made.questions}) == len(made.questions) == 12
    with pytest.raises(al.ActiveLearningError, match="from 1 to the number of clips, 12, got 13"):
        make(tmp_path / "x", num_clusters=13)


def test_an_answer_goes_to_all_windows_of_the_clips_of_its_cluster(tmp_path):
    windows = make_windows(windows_each=WINDOWS_EACH)
    made = make(tmp_path / "q", num_questions=3)
    truth = dict(zip(windows.clip_ids, windows.labels.argmax(axis=1), strict=True))
    for question in made.questions:
        sets.answer(tmp_path / "q", (question.question_id, (sets.CLASSES[truth[question.clip_id]],)))
    summary = al.answers((made.folder,), str(tmp_path / "labels"))
    assert (summary.num_positive, summary.num_direct) == (48, 3)
    questions = {question.cluster: question for question in made.questions}
    for name, line in lines_of(tmp_path / "labels").items():
        assert line["labels"] == [sets.CLASSES[truth[line["clip_id"]]]]
        question = questions[line["cluster"]]
        assert line["question_id"] == question.question_id
        assert line["source"] == ("direct" if name == question.key else "propagated")
        assert "also" not in line


def test_a_second_round_asks_about_no_clip_again_and_an_answer_stands_for_its_clip(tmp_path):
    one_cluster = {"num_clusters": 1}
    folders = []
    for number, said in enumerate((("dog", "cat"), ("cat", "rain"), "none", "unsure"), start=1):
        options = {"after": tuple(folders)} if folders else one_cluster
        # Later rounds take the clusters over, and so that they are of clips.
        made = make(tmp_path / str(number), num_questions=5, pools_clips=not folders, **options)
        assert made.pools_clips
        sets.answer(tmp_path / str(number), (made.questions[0].question_id, said))
        folders.append(made.folder)
    asked = [al.read_questions(folder).questions[0] for folder in folders]
    assert len({question.clip_id for question in asked}) == 4
    assert [question.question_id for question in asked] == ["q0001", "q0002", "q0003", "q0004"]
    summary = al.answers(tuple(folders), str(tmp_path / "labels"))
    assert (summary.num_direct, summary.num_labelled_windows, summary.num_windows) == (4, 48, 48)
    cohabitants = (["cat", "dog", "rain"], [2 / 3, 1 / 3, 1 / 3], "propagated")
    definite = (["cat", "dog"], [1.0, 1.0]), (["cat", "rain"], [1.0, 1.0])
    for (clip_id, start), line in lines_of(tmp_path / "labels").items():
        found = line["labels"], line["confidence"], line["source"]
        where = next((n for n, question in enumerate(asked) if question.clip_id == clip_id), None)
        if where is None:
            assert found == cohabitants
        elif (clip_id, start) == asked[where].key:
            assert found == (*(*definite, ([], []), ([], []))[where], "direct")
            assert line["kind"] == ("positive", "positive", "negative", "uncertain")[where]
        elif where < 2:  # its own clip's answer, not what the cluster says
            assert found == (*definite[where], "propagated")
            assert line["question_id"] == asked[where].question_id
            assert "also" not in line
        else:  # of a window that is something else, or that nobody knows, nothing is spread
            assert found == cohabitants


def test_rounds_end_when_all_clips_were_asked_about(tmp_path):
    folders = []
    for number in range(1, 13):
        options = {"after": tuple(folders)} if folders else {"num_clusters": 1}
        folders.append(make(tmp_path / str(number), num_questions=5, **options).folder)
        sets.answer(tmp_path / str(number), (f"q{number:04d}", "unsure"))
    clips = [al.read_questions(folder).questions[0].clip_id for folder in folders]
    assert len(set(clips)) == 12
    with pytest.raises(al.ActiveLearningError, match="are clear or have been asked about"):
        make(tmp_path / "more", after=tuple(folders))


def test_clusters_of_windows_do_not_become_those_of_clips_unsaid(tmp_path):
    first = make(tmp_path / "1", num_questions=4, pools_clips=False)
    with pytest.raises(al.ActiveLearningError, match=r"those of .*/1 are of windows; name num_clusters for"):
        make(tmp_path / "2", after=(first.folder,))
    second = make(tmp_path / "2", after=(first.folder,), num_clusters=6)
    assert second.pools_clips
    asked = {question.clip_id for question in first.questions}
    assert not asked & {question.clip_id for question in second.questions}


def test_it_is_an_option_of_the_job(tmp_path, monkeypatch):
    clips = tiny.write_clips(tmp_path / "clips", [tiny.make_clip(n, labels=("bell",)) for n in range(6)])
    monkeypatch.setattr(
        evaluation, "load_embed", lambda model: (lambda log_mel: log_mel.mean(axis=1), tiny.PARAMS)
    )
    parser = arguments.make_parser(al.questions, "tfsound questions")
    argv = [clips, "model", str(tmp_path / "q"), "--pools-clips", "--num-questions", "9"]
    made = arguments.call(parser, al.questions, argv)
    assert (made.num_windows, made.num_clusters, made.pools_clips) == (18, 6, True)
    assert {len(own) for own in clusters_of_clips(made).values()} == {1}
