"""The job `answers`, and the folder of labels that it writes."""

import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import active_learning_sets as sets
from tfsound import active_learning as al

EARLY, LATE = "2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00"


def lines_of(output):
    text = (output / "labels.jsonl").read_text(encoding="utf-8")
    return {line["clip_id"]: line for line in map(json.loads, text.splitlines())}


def kinds_of(output):
    return {int(name[-3:]): (line["kind"], tuple(line["labels"])) for name, line in lines_of(output).items()}


def test_answers_become_labels_by_hand(tmp_path):
    #                                0  1  2  3  4  5  6
    sets.write_set(tmp_path / "q", [0, 0, 1, 1, 2, 2, 3], [1, 2, 4])
    sets.answer(
        tmp_path / "q", ("q0001", ("dog", "cat")), ("q0002", "unsure"), ("q0003", "none"),
        annotator="Zoë", times=[EARLY, EARLY, LATE],
    )  # fmt: skip
    summary = al.answers((str(tmp_path / "q"),), str(tmp_path / "labels"))
    direct = {
        "source": "direct",
        "annotator": "Zoë",
        "question_set": 0,
        "end_seconds": 0.96,
        "start_seconds": 0.0,
    }

    def line(window, cluster, **fields):
        ids = {"clip_id": f"clip-{window:03d}", "recording_id": f"recording-{window:03d}", "cluster": cluster}
        return direct | ids | {"labels": [], "confidence": []} | fields

    both = {
        "kind": "positive",
        "labels": ["cat", "dog"],
        "confidence": [1.0, 1.0],
        "time": EARLY,
        "question_id": "q0001",
    }
    assert list(lines_of(tmp_path / "labels").values()) == [
        line(0, 0, **both) | {"source": "propagated"},
        line(1, 0, **both),
        line(2, 1, kind="uncertain", time=EARLY, question_id="q0002"),
        line(4, 2, kind="negative", time=LATE, question_id="q0003"),
    ]
    info = json.loads((tmp_path / "labels" / "labels.json").read_text())
    expected = {
        "num_questions": 3, "num_answered": 3, "num_windows": 7, "num_labelled_windows": 4, "num_positive": 2,
        "num_negative": 1, "num_uncertain": 1, "num_direct": 3,
    }  # fmt: skip
    assert {name: info[name] for name in expected} == expected
    assert {name: getattr(summary, name) for name in expected} == expected
    assert info["class_names"] == list(sets.CLASSES)
    assert "3 of 3 questions answered; 4 of 7 windows labelled: 2 positive, 1 negative, 1 uncertain" in str(
        summary
    )


