"""The log of answers: nothing is lost, whatever is cut off, killed, full, edited or done by two at once."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import active_learning_sets as sets
from tfsound import active_learning as al
from tfsound.active_learning import answer_log


@pytest.fixture
def folder(tmp_path):
    sets.write_set(tmp_path / "q", [0, 0, 1, 2])
    return str(tmp_path / "q")


def log_path(folder):
    return os.path.join(folder, "answers.jsonl")


def read_quietly(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return al.read_answers(folder)


def test_answers_are_on_disk_when_append_returns_and_the_last_one_counts(folder):
    with al.AnswerLog(folder) as log:
        assert log.current() == {}
        first = log.append("q0001", "labels", ["dog"], "a")
        assert al.read_answers(folder) == [first]
        second = log.append("q0002", "unsure", annotator="a")
        third = log.append("q0001", "labels", ("dog", "rain"), "b")
        assert log.current() == {"q0002": second, "q0001": third}
        assert list(log.current()) == ["q0002", "q0001"]  # in the order of the answers that count
        log.append("q0002", "withdrawn", annotator="a")
        assert log.current() == {"q0001": third}
    assert len(al.read_answers(folder)) == 4
    with al.AnswerLog(folder) as log:
        assert log.current() == {"q0001": third}
        assert log.append("q0002", "none") in al.read_answers(folder)


def test_append_waits_for_the_disk(folder, monkeypatch):
    fsync, synced = os.fsync, []

    def record(descriptor):
        fsync(descriptor)
        synced.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(answer_log.os, "fsync", record)
    with al.AnswerLog(folder) as log:
        assert len(synced) == 2  # the file and its name in the folder
        for number in range(1, 4):
            log.append("q0001", "unsure")
            assert synced[2:][-1] == os.path.getsize(log_path(folder))
            assert len(synced) == 2 + number


def test_a_line_is_what_the_contract_says(folder):
    sets.answer(folder, ("q0001", ("dog",)), annotator="Zoë", times=["2026-11-21T18:00:00+01:00"])
    with open(log_path(folder), encoding="utf-8") as file:
        (line,) = file.read().splitlines()
    record = json.loads(line)
    assert len(record.pop("answer_id")) == 36
    assert record == {
        "question_id": "q0001", "answer": "labels", "labels": ["dog"], "annotator": "Zoë",
        "time": "2026-11-21T17:00:00+00:00",
    }  # fmt: skip
    assert "Zoë" in line


def test_a_log_that_is_cut_at_any_byte_loses_a_part_of_a_line_at_most(folder):
    said = [("q0001", ("dog",)), ("q0001", ("cat", "rain")), ("q0003", "none")]
    sets.answer(folder, *said, annotator="Ünsal")
    answers = al.read_answers(folder)
    with open(log_path(folder), "rb") as file:
        data = file.read()
    ends = [index for index, byte in enumerate(data) if byte == ord("\n")]  # a whole answer needs no line end
    for size in range(len(data) + 1):
        with open(log_path(folder), "wb") as file:
            file.write(data[:size])
        num_whole = sum(end <= size for end in ends)
        is_torn = size > (ends[num_whole - 1] + 1 if num_whole else 0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert al.read_answers(folder) == answers[:num_whole]
        assert [("only a part" in str(warning.message)) for warning in caught] == [True] * is_torn
        if size % 7 and data[size - 2 : size] != b"}\n" and data[size - 1 : size] != b"}":
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sets.answer(folder, ("q0003", ("rain",)))
        after = al.read_answers(folder)  # without a warning: the part is gone
        assert after[:-1] == answers[:num_whole]
        assert after[-1].labels == ("rain",)


def line_of(**changes):
    """An answer to q0001 with other fields; those that are None are left out."""
    record = {"question_id": "q0001", "answer": "unsure", "time": "2026-01-01"} | changes
    return json.dumps({name: value for name, value in record.items() if value is not None}).encode()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"question_id": "q0001", "answer"', "line 2: found .*, expected JSON"),
        (b"[]", "line 2: found .*, expected a JSON object"),
        (b'{"question_id": "q0001", "labels": ["d\xf6g"]}', "line 2: .*expected JSON in UTF-8"),
        (b'{"question_id": "q0001", "answer": NaN}', "line 2: .*expected JSON"),
        (line_of(answer="\ud800"), "line 2: .*expected JSON"),
        (b"[" * 100_000, "line 2: .*RecursionError"),
        (line_of(question_id=None), "line 2: question_id must be text, got nothing"),
        (line_of(time=None), "line 2: time must be text, got nothing"),
        (line_of(time="noon"), "line 2: time must be ISO 8601.*'noon'"),
        (line_of(question_id="q9"), "line 2: the question 'q9' is not among"),
        (line_of(answer="maybe"), "line 2: answer must be one of labels"),
        (line_of(answer="labels"), "line 2: .* needs labels"),
        (line_of(answer="none", labels=["dog"]), "takes no labels"),
        (
            line_of(answer="labels", labels=["wolf"]),
            "line 2: the class 'wolf' is not among the 3 of the list",
        ),
        (line_of(answer="labels", labels="dog"), "labels must be a list of texts"),
        (line_of(answer="labels", labels=["dog", "dog"]), "line 2: labels hold a class twice"),
    ],
)
def test_any_other_broken_line_is_an_error_that_names_it(folder, line, message):
    sets.answer(folder, ("q0001", ("dog",)), ("q0002", "unsure"))
    with open(log_path(folder), "rb") as file:
        first, second = file.read().splitlines(keepends=True)
    with open(log_path(folder), "wb") as file:
        file.write(first + line + b"\n" + second)
    with pytest.raises(al.ActiveLearningError, match=message):
        al.read_answers(folder)
    with pytest.raises(al.ActiveLearningError, match=message), al.AnswerLog(folder):
        pass
    with open(log_path(folder), "rb") as file:
        assert file.read() == first + line + b"\n" + second


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("q9", "unsure"), "the question 'q9' is not among the 3"),
        (("q0001", "labels", ["wolf"]), "the class 'wolf' is not among"),
        (("q0001", "labels"), "needs labels"),
        (("q0001", "none", ["dog"]), "takes no labels"),
        (("q0001", "perhaps"), "answer must be one of"),
        (("q0001", "unsure", (), "\ud800"), "surrogates"),
    ],
)
def test_what_is_no_answer_is_not_written(folder, arguments, message):
    with al.AnswerLog(folder) as log:
        with pytest.raises(ValueError, match=message):
            log.append(*arguments)
        log.append("q0001", "unsure")
        assert len(log.current()) == 1
    assert len(al.read_answers(folder)) == 1


def test_the_same_answer_sent_twice_is_there_once(folder):
    with al.AnswerLog(folder) as log:
        first = log.append("q0001", "labels", ["dog", "cat"], "a", answer_id="id-1")
        assert log.append("q0001", "labels", ["cat", "dog"], "a", answer_id="id-1") is first
        with pytest.raises(al.ActiveLearningError, match="'id-1' is that of another answer"):
            log.append("q0002", "labels", ["dog", "cat"], "a", answer_id="id-1")
    with al.AnswerLog(folder) as log:  # also after a restart
        assert log.append("q0001", "labels", ["dog", "cat"], "a", answer_id="id-1") == first
    assert al.read_answers(folder) == [first]


def test_a_copied_line_counts_once_and_an_edited_copy_is_an_error(folder):
    sets.answer(folder, ("q0001", ("dog",)))
    with open(log_path(folder), "rb+") as file:
        line = file.read()
        file.write(line)
    assert len(al.read_answers(folder)) == 1
    with open(log_path(folder), "ab") as file:
        file.write(line.replace(b"dog", b"cat"))
    with pytest.raises(al.ActiveLearningError, match=r"line 3: the answer_id .* is that of another answer"):
        al.read_answers(folder)


def test_a_second_writer_is_told_and_the_first_goes_on(folder):
    with al.AnswerLog(folder) as log:
        with pytest.raises(
            al.ActiveLearningError, match=f"open for answers elsewhere .process {os.getpid()}."
        ):
            al.AnswerLog(folder).__enter__()
        code = f"from tfsound import active_learning as al\nal.AnswerLog({folder!r}).__enter__()"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "only one may write at a time" in result.stderr
        log.append("q0001", "unsure")
    sets.answer(folder, ("q0002", "unsure"))
    assert len(al.read_answers(folder)) == 2


def test_without_locks_nothing_is_written(folder, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match=r"answers\.lock cannot be locked .*; copy the folder to a disk"):
        al.AnswerLog(folder).__enter__()


def test_classes_that_another_writer_added_while_we_waited(folder, monkeypatch):
    take_lock = al.AnswerLog._take_lock

    def wait(self):
        monkeypatch.undo()
        with al.AnswerLog(folder) as other:
            other.add_class("wolf")
            other.append("q0001", "labels", ["wolf"])
        return take_lock(self)

    monkeypatch.setattr(al.AnswerLog, "_take_lock", wait)
    with al.AnswerLog(folder) as log:
        assert log.current()["q0001"].labels == ("wolf",)
        log.append("q0002", "labels", ["wolf"])


WRITER = """
import sys
from tfsound import active_learning as al
with al.AnswerLog(sys.argv[1]) as log:
    for number in range(1000):
        print(log.append("q0001", "labels", ["dog"], str(number)).annotator, flush=True)
