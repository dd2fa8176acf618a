"""Questions for other tools and their answers back; every parser against what it may find."""

import csv
import dataclasses
import json
import os
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import active_learning_sets as sets
from tfsound import active_learning as al
from tfsound.active_learning import exchange

UNSURE, NONE = exchange.UNSURE_CHOICE, exchange.NONE_CHOICE
TIME = "2026-03-09T22:16:08.728353+00:00"


@pytest.fixture
def questions(tmp_path):
    return sets.write_set(tmp_path / "q", [0, 0, 1, 2])


def read(tmp_path, text, question_sets, name="given.json"):
    path = tmp_path / name
    path.write_bytes(
        text if isinstance(text, bytes) else (text if isinstance(text, str) else json.dumps(text)).encode()
    )
    sets_ = question_sets if isinstance(question_sets, list) else [question_sets]
    return [answer for _, answer in al.read_annotations(str(path), sets_)]


def short(answers):
    return [(answer.question_id, answer.answer, answer.labels, answer.annotator) for answer in answers]


# CSV.


def test_a_table_that_was_filled_in_comes_back(questions, tmp_path):
    path = tmp_path / "questions.csv"
    al.write_question_csv(questions, str(path))
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["question_id"] for row in rows] == ["q0001", "q0002", "q0003"]
    assert rows[1] == {
        "question_id": "q0002", "clip_id": "clip-002", "recording_id": "recording-002",
        "start_seconds": "0.0", "end_seconds": "0.96", "cluster": "1", "cluster_size": "1", "audio": "",
        "answer": "", "labels": "", "annotator": "", "time": "",
    }  # fmt: skip
    assert read(tmp_path, path.read_bytes(), questions, "copy.csv") == []  # nothing is answered yet
    rows[0] |= {"labels": " dog ; cat", "annotator": "Zoë", "time": "2026-03-09T23:16:08.728353+01:00"}
    rows[2] |= {"answer": "Unsure"}
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, [*rows[0], "remark"])
        writer.writeheader()
        writer.writerows(rows)
    os.utime(path, (0, 0))
    first, second = (answer for _, answer in al.read_annotations(str(path), [questions]))
    assert first == al.Answer("q0001", "labels", ("dog", "cat"), "Zoë", TIME)
    assert second == al.Answer("q0003", "unsure", (), "", "1970-01-01T00:00:00+00:00")


def test_names_that_spreadsheets_would_run_are_made_text(tmp_path):
    questions = sets.write_set(tmp_path / "q", [0, 1], prefix='=HYPERLINK("x")')
    path = tmp_path / "questions.csv"
    al.write_question_csv(questions, str(path))
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["clip_id"][:2] for row in rows] == ["'="] * 2
    rows[0]["labels"] = "dog"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert short(read(tmp_path, path.read_bytes(), questions, "back.csv")) == [
        ("q0001", "labels", ("dog",), "")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,labels\nq0001,dog\n", r"found the columns \['id', 'labels'\], expected question_id"),
        ("question_id,labels\nq0009,dog\n", "line 2: the question 'q0009' is not among the 3"),
        ("question_id,labels\nq0001,wolf\n", "line 2: the class 'wolf' is not among the 3"),
        ("question_id,answer\nq0001,perhaps\n", "line 2: answer must be one of"),
        ("question_id,answer,labels\nq0001,none,dog\n", "line 2: the answer 'none' takes no labels"),
        ("question_id,labels,time\nq0001,dog,noon\n", "line 2: time must be ISO 8601"),
        (
            "question_id,labels,clip_id\nq0001,dog,clip-003\n",
            "q0001 is about 'clip-003' at None s there, and about",
        ),
        ("question_id,labels,start_seconds\nq0001,dog,1.0\n", "are these answers to another set"),
        ("question_id,labels,start_seconds\nq0001,dog,soon\n", "are these answers to another set"),
        ('question_id\n"q0001\n', "not CSV"),
        ("", "found the columns"),
    ],
)
def test_tables_that_cannot_be_used(questions, tmp_path, text, message):
    with pytest.raises(al.ActiveLearningError, match=message):
        read(tmp_path, text, questions, "given.csv")


# JSON Lines.


