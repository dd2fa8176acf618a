"""Tests of the job `tfsound label`: its address, its end by Ctrl-C or SIGKILL, what it refuses to serve."""

import http.client
import io
import json
import logging
import os
import re
import socket
import stat
import sys
import urllib.parse
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("uvicorn", reason='uvicorn is not installed: pip install "tfsound[label]"')
pytest.importorskip("starlette", reason='starlette is not installed: pip install "tfsound[label]"')

import uvicorn
from labelling_sets import CLASSES, Server, answer_lines, make_folder

from tfsound import arguments
from tfsound.active_learning import ActiveLearningError, AnswerLog, SoundClass, read_classes
from tfsound.labelling import address, label, serving


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "set")


@pytest.fixture
def serve(monkeypatch):
    """Lets `label` end at once; what it would have served is in `serve.sockets`."""

    def run(self, sockets):
        run.sockets = [each.getsockname() for each in sockets]

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return run


def printed_address(capsys):
    return urllib.parse.urlsplit(re.search(r"http://\S+", capsys.readouterr().out)[0])


def request(where, method="GET", path="", body=None, raw=False):
    """A request whose path is sent as it is, dots and all."""
    parts = urllib.parse.urlsplit(where)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    headers = {} if body is None else {"Content-Type": "application/json"}
    connection.request(
        method, path if raw else parts.path + path, None if body is None else json.dumps(body), headers
    )
    reply = connection.getresponse()
    return reply.status, reply.read()


def answer(question_id, label_name):
    fields = {"question_id": question_id, "answer": "labels", "labels": [label_name]}
    return {"answer_id": str(uuid.uuid4()), **fields}


def test_ctrl_c_ends_it_in_order(folder):
    with Server(folder, annotator="ann") as server:
        assert request(server.address, "POST", "api/answers", answer("q0001", "dog"))[0] == 200
        code, output = server.stop()
    assert code == 0
    assert "1 of 3 questions are answered, 1 answers were given in this run" in output
    assert "Traceback" not in "".join(server.errors)
    assert not (folder / "label-address.json").exists()
    assert [line["annotator"] for line in answer_lines(folder)] == ["ann"]


def test_a_killed_run_is_taken_up_under_its_address_with_its_answers(folder):
    with Server(folder) as server:
        assert request(server.address, "POST", "api/answers", answer("q0001", "dog"))[0] == 200
        server.kill()
    kept = folder / "label-address.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    with Server(folder) as again:
        assert again.address == server.address
        session = json.loads(request(again.address, path="api/session")[1])
        assert [question["labels"] for question in session["questions"]] == [["dog"], [], []]
        assert again.stop()[0] == 0
    with Server(folder) as fresh:  # after a run that ended in order
        assert fresh.address.split("/")[3] != server.address.split("/")[3]