"""


def test_a_killed_writer_leaves_all_it_said_was_written_and_no_lock(folder):
    said = []
    for num_answers in (1, 5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, folder], stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
        )
        said += [process.stdout.readline().strip() for _ in range(num_answers)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.read().split()
        process.wait()
        written = [answer.annotator for answer in read_quietly(folder)]
        # One more may be on disk than its writer lived to say.
        assert len(written) - len(said) in (0, 1)
        assert written[: len(said)] == said
        said = written


def test_a_full_disk_leaves_the_log_as_it_was(folder, monkeypatch):
    write = os.write
    room = [20]

    def write_until_full(descriptor, data):
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, data[: room[0]])
        room[0] -= written
        return written

    with al.AnswerLog(folder) as log:
        first = log.append("q0001", "labels", ["dog"])
        monkeypatch.setattr(answer_log.os, "write", write_until_full)
        with pytest.raises(OSError, match="No space left"):
            log.append("q0002", "unsure")
        monkeypatch.undo()
        assert al.read_answers(folder) == [first]
        second = log.append("q0002", "unsure")
    assert al.read_answers(folder) == [first, second]


@pytest.mark.parametrize("change", ["append", "replace", "remove"])
def test_a_log_that_another_program_changed_is_not_written_to(folder, change):
    with al.AnswerLog(folder) as log:
        log.append("q0001", "unsure")
        with open(log_path(folder), "rb") as file:
            data = file.read()
        if change == "append":
            with open(log_path(folder), "ab") as file:
                file.write(b"\n")
        else:
            os.remove(log_path(folder))
            if change == "replace":  # as editors save
                with open(log_path(folder), "wb") as file:
                    file.write(data)
        with pytest.raises(al.ActiveLearningError, match="was changed by another program"):
            log.append("q0002", "unsure")


def test_threads_share_a_log(folder):
    with al.AnswerLog(folder) as log:
        threads = [
            threading.Thread(
                target=lambda n=n: [log.append("q0001", "unsure", (), f"{n}/{i}") for i in range(20)]
            )
            for n in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {answer.annotator for answer in al.read_answers(folder)} == {
        f"{n}/{i}" for n in range(5) for i in range(20)
    }


def test_a_closed_log_takes_nothing(folder):
    log = al.AnswerLog(folder)
    with pytest.raises(RuntimeError, match="use it in a `with` statement"):
        log.append("q0001", "unsure")


def test_added_classes_may_be_answered(folder):
    with al.AnswerLog(folder) as log:
        log.add_class("wolf", parents=["dog"])
        log.append("q0001", "labels", ["wolf"])
        with pytest.raises(al.ActiveLearningError, match="'wolf' is there twice"):
            log.add_class("wolf")
        assert log.class_names == (*sets.CLASSES, "wolf")
    assert al.read_questions(folder).class_names == (*sets.CLASSES, "wolf")
    assert al.read_answers(folder)[0].labels == ("wolf",)


def test_no_log_and_no_folder(folder, tmp_path):
    assert al.read_answers(folder) == []
    with pytest.raises(al.ActiveLearningError, match="no finished set of questions"):
        al.read_answers(str(tmp_path / "none"))


@given(
    st.lists(
        st.tuples(st.sampled_from(["q0001", "q0002", "q0003"]), st.sampled_from(answer_log.KINDS)),
        max_size=12,
    )
)
@settings(max_examples=30, deadline=None)
def test_current_answers_agree_with_a_dict(tmp_path_factory, given_answers):
    folder = str(tmp_path_factory.mktemp("log") / "q")
    sets.write_set(folder, [0, 1, 2])
    model = {}
    with al.AnswerLog(folder) as log:
        for question_id, kind in given_answers:
            model[question_id] = log.append(question_id, kind, ["dog"] if kind == "labels" else ())
        expected = {key: answer for key, answer in model.items() if answer.answer != "withdrawn"}
        assert log.current() == expected
    with al.AnswerLog(folder) as log:
        assert log.current() == expected


@given(st.binary(max_size=120) | st.lists(st.dictionaries(
    st.sampled_from(["question_id", "answer", "labels", "annotator", "time", "answer_id"]),
    st.none() | st.integers() | st.lists(st.sampled_from(["dog", "x"]), max_size=2)
    | st.sampled_from(["q0001", "labels", "unsure", "dog", "2026-01-01", "x"]),
), max_size=3).map(lambda records: "\n".join(map(json.dumps, records)).encode()))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_a_log_or_a_clear_error(tmp_path_factory, data):
    folder = str(tmp_path_factory.mktemp("fuzz") / "q")
    sets.write_set(folder, [0, 1])
    with open(log_path(folder), "wb") as file:
        file.write(data)
    answers, problem = sets.attempt(read_quietly, folder)
    if answers is None:
        assert "answers.jsonl, line " in problem
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with al.AnswerLog(folder) as log:
            new = log.append("q0002", "unsure")
    assert al.read_answers(folder) == [*answers, new]


def test_what_is_no_text_is_refused_and_the_log_goes_on(folder):
    with al.AnswerLog(folder) as log:
        with pytest.raises(al.ActiveLearningError, match="an answer to q0001 holds what is no text"):
            log.append("q0001", "unsure", annotator="a\ud800")
        log.append("q0001", "unsure", annotator="a")
    assert [answer.annotator for answer in al.read_answers(folder)] == ["a"]