def test_labels_come_back_as_arrays(tmp_path):
    sets.write_set(tmp_path / "q", [0, 0, 1, 1, 2, 2, 3], [1, 0, 2, 4])
    sets.answer(
        tmp_path / "q", ("q0001", ("dog", "cat")), ("q0002", ("dog",)), ("q0003", "unsure"), ("q0004", "none")
    )
    al.answers((str(tmp_path / "q"),), str(tmp_path / "labels"), propagate_none=True)
    found = al.read_propagated_labels(str(tmp_path / "labels"))
    assert found.clip_ids == ("clip-000", "clip-001", "clip-002", "clip-004", "clip-005")
    assert found.recording_ids[0] == "recording-000"
    assert found.class_names == sets.CLASSES
    np.testing.assert_array_equal(found.labels, [[0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(found.mask, [[1] * 3, [1] * 3, [0] * 3, [1] * 3, [1] * 3])
    np.testing.assert_array_equal(found.is_direct, [1, 1, 1, 1, 0])
    np.testing.assert_array_equal(found.end_seconds, [0.96] * 5)
    assert (found.labels.dtype, found.mask.dtype, len(found.row_labels)) == (np.float32, bool, 4)


def test_shares_are_confidences(tmp_path):
    sets.write_set(tmp_path / "q", [0] * 4, [0, 1, 2])
    sets.answer(
        tmp_path / "q",
        ("q0001", ("dog",)),
        ("q0002", ("dog", "cat")),
        ("q0003", ("dog",)),
        times=[LATE, EARLY, EARLY],
    )
    al.answers((str(tmp_path / "q"),), str(tmp_path / "labels"))
    line = lines_of(tmp_path / "labels")["clip-003"]
    assert (line["labels"], line["confidence"]) == (["cat", "dog"], [1 / 3, 1.0])
    assert (line["question_id"], line["time"]) == ("q0001", LATE)
    assert [other["question_id"] for other in line["also"]] == ["q0002", "q0003"]
    found = al.read_propagated_labels(str(tmp_path / "labels"))
    np.testing.assert_allclose(found.labels[3], [1 / 3, 1, 0])


def test_contradicting_annotators_are_told_and_leave_the_question_unclear(tmp_path):
    sets.write_set(tmp_path / "q", [0, 0, 1, 1])
    sets.answer(tmp_path / "q", ("q0001", ("dog",)), ("q0002", ("dog",)), annotator="a", times=[LATE, EARLY])
    sets.answer(tmp_path / "q", ("q0001", ("cat",)), ("q0002", ("dog",)), annotator="b", times=[EARLY, EARLY])
    summary = al.answers((str(tmp_path / "q"),), str(tmp_path / "1"))
    assert summary.conflicts == ("q0001",)
    assert "contradicting answers to 1 questions: q0001" in str(summary)
    said = "q0001: 'b' said cat, 'a' said dog; "
    assert str(summary).endswith(
        f"\n  {said}none is used, for they contradict each other (--on-conflict last uses the last)"
    )
    assert (*summary.changed, len(summary.differences)) == (1,)
    dog = ("positive", ("dog",))
    assert kinds_of(tmp_path / "1") == {0: ("uncertain", ()), 2: dog, 3: dog}
    summary = al.answers((str(tmp_path / "q"),), str(tmp_path / "2"), on_conflict="last")
    assert str(summary).endswith(f"\n  {said}dog is used, the last (--on-conflict last)")
    info = json.loads((tmp_path / "2" / "labels.json").read_text())
    assert (info["conflicts"], info["differences"]) == (["q0001"], list(summary.differences))
    assert kinds_of(tmp_path / "2") == {0: dog, 1: dog, 2: dog, 3: dog}
    with pytest.raises(al.ActiveLearningError, match="on_conflict must be one of"):
        al.answers((str(tmp_path / "q"),), str(tmp_path / "3"), on_conflict="never")


def test_changed_and_withdrawn_answers(tmp_path):
    sets.write_set(tmp_path / "q", [0, 1, 2])
    sets.answer(
        tmp_path / "q", ("q0001", ("dog",)), ("q0001", ("cat",)), ("q0002", ("dog",)), ("q0002", "withdrawn"),
        times=[LATE, EARLY, EARLY, EARLY],  # the order in the log counts, whatever its clock said
    )  # fmt: skip
    summary = al.answers((str(tmp_path / "q"),), str(tmp_path / "labels"))
    assert (summary.num_answered, summary.conflicts) == (1, ())
    assert kinds_of(tmp_path / "labels") == {0: ("positive", ("cat",))}
    assert summary.changed == ("q0001",)
    assert str(summary).endswith(
        "\nchanged answers to 1 questions: q0001\n  q0001: 'a' said dog, then cat; cat counts, the last"
    )


def test_of_one_annotators_answers_in_several_places_the_last_counts_and_that_is_said(tmp_path):
    sets.write_set(tmp_path / "q", [0, 1, 2, 3])
    sets.answer(tmp_path / "q", *((f"q000{n}", ("dog",)) for n in (1, 2, 3)), times=[EARLY] * 3)
    shutil.copytree(tmp_path / "q", tmp_path / "copy")  # the same answers again are no change
    sets.answer(tmp_path / "copy", ("q0002", ("cat", "rain")), times=[LATE])
    sets.answer(tmp_path / "q", ("q0003", "withdrawn"), ("q0003", ("cat",)), times=[LATE, LATE])
    (tmp_path / "given.csv").write_text(
        f"question_id,labels,annotator,time\nq0004,dog,a,{LATE}\nq0004,cat,a,{EARLY}"
    )
    folders = (str(tmp_path / "q"), str(tmp_path / "copy"))
    summary = al.answers(folders, str(tmp_path / "labels"), annotations=(str(tmp_path / "given.csv"),))
    assert (summary.conflicts, summary.changed) == ((), ("q0002", "q0003", "q0004"))
    assert summary.differences[0] == "q0002: 'a' said dog, then cat and rain; cat and rain counts, the last"
    cat = ("positive", ("cat",))
    assert kinds_of(tmp_path / "labels") == {
        0: ("positive", ("dog",)), 1: ("positive", ("cat", "rain")), 2: cat, 3: cat,
    }  # fmt: skip


def test_of_many_differences_the_first_are_told_and_all_are_written(tmp_path):
    sets.write_set(tmp_path / "q", range(8))
    for annotator, said in (("a", ("dog",)), ("b\n", "none")):
        sets.answer(tmp_path / "q", *((f"q000{n}", said) for n in range(1, 9)), annotator=annotator)
    summary = al.answers((str(tmp_path / "q"),), str(tmp_path / "labels"))
    lines = str(summary).splitlines()
    assert lines[1] == "contradicting answers to 8 questions: q0001, q0002, q0003, q0004, q0005, ..."
    assert lines[2].startswith("  q0001: 'a' said dog, 'b\\n' said none; none is used")
    assert lines[-1] == f"  ... (all are in {tmp_path}/labels/labels.json)"
    assert len(lines) == 8
    assert len(json.loads((tmp_path / "labels" / "labels.json").read_text())["differences"]) == 8


def test_an_answer_that_somebody_else_withdrew_does_not_count(tmp_path):
    sets.write_set(tmp_path / "q", [0, 1, 2])
    sets.answer(tmp_path / "q", ("q0001", ("dog",)), ("q0002", ("dog",)), ("q0003", ("dog",)), annotator="a")
    sets.answer(tmp_path / "q", ("q0001", "withdrawn"), ("q0002", "withdrawn"), annotator="b")
    sets.answer(tmp_path / "q", ("q0002", ("cat",)), annotator="b")
    with al.AnswerLog(str(tmp_path / "q")) as log:
        shown = {name: answer.labels for name, answer in log.current().items()}
    assert shown == {"q0002": ("cat",), "q0003": ("dog",)}
    summary = al.answers((str(tmp_path / "q"),), str(tmp_path / "labels"))
    assert summary.conflicts == ()
    found = {f"q000{number + 1}": labels for number, (_, labels) in kinds_of(tmp_path / "labels").items()}
    assert found == shown


def test_copies_that_two_annotators_answered_are_merged(tmp_path):
    sets.write_set(tmp_path / "q", [0, 0, 1, 1, 2])
    sets.answer(tmp_path / "q", ("q0001", ("dog",)), annotator="a", times=[EARLY])
    shutil.copytree(tmp_path / "q", tmp_path / "copy")
    sets.answer(tmp_path / "q", ("q0003", ("rain",)), annotator="a", times=[EARLY])
    sets.answer(
        tmp_path / "copy", ("q0002", ("cat",)), ("q0003", ("rain",)), annotator="b", times=[LATE, LATE]
    )
    sets.answer(tmp_path / "copy", ("q0001", "withdrawn"), annotator="a", times=[LATE])
    summary = al.answers((str(tmp_path / "q"), str(tmp_path / "copy")), str(tmp_path / "labels"))
    assert (summary.num_windows, summary.num_questions, summary.num_answered) == (5, 3, 2)
    cat = ("positive", ("cat",))
    assert kinds_of(tmp_path / "labels") == {2: cat, 3: cat, 4: ("positive", ("rain",))}
    line = lines_of(tmp_path / "labels")["clip-004"]
    assert (line["annotator"], [other["annotator"] for other in line["also"]]) == ("b", ["a"])


def test_of_rounds_the_last_one_that_tells_decides(tmp_path):
    sets.write_set(tmp_path / "1", [0, 0, 0, 0, 1, 1, 2], [0, 4, 6])
    sets.answer(tmp_path / "1", ("q0001", ("dog",)), ("q0002", ("rain",)), times=[EARLY, EARLY])
    # The second round splits cluster 0 and asks about the half with windows 2 and 3.
    sets.write_set(tmp_path / "2", [0, 0, 1, 1, 2, 2, 3], [2], first_number=4)
    sets.answer(tmp_path / "2", ("q0004", ("cat",)), times=[LATE])
    folders = (str(tmp_path / "1"), str(tmp_path / "2"))
    summary = al.answers(folders, str(tmp_path / "labels"))
    dog, cat, rain = (("positive", (name,)) for name in ("dog", "cat", "rain"))
    assert kinds_of(tmp_path / "labels") == {0: dog, 1: dog, 2: cat, 3: cat, 4: rain, 5: rain}
    assert lines_of(tmp_path / "labels")["clip-003"]["question_set"] == 1
    assert (summary.num_questions, summary.num_windows) == (4, 7)


def test_sets_about_different_windows(tmp_path):
    for name in ("a", "b"):
        sets.write_set(tmp_path / name, [0, 0], prefix=name, names=("x", name))
        sets.answer(tmp_path / name, ("q0001", (name,)))
    al.answers((str(tmp_path / "a"), str(tmp_path / "b")), str(tmp_path / "labels"))
    found = al.read_propagated_labels(str(tmp_path / "labels"))
    assert found.class_names == ("x", "a", "b")
    by_clip = dict(zip(found.clip_ids, found.labels.tolist(), strict=True))
    assert by_clip == {"a-000": [0, 1, 0], "a-001": [0, 1, 0], "b-000": [0, 0, 1], "b-001": [0, 0, 1]}


def test_annotations_and_the_log_are_merged(tmp_path):
    sets.write_set(tmp_path / "q", [0, 1, 2])
    sets.answer(tmp_path / "q", ("q0001", ("dog",)), ("q0002", ("dog",)), annotator="a", times=[EARLY, LATE])
    rows = [
        "question_id,answer,labels,annotator,time",
        f"q0001,,cat,a,{LATE}",
        f"q0002,,cat,a,{EARLY}",
        f"q0003,none,,b,{EARLY}",
    ]
    (tmp_path / "given.csv").write_text("\n".join(rows))
    al.answers((str(tmp_path / "q"),), str(tmp_path / "labels"), annotations=(str(tmp_path / "given.csv"),))
    assert kinds_of(tmp_path / "labels") == {
        0: ("positive", ("cat",)), 1: ("positive", ("dog",)), 2: ("negative", ()),
    }  # fmt: skip


def test_no_answers_and_no_folder(tmp_path):
    sets.write_set(tmp_path / "q", [0, 1])
    with pytest.raises(al.ActiveLearningError, match="none of the 2 questions has an answer"):
        al.answers((str(tmp_path / "q"),), str(tmp_path / "labels"))
    with pytest.raises(al.ActiveLearningError, match="no folder of questions was given"):
        al.answers((), str(tmp_path / "labels"))
    (tmp_path / "empty.csv").write_text("question_id,answer\nq0001,\n")
    with pytest.raises(al.ActiveLearningError, match=r"empty\.csv holds no answer"):
        al.answers(
            (str(tmp_path / "q"),), str(tmp_path / "labels"), annotations=(str(tmp_path / "empty.csv"),)
        )
    assert sorted(os.listdir(tmp_path)) == ["empty.csv", "q"]


def test_finished_labels_are_replaced_only_when_asked(tmp_path):
    sets.write_set(tmp_path / "q", [0, 0])
    sets.answer(tmp_path / "q", ("q0001", ("dog",)))
    folders, output = (str(tmp_path / "q"),), str(tmp_path / "labels")
    al.answers(folders, output)
    sets.answer(tmp_path / "q", ("q0001", ("cat",)))
    with pytest.raises(al.ActiveLearningError, match="is finished; pass --overwrite"):
        al.answers(folders, output)
    al.answers(folders, output, overwrite=True)
    assert kinds_of(tmp_path / "labels")[1] == ("positive", ("cat",))
    with pytest.raises(al.ActiveLearningError, match="not ours to replace"):
        al.answers(folders, str(tmp_path / "q"), overwrite=True)


def finished_labels(tmp_path):
    sets.write_set(tmp_path / "q", [0, 0, 1, 2])
    sets.answer(tmp_path / "q", ("q0001", ("dog", "cat")), ("q0002", "unsure"), ("q0003", "none"))
    al.answers((str(tmp_path / "q"),), str(tmp_path / "labels"))
    return tmp_path / "labels"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("labels.json", {"format": 3}, "has the format 3, this tfsound reads 1"),
        ("labels.json", {"class_names": None}, "class_names must be a list of texts"),
        ("labels.json", {"num_labelled_windows": 9}, "holds 4 windows, expected 9"),
        (
            "labels.jsonl",
            {"kind": "maybe"},
            "line 4: kind must be positive .with labels., negative or uncertain",
        ),
        ("labels.jsonl", {"kind": "positive"}, "line 4: kind must be positive"),
        ("labels.jsonl", {"labels": ["dog"]}, "line 4: kind must be positive"),
        (
            "labels.jsonl",
            {"kind": "positive", "labels": ["wolf"]},
            "line 4: the class 'wolf' is not in labels.json",
        ),
        ("labels.jsonl", {"kind": "positive", "labels": ["dog"], "confidence": [0]}, r"a number in \(0, 1\]"),
        ("labels.jsonl", {"kind": "positive", "labels": ["dog"], "confidence": []}, r"a number in \(0, 1\]"),
        ("labels.jsonl", {"clip_id": 3}, "line 4: clip_id must be text"),
        ("labels.jsonl", {"end_seconds": "1"}, "line 4: end_seconds must be a number"),
    ],
)
def test_edited_labels_are_refused(tmp_path, name, changes, message):
    path = finished_labels(tmp_path) / name
    text = path.read_text()
    lines = text.splitlines() if name.endswith("l") else [text]
    path.write_text("\n".join([*lines[:-1], json.dumps(json.loads(lines[-1]) | changes)]))
    with pytest.raises(al.ActiveLearningError, match=message):
        al.read_propagated_labels(str(path.parent))


@pytest.mark.parametrize("name", ["labels.json", "labels.jsonl"])
def test_unfinished_labels_are_refused(tmp_path, name):
    folder = finished_labels(tmp_path)
    os.remove(folder / name)
    with pytest.raises(al.ActiveLearningError, match=name):
        al.read_propagated_labels(str(folder))


@given(st.sampled_from(["labels.json", "labels.jsonl"]), st.data())
@settings(max_examples=80, deadline=None)
def test_damaged_labels_are_harmless_or_a_clear_error(tmp_path_factory, name, data):
    folder = finished_labels(tmp_path_factory.mktemp("fuzz"))
    content = (folder / name).read_bytes()
    start = round(data.draw(st.floats(0, 1)) * len(content))  # a share, because labels.json holds a path
    end = start + data.draw(st.integers(0, 15))
    (folder / name).write_bytes(content[:start] + data.draw(st.binary(max_size=6)) + content[end:])
    found, problem = sets.attempt(al.read_propagated_labels, str(folder))
    assert (str(folder) in problem) == (found is None)
    if found is not None:
        assert found.labels.shape == found.mask.shape == (4, len(found.class_names))
