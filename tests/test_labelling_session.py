"""Tests of a labelling session without its server: answers once on disk, keys that stay, the pace."""

import datetime
import errno
import os
import threading
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelling_sets import CLASSES, HIERARCHY, answer_lines, make_folder

from tfsound.active_learning import ActiveLearningError, Answer, AnswerLog, read_classes, read_questions
from tfsound.labelling.session import SLOT_KEYS, Session, Slots, seconds_an_answer


def new_id():
    return str(uuid.uuid4())


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "set", with_audio=False)


class Opened:
    """A session with its log, as `label` opens it."""

    def __init__(self, folder, **options):
        self._folder, self._options = str(folder), options

    def __enter__(self):
        self._log = AnswerLog(self._folder)
        self._log.__enter__()
        return Session(read_questions(self._folder), self._log, annotator="ann", **self._options)

    def __exit__(self, *_):
        self._log.__exit__()


def test_an_answer_is_on_disk_with_who_and_when(folder):
    answer_id = new_id()
    with Opened(folder) as session:
        question, state = session.answer("q0002", "labels", ["rain", "dog"], answer_id=answer_id)
        (line,) = answer_lines(folder)  # before anything is closed
    assert question == {"question_id": "q0002", "answer": "labels", "labels": ["rain", "dog"]}
    assert state["progress"] == {"num_answered": 1, "num_questions": 3, "seconds_left": None}
    assert (line["question_id"], line["labels"], line["annotator"]) == ("q0002", ["rain", "dog"], "ann")
    assert line["answer_id"] == answer_id
    assert datetime.datetime.fromisoformat(line["time"]).utcoffset() == datetime.timedelta(0)


def test_the_same_answer_sent_again_is_not_doubled(folder):
    answer_id = new_id()
    with Opened(folder) as session:
        first = session.answer("q0001", "labels", ["dog"], answer_id=answer_id)
        assert session.answer("q0001", "labels", ["dog"], answer_id=answer_id) == first
    with Opened(folder) as session:  # another run
        session.answer("q0001", "labels", ["dog"], answer_id=answer_id)
        assert session.num_stored == 1
        assert session.num_answers_of_this_run == 0
    assert len(answer_lines(folder)) == 1


def test_a_withdrawal_sent_again_is_not_refused(folder):
    answer_id = new_id()
    with Opened(folder) as session:
        session.answer("q0001", "unsure", [], answer_id=new_id())
        for _ in range(2):
            question, _ = session.answer("q0001", "withdrawn", [], answer_id=answer_id)
            assert question["answer"] is None
    assert len(answer_lines(folder)) == 2


def test_an_id_is_that_of_one_answer_only(folder):
    answer_id = new_id()
    with Opened(folder) as session:
        session.answer("q0001", "labels", ["dog"], answer_id=answer_id)
        with pytest.raises(ActiveLearningError, match="that of another answer"):
            session.answer("q0001", "labels", ["rain"], answer_id=answer_id)
        with pytest.raises(ActiveLearningError, match="that of another answer"):
            session.answer("q0002", "labels", ["dog"], answer_id=answer_id)
    assert len(answer_lines(folder)) == 1


def test_threads_that_send_one_answer_store_one(folder):
    answer_id = new_id()
    with Opened(folder) as session:
        send = lambda: session.answer("q0001", "none", [], answer_id=answer_id)  # noqa: E731
        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert session.num_stored == 1
    assert len(answer_lines(folder)) == 1


@pytest.mark.parametrize(
    ("question_id", "kind", "labels", "answer_id", "message"),
    [
        ("q9999", "labels", ["dog"], None, "not among the 3"),
        ("q0001", "labels", ["cat"], None, "'cat' is not among the 4"),
        ("q0001", "labels", [], None, "needs labels"),
        ("q0001", "unsure", ["dog"], None, "takes no labels"),
        ("q0001", "maybe", [], None, "must be one of"),
        ("q0001", "labels", ["dog", "dog"], None, "twice"),
        ("q0001", "withdrawn", [], None, "no answer that could be taken back"),
        ("q0001", "unsure", [], "1", "must be a UUID"),
        ("q0001", "unsure", [], "", "must be a UUID"),
        ("q0001", "unsure", [], "{" + str(uuid.UUID(int=1)) + "}", "must be a UUID"),
    ],
)
def test_what_is_no_answer_is_refused_and_not_stored(folder, question_id, kind, labels, answer_id, message):
    with Opened(folder) as session, pytest.raises(ActiveLearningError, match=message):
        session.answer(question_id, kind, labels, answer_id=new_id() if answer_id is None else answer_id)
    assert answer_lines(folder) == []


def test_an_undone_answer_is_as_if_never_given(folder):
    with Opened(folder) as session:
        session.answer("q0001", "labels", ["dog"], answer_id=new_id())
        question, state = session.answer("q0001", "withdrawn", [], answer_id=new_id())
        assert question == {"question_id": "q0001", "answer": None, "labels": []}
        assert state["progress"]["num_answered"] == 0
        assert session.to_json()["questions"][0]["answer"] is None