def test_json_lines_are_the_lines_of_a_log(questions, tmp_path):
    sets.answer(tmp_path / "q", ("q0001", ("dog",)), ("q0002", "none"), annotator="a")
    path = tmp_path / "given.jsonl"
    os.rename(tmp_path / "q" / "answers.jsonl", path)
    answers = [answer for _, answer in al.read_annotations(str(path), [questions])]
    assert short(answers) == [("q0001", "labels", ("dog",), "a"), ("q0002", "none", (), "a")]
    with pytest.raises(al.ActiveLearningError, match="line 3: found "):
        read(tmp_path, path.read_text() + "{\n", questions, "bad.jsonl")
    lines = (
        '{"question_id": "q0001", "answer": "none"}\n\n'  # the least there may be, and no telling extension
    )
    assert short(read(tmp_path, lines, questions, "given.txt")) == [("q0001", "none", (), "")]


# Label Studio.


def with_audio(questions):
    silent = questions.questions
    return dataclasses.replace(
        questions, questions=tuple(dataclasses.replace(q, audio=f"audio/{q.question_id}.wav") for q in silent)
    )


def exported(tasks, annotated):
    """Label Studio's JSON export of these choices, see https://labelstud.io/guide/task_format."""
    return [
        {
            "id": number, "created_at": "2021-03-09T21:52:49.513742Z",
            "updated_at": "2021-03-09T22:16:08.746926Z", "project": 83, "data": task["data"],
            "predictions": [], "drafts": [],
            "annotations": [
                {
                    "id": 1000 + number, "was_cancelled": choices is None, "ground_truth": False,
                    "created_at": "2026-03-09T22:16:00.0Z", "updated_at": "2026-03-09T22:16:08.728353Z",
                    "lead_time": 4.288, "result_count": 0, "task": number, "completed_by": annotator,
                    "result": [] if choices == [] else [  # skipped with a choice made, where None
                        {"from_name": "answer", "id": "Dx_aB91ISN", "to_name": "audio", "type": "choices",
                         "origin": "manual", "value": {"choices": choices or ["dog"]}}
                    ],
                }
                for choices, annotator in annotated.get(task["data"]["question_id"], ())
            ],
        }
        for number, task in enumerate(tasks, start=1)
    ]  # fmt: skip


def exported_min(tasks):
    """What Label Studio's converter makes of it as JSON-MIN: a record an annotation that was not skipped."""
    records = []
    for task in tasks:
        annotations = [a for a in task["annotations"] if not a["was_cancelled"]]
        if not task["annotations"]:
            absent = dict.fromkeys(("annotator", "annotation_id", "created_at", "updated_at", "lead_time"))
            records.append(task["data"] | {"id": task["id"]} | absent)
        for annotation in annotations:
            record = task["data"] | {"id": task["id"]}
            for result in annotation["result"]:
                choices = result["value"]["choices"]
                record["answer"] = choices[0] if len(choices) == 1 else {"choices": choices}
            by = annotation["completed_by"]
            record["annotator"] = by.get("email") if isinstance(by, dict) else by
            record["annotation_id"] = annotation["id"]
            record |= {name: annotation[name] for name in ("created_at", "updated_at", "lead_time")}
            records.append(record)
    return records


def test_tasks_and_interface(questions, tmp_path):
    tasks, config = tmp_path / "tasks.json", tmp_path / "config.xml"
    al.write_label_studio_tasks(with_audio(questions), str(tasks), str(config))
    found = json.loads(tasks.read_text())
    assert found[2]["data"] == {
        "audio": "/data/local-files/?d=q/audio/q0003.wav", "question_id": "q0003", "clip_id": "clip-003",
        "recording_id": "recording-003", "start_seconds": 0.0, "end_seconds": 0.96, "cluster": 2,
        "cluster_size": 1,
    }  # fmt: skip
    root = ElementTree.fromstring(config.read_text())
    (sound,) = root.iter("Audio")
    (choices,) = root.iter("Choices")
    assert (sound.attrib["value"], choices.attrib["toName"]) == ("$audio", sound.attrib["name"])
    assert choices.attrib["choice"] == "multiple"
    assert [choice.attrib["value"] for choice in choices] == [*sets.CLASSES, UNSURE, NONE]
    al.write_label_studio_tasks(with_audio(questions), str(tasks), audio_prefix="https://host/")
    assert json.loads(tasks.read_text())[0]["data"]["audio"] == "https://host/q/audio/q0001.wav"


def test_markup_in_names_stays_text(tmp_path):
    names = ['<script>alert("1")</script>', "a & b's"]
    made = with_audio(sets.write_set(tmp_path / "q", [0], names=names))
    root = ElementTree.fromstring(exchange.label_studio_config(made))
    assert [choice.attrib["value"] for choice in root.iter("Choice")][:2] == names