def test_no_path_leads_out_of_the_page(folder, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    with Server(folder) as server:
        prefix = urllib.parse.urlsplit(server.address).path
        for path in (
            "../secret.txt", "../../secret.txt", "%2e%2e/%2e%2e/secret.txt", "..%2f..%2fsecret.txt",
            "audio/../answers.lock", "audio/..%2fquestions.json", "audio/0/..%2f..%2fquestions.jsonl",
            "audio/0/%2fetc%2fpasswd", "/etc/passwd", "audio/0/0.wav%00.png", "..\\..\\secret.txt",
            "audio//0/0.wav", "label-address.json",
        ):  # fmt: skip
            status, body = request(server.address, path=prefix + path, raw=True)
            assert status == 404, path
            assert b"secret" not in body
        for path in ("/../" + prefix, "//" + prefix.strip("/") + "/", "http://evil.example/", "*"):
            status, _ = request(server.address, path=path, raw=True)
            assert status in (400, 403), path


def test_a_second_run_on_one_folder_is_refused(folder):
    with (
        AnswerLog(str(folder)),
        pytest.raises(ActiveLearningError, match=f"open for answers elsewhere .process {os.getpid()}."),
    ):
        label(str(folder))
    assert not (folder / "label-address.json").exists()


def test_a_folder_that_is_no_set_of_questions_is_refused(tmp_path):
    with pytest.raises(ActiveLearningError, match="no finished set of questions"):
        label(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_an_edited_log_is_an_error_that_names_its_line(folder):
    good = json.dumps(answer("q0001", "dog") | {"time": "2026-05-01T00:00:00+00:00"})
    (folder / "answers.jsonl").write_text(f"{good}\n{good[:40]}\n{good}\n")
    before = (folder / "answers.jsonl").read_bytes()
    with pytest.raises(ActiveLearningError, match=r"answers\.jsonl, line 2"):
        label(str(folder))
    assert (folder / "answers.jsonl").read_bytes() == before


def test_a_log_that_was_cut_off_goes_on_without_its_part_of_a_line(folder, serve):
    good = json.dumps(answer("q0001", "dog") | {"time": "2026-05-01T00:00:00+00:00"})
    (folder / "answers.jsonl").write_text(f"{good}\n{good[:40]}")
    with pytest.warns(UserWarning, match="line 2"):
        run = label(str(folder))
    assert (run.num_answered, run.num_answers_of_this_run) == (1, 0)
    assert len(answer_lines(folder)) == 1


def test_other_machines_are_let_in_by_flag_only(folder, serve, capsys):
    with pytest.raises(ValueError, match="--allow-other-machines"):
        label(str(folder), host="0.0.0.0")
    label(str(folder), host="0.0.0.0", allow_other_machines=True)
    assert serve.sockets[0][0] == "0.0.0.0"
    printed = capsys.readouterr()
    assert "Nothing is encrypted" in printed.err
    assert f"http://{socket.gethostname()}:" in printed.out
    label(str(folder))
    assert serve.sockets[0][0] == "127.0.0.1"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("host", ["127.0.0.2", "localhost"])
def test_this_machine_needs_no_flag(folder, serve, host):
    label(str(folder), host=host)
    assert serve.sockets[0][0].startswith("127.0.0.")


def test_token_and_port_can_be_given(folder, serve, capsys):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    label(str(folder), token="x" * 16, port=port)
    where = printed_address(capsys)
    assert (where.port, where.path) == (port, f"/{'x' * 16}/")


@pytest.mark.parametrize("token", ["short", "x" * 15, "x" * 129, "a/b" * 8, "é" * 20, "x" * 16 + "\n"])
def test_tokens_that_are_none_are_refused(folder, token):
    with pytest.raises(ValueError, match="16 to 128 letters"):
        label(str(folder), token=token)


def test_every_run_has_a_token_of_its_own(folder, serve, capsys):
    tokens = set()
    for _ in range(5):
        label(str(folder))
        tokens.add(printed_address(capsys).path)
    assert len(tokens) == 5
    assert all(len(token) >= 2 + 32 for token in tokens)


def test_a_port_in_use_is_an_error_with_a_remedy(folder):
    with (
        socket.create_server(("127.0.0.1", 0)) as busy,
        pytest.raises(OSError, match=r"cannot listen .* --port"),
    ):
        label(str(folder), port=busy.getsockname()[1])
    with pytest.raises(ValueError, match="port must be"):
        label(str(folder), port=70000)


def test_a_killed_runs_port_that_is_taken_meanwhile_is_replaced(folder):
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        address._write(str(folder), address.Address("127.0.0.1", port, "x" * 32))
        listener, where = address.listen(str(folder), host="127.0.0.1", port=0, token="")
        listener.close()
    assert where.port != port
    assert where.token == "x" * 32


def test_a_kept_address_that_others_could_read_is_not_taken_up(folder):
    address._write(str(folder), address.Address("127.0.0.1", 4321, "x" * 32))
    path = folder / "label-address.json"
    path.chmod(0o640)
    assert address._read(str(folder)) is None
    path.chmod(0o600)
    assert address._read(str(folder)).port == 4321
    path.rename(folder / "elsewhere.json")
    path.symlink_to(folder / "elsewhere.json")
    assert address._read(str(folder)) is None


_KEPT = st.binary(max_size=80) | st.fixed_dictionaries(
    {},
    optional={
        "port": st.integers() | st.booleans() | st.none() | st.floats(),
        "token": st.text() | st.integers() | st.just("x" * 20),
    },
).map(lambda fields: json.dumps(fields).encode())


@given(content=_KEPT)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_broken_kept_address_is_none(tmp_path, content):
    path = tmp_path / "label-address.json"
    path.write_bytes(content)
    path.chmod(0o600)
    kept = address._read(str(tmp_path))
    if kept is not None:
        assert 0 < kept.port < 2**16
        assert re.fullmatch(r"[A-Za-z0-9_-]{16,128}", kept.token)


def test_a_list_of_classes_becomes_that_of_the_questions(folder, serve, tmp_path):
    (tmp_path / "mine.txt").write_text("owl\nfox\n")
    label(str(folder), classes=str(tmp_path / "mine.txt"))
    assert read_classes(folder / "classes.csv") == [SoundClass("owl"), SoundClass("fox")]


def test_a_list_with_duplicates_is_refused(folder, tmp_path):
    (tmp_path / "mine.txt").write_text("owl\nfox\nowl\n")
    with pytest.raises(ActiveLearningError, match="'owl' is there twice"):
        label(str(folder), classes=str(tmp_path / "mine.txt"))
    assert read_classes(folder / "classes.csv") == list(CLASSES)


def test_a_list_without_an_answered_class_is_refused_or_keeps_it(folder, serve, tmp_path):
    with AnswerLog(str(folder)) as log:
        log.append("q0001", "labels", ["siren"])
    (tmp_path / "mine.txt").write_text("owl\n")
    with pytest.raises(ActiveLearningError, match=r"lacks 'siren'.*--allow-new-classes"):
        label(str(folder), classes=str(tmp_path / "mine.txt"))
    assert read_classes(folder / "classes.csv") == list(CLASSES)
    for _ in range(2):  # the same command again
        run = label(str(folder), classes=str(tmp_path / "mine.txt"), allow_new_classes=True)
        assert run.num_answered == 1
    assert read_classes(folder / "classes.csv") == [SoundClass("owl"), SoundClass("siren")]


def test_the_browser_is_opened_by_flag_only(folder, serve, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(serving.webbrowser, "open", opened.append)
    label(str(folder))
    assert opened == []
    capsys.readouterr()
    label(str(folder), open_browser=True)
    assert opened == [printed_address(capsys).geturl()]


def test_the_logging_of_others_is_left_alone(folder, serve, monkeypatch):
    handler = logging.StreamHandler(io.StringIO())
    closed = []
    monkeypatch.setattr(handler, "close", lambda: closed.append(handler))
    label(str(folder))
    assert closed == []


@pytest.mark.parametrize("name", ["uvicorn", "starlette.datastructures"])
def test_a_missing_extra_is_named(folder, serve, monkeypatch, name):
    for module in ("guard", "application"):
        monkeypatch.delitem(sys.modules, f"tfsound.labelling.{module}", raising=False)
        monkeypatch.delattr(f"tfsound.labelling.{module}", raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        RuntimeError, match=rf'{name.split(".")[0]} is not installed.*pip install "tfsound\[label\]"'
    ):
        label(str(folder))


def test_the_command_line_is_that_of_the_function(folder, serve, capsys):
    parser = arguments.make_parser(label, "tfsound label")
    run = arguments.call(parser, label, [str(folder), "--annotator", "ann", "--allow-new-classes"])
    assert str(run).startswith("0 of 3 questions are answered")
    assert "Ctrl-C" in capsys.readouterr().out