def test_a_full_disk_loses_nothing_and_the_answer_can_be_sent_again(folder, monkeypatch):
    with Opened(folder) as session:
        session.answer("q0001", "labels", ["dog"], answer_id=new_id())
        before, answer_id = (folder / "answers.jsonl").read_bytes(), new_id()
        with monkeypatch.context() as patch:

            def refuse(descriptor):
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(os, "fsync", refuse)
            with pytest.raises(OSError, match="No space"):
                session.answer("q0002", "labels", ["rain"], answer_id=answer_id)
        assert (folder / "answers.jsonl").read_bytes() == before
        assert session.num_stored == session.num_answered == 1
        session.answer("q0002", "labels", ["rain"], answer_id=answer_id)
    assert [line["question_id"] for line in answer_lines(folder)] == ["q0001", "q0002"]


def test_new_classes_are_refused_unless_the_session_takes_them(folder):
    with Opened(folder) as session, pytest.raises(ActiveLearningError, match="'owl' is not among"):
        session.answer("q0001", "labels", ["owl"], answer_id=new_id())
    with Opened(folder, allow_new_classes=True) as session:
        _, state = session.answer("q0001", "labels", ["owl", "dog"], answer_id=new_id())
        assert state["num_classes"] == 5
        assert session.to_json()["classes"][-1] == {"name": "owl", "display_name": "owl", "path": []}
    assert [each.name for each in read_classes(folder / "classes.csv")][-1] == "owl"
    with Opened(folder) as session:  # and whoever reads the answers knows the class
        assert session.num_answered == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("DOG", "in the list as 'dog'"),
        ("x" * 101, "100 characters"),
        ("a;b", "name without"),
        (" ", "name without"),
    ],
)
def test_new_classes_are_names(folder, name, message):
    before = (folder / "classes.csv").read_bytes()
    with Opened(folder, allow_new_classes=True) as session, pytest.raises(ActiveLearningError, match=message):
        session.answer("q0001", "labels", [name], answer_id=new_id())
    assert (folder / "classes.csv").read_bytes() == before
    assert answer_lines(folder) == []


def test_an_answer_to_no_question_adds_no_class(folder):
    with (
        Opened(folder, allow_new_classes=True) as session,
        pytest.raises(ActiveLearningError, match="not among"),
    ):
        session.answer("q9999", "labels", ["owl"], answer_id=new_id())
    assert read_classes(folder / "classes.csv") == list(CLASSES)


def test_the_page_is_told_of_classes_with_their_paths(tmp_path):
    with Opened(make_folder(tmp_path / "set", with_audio=False, classes=HIERARCHY)) as session:
        paths = {each["name"]: each["path"] for each in session.to_json()["classes"]}
    assert paths["Bark"] == ["Animal", "Dog"]
    assert paths["Animal"] == []


def test_keys_are_the_same_after_a_restart(tmp_path):
    folder = make_folder(tmp_path / "set", with_audio=False, classes=HIERARCHY)
    with Opened(folder) as session:
        session.answer("q0001", "labels", ["Bark", "Café"], answer_id=new_id())
        _, state = session.answer("q0002", "labels", ["Animal"], answer_id=new_id())
    assert [slot["name"] for slot in state["slots"][:4]] == ["Bark", "Café", "Animal", None]
    with Opened(folder) as session:
        assert session.to_json()["slots"] == state["slots"]


def test_few_classes_all_have_keys_from_the_start():
    assert Slots(["dog", "rain"]).to_json()[:3] == [
        {"key": "1", "name": "dog"}, {"key": "2", "name": "rain"}, {"key": "3", "name": None},
    ]  # fmt: skip
    assert set(Slots([f"{number}" for number in range(20)]).names) == {None}


def test_the_class_not_answered_for_longest_gives_its_key():
    slots = Slots([f"{number}" for number in range(100)])
    names = [f"{number}" for number in range(len(SLOT_KEYS))]
    slots.use(names)
    slots.use(["0"])
    slots.use(["new"])
    assert slots.names == ["0", "new", *names[2:]]


@given(
    st.lists(st.lists(st.sampled_from([f"class {number}" for number in range(40)]), max_size=3), max_size=60)
)
def test_a_class_keeps_its_key_as_long_as_it_has_one(answers):
    slots = Slots([f"class {number}" for number in range(40)])
    for labels in answers:
        before = list(slots.names)
        slots.use(labels)
        assert len([name for name in slots.names if name]) == len({name for name in slots.names if name})
        kept = [name for name in before if name and name in slots.names]
        assert all(slots.names.index(name) == before.index(name) for name in kept if name not in labels)
        assert all(label in slots.names for label in labels)


def test_keys_of_slots_have_no_other_meaning():
    assert len(set(SLOT_KEYS)) == len(SLOT_KEYS)
    assert not set(SLOT_KEYS) & set("wunzx/?")


def answered_at(*seconds):
    start = datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC)
    times = [start + datetime.timedelta(seconds=second) for second in seconds]
    return [Answer("q0001", "unsure", time=time.isoformat()) for time in times]


@pytest.mark.parametrize(
    ("seconds", "pace"),
    [
        ([], None),
        ([0, 5, 10], None),  # two gaps say little
        ([0, 4, 10, 20], 6),
        ([0, 4, 10, 5000, 5010], 6),  # a break is left out
        ([10, 0, 4, 10, 20], 6),  # and a clock that was set back
        (range(0, 2000, 100), 100),
        ([*range(0, 2000, 100), *range(2000, 2042, 2)], 2),  # the last twenty count
    ],
)
def test_the_pace_is_the_median_of_the_last_gaps(seconds, pace):
    assert seconds_an_answer(answered_at(*seconds)) == pace