def test_display_names_are_shown_and_names_come_back(tmp_path):
    made = sets.write_set(tmp_path / "q", [0])
    al.write_classes(
        str(tmp_path / "q" / "classes.csv"), [al.SoundClass("dog", "Hund"), al.SoundClass("cat")]
    )
    root = ElementTree.fromstring(exchange.label_studio_config(al.read_questions(made.folder)))
    assert [choice.attrib for choice in root.iter("Choice")][:2] == [
        {"value": "Hund", "alias": "dog"},
        {"value": "cat"},
    ]
    many = sets.write_set(tmp_path / "many", [0], names=[f"class {n}" for n in range(40)])
    assert 'layout="select"' in exchange.label_studio_config(many)


def test_tasks_need_sounds_and_names_of_their_own(questions, tmp_path):
    with pytest.raises(al.ActiveLearningError, match="3 questions have no sound, such as q0001"):
        al.write_label_studio_tasks(questions, str(tmp_path / "tasks.json"))
    taken = sets.write_set(tmp_path / "taken", [0], names=["dog", UNSURE])
    with pytest.raises(al.ActiveLearningError, match=r"a class is named '\(unsure\)'"):
        exchange.label_studio_config(taken)


def test_exports_by_hand(questions, tmp_path):
    al.write_label_studio_tasks(with_audio(questions), str(tmp_path / "tasks.json"))
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    annotated = {
        "q0001": [(["dog", "cat"], 10), (["dog"], {"id": 11, "email": "zoe@example.org"})],
        "q0002": [([UNSURE], 10), (None, 11)],
        "q0003": [([NONE], 10), ([], 11)],
    }
    export = exported(tasks, annotated)
    expected = [
        ("q0001", "labels", ("dog", "cat"), "10"), ("q0001", "labels", ("dog",), "zoe@example.org"),
        ("q0002", "unsure", (), "10"), ("q0003", "none", (), "10"),
    ]  # fmt: skip
    answers = read(tmp_path, export, questions)
    assert short(answers) == expected
    assert {answer.time for answer in answers} == {TIME}
    assert short(read(tmp_path, exported_min(export), questions)) == expected
    assert (
        read(tmp_path, exported(tasks, {}), questions)
        == read(tmp_path, exported_min(exported(tasks, {})), questions)
        == []
    )


choices = (
    st.none()
    | st.sampled_from([[UNSURE], [NONE], []])
    | st.sets(st.sampled_from(sets.CLASSES), min_size=1).map(list)
)


@given(
    st.dictionaries(
        st.sampled_from(["q0001", "q0002", "q0003"]),
        st.lists(st.tuples(choices, st.integers(1, 9)), max_size=3),
    )
)
@settings(max_examples=60, deadline=None)
def test_round_trips_through_label_studio(tmp_path_factory, annotated):
    tmp_path = tmp_path_factory.mktemp("label_studio")
    questions = with_audio(sets.write_set(tmp_path / "q", [0, 0, 1, 2]))
    al.write_label_studio_tasks(questions, str(tmp_path / "tasks.json"))
    export = exported(json.loads((tmp_path / "tasks.json").read_text()), annotated)
    special = {UNSURE: "unsure", NONE: "none"}
    expected = [
        (
            question_id,
            special.get(chosen[0], "labels"),
            () if chosen[0] in special else tuple(chosen),
            str(annotator),
        )
        for question_id in sorted(annotated)
        for chosen, annotator in annotated[question_id]
        if chosen
    ]
    assert short(read(tmp_path, export, questions)) == expected
    assert short(read(tmp_path, exported_min(export), questions)) == expected


def task(**changes):
    annotation = {"id": 1, "completed_by": 10, "created_at": "2026-01-01T00:00:00Z",
                  "result": [{"type": "choices", "value": {"choices": ["dog"]}}]}  # fmt: skip
    made = {"id": 1, "data": {"question_id": "q0001"}, "annotations": [annotation]}
    annotation |= {
        name: changes.pop(name) for name in list(changes) if name in ("result", "completed_by", "created_at")
    }
    return made | changes


@pytest.mark.parametrize(
    ("export", "message"),
    [
        ("[", "expected JSON"),
        ([3], "task 1: expected an object, got 3"),
        ([task(), task(data=[])], "task 2: data must be an object"),
        ([task(data={})], "task 1: question_id must be text, got nothing"),
        ([task(data={"question_id": "q9"})], "task 1: the question 'q9' is not among the 3"),
        ([task(data={"question_id": "q0001", "clip_id": "x", "start_seconds": 0})], "about 'x' at 0 s there"),
        ([task(annotations=3)], "task 1: expected a list of objects, got 3"),
        ([task(result=[3])], "task 1: expected a list of objects"),
        ([task(result=[{"type": "choices", "value": {"choices": ["wolf"]}}])], "task 1: the class 'wolf'"),
        (
            [task(result=[{"type": "choices", "value": {"choices": "dog"}}])],
            "choices must be a list of texts",
        ),
        (
            [task(result=[{"type": "choices", "value": {"choices": ["dog", UNSURE]}}])],
            r"task 1: '\(unsure\)' was chosen together with \['dog'\]",
        ),
        ([task(result=[{"type": "choices", "value": {"choices": [NONE, UNSURE]}}])], "was chosen together"),
        ([task(completed_by=[])], r"the annotator must be text or a number, got \[\]"),
        ([task(created_at="noon")], "time must be ISO 8601"),
        ([{"question_id": "q0001", "answer": ["dog"]}], r"answer must be text or choices, got \['dog'\]"),
        ([{"answer": "dog"}], "question_id must be text, got nothing"),
    ],
)
def test_exports_that_cannot_be_used(questions, tmp_path, export, message):
    with pytest.raises(al.ActiveLearningError, match=message):
        read(tmp_path, export, questions)


def test_other_controls_of_a_project_count_for_nothing(questions, tmp_path):
    results = [
        {"type": "textarea", "value": {"text": ["loud"]}}, {"type": "choices", "value": {"choices": ["dog"]}},
        {"type": "choices", "value": {"choices": ["rain", "dog"]}},
    ]  # fmt: skip
    assert short(read(tmp_path, [task(result=results)], questions)) == [
        ("q0001", "labels", ("dog", "rain"), "10")
    ]


# Which of several sets is meant.


def test_answers_find_their_set(tmp_path):
    made = [
        sets.write_set(tmp_path / "1", [0, 1]),
        sets.write_set(tmp_path / "2", [0, 1], [1], first_number=3),
        sets.write_set(tmp_path / "3", [0, 0], prefix="other"),
    ]
    path = tmp_path / "given.csv"
    path.write_text(
        "question_id,labels,clip_id\nq0001,dog,clip-000\nq0002,cat,\nq0003,dog,\nq0001,cat,other-000\n"
    )
    found = al.read_annotations(str(path), made)
    assert [(number, answer.question_id) for number, answer in found] == [
        (0, "q0001"), (0, "q0002"), (1, "q0003"), (2, "q0001"),
    ]  # fmt: skip
    path.write_text("question_id,labels\nq0001,dog\n")
    with pytest.raises(
        al.ActiveLearningError, match="line 2: 2 of the folders have a question q0001; give the col"
    ):
        al.read_annotations(str(path), made)
    copies = [made[0], sets.write_set(tmp_path / "copy", [0, 1])]
    assert [number for number, _ in al.read_annotations(str(path), copies)] == [0]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True)
    | st.sampled_from(["q0001", "dog", UNSURE, "choices", "2026-01-01", "\ud800", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["data", "question_id", "annotations", "result", "value", "choices", "type", "answer",
                         "completed_by", "annotator", "created_at", "clip_id", "start_seconds",
                         "was_cancelled"]),
        inner, max_size=4,
    ),
    max_leaves=15,
)  # fmt: skip


@given(st.binary(max_size=80) | json_values.map(lambda value: json.dumps([value]).encode())
       | st.lists(json_values).map(lambda values: "\n".join(map(json.dumps, values)).encode())
       | st.text(st.sampled_from('question_id,labels\n";q0001 dog')).map(str.encode),
       st.sampled_from(["x.csv", "x.json", "x.jsonl", "x"]))  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_any_file_is_answers_or_a_clear_error(tmp_path_factory, data, name):
    tmp_path = tmp_path_factory.mktemp("fuzz")
    questions = sets.write_set(tmp_path / "q", [0, 1])
    answers, problem = sets.attempt(read, tmp_path, data, questions, name)
    assert (str(tmp_path / name) in problem) == (answers is None)
    if answers is not None:
        assert all(answer.question_id in ("q0001", "q0002") for answer in answers)
