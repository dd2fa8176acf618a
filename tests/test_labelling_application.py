"""Tests of the page's server over HTTP: who is let in, what is sent, what is refused."""

import hmac
import json
import re
import uuid
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("starlette", reason='starlette is not installed: pip install "tfsound[label]"')
pytest.importorskip("httpx2", reason='httpx2 is not installed: pip install "tfsound[test]"')

from labelling_sets import answer_lines, make_folder
from starlette.testclient import TestClient

from tfsound.active_learning import AnswerLog, read_questions
from tfsound.labelling import application, guard
from tfsound.labelling.session import Session

TOKEN = "A1b2C3d4-E5f6_G7h8"
HOST = "127.0.0.1:8000"
_JSON_TYPE = {"Content-Type": "application/json"}
MARKUP = '<img src=x onerror="document.title=1">&amp;\'"</script>'
PATHS = (
    "", "app.js", "style.css", "api/session", "api/alive", "api/questions/0", "api/spectrograms/0/0",
    "spectrograms/0/0.png", "audio/0/0.wav", "audio/0/1.wav",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("label") / "set", clip_id=MARKUP + "{}")


@pytest.fixture(scope="module")
def session(folder):
    with AnswerLog(str(folder)) as log:
        yield Session(read_questions(str(folder)), log, annotator="ann")


def client_of(session, *, host="127.0.0.1", base=f"http://{HOST}"):
    app = application.make_application(session, token=TOKEN)
    return TestClient(
        guard.Guard(app, token=TOKEN, host=host, port=8000), base_url=base, raise_server_exceptions=False
    )


@pytest.fixture(scope="module")
def client(session):
    return client_of(session)


def answer(question_id="q0001", kind="unsure", labels=(), answer_id=None):
    return {
        "answer_id": answer_id or str(uuid.uuid4()),
        "question_id": question_id,
        "answer": kind,
        "labels": list(labels),
    }


def post(client, body, **options):
    return client.post(f"/{TOKEN}/api/answers", json=body, **options)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "prefix", ["", "x" * len(TOKEN) + "/", TOKEN[:-1] + "/", TOKEN.lower() + "/", "static/"]
)
def test_nothing_is_sent_without_the_token(client, path, prefix):
    reply = client.get(f"/{prefix}{path}")
    assert reply.status_code == 403
    assert "lacks the token" in reply.json()["error"]


@pytest.mark.parametrize(
    "path", ["favicon.ico", "docs", f"?token={TOKEN}", f"x/{TOKEN}/", f"%00{TOKEN}/", "é/"]
)
def test_nor_is_it_taken_from_elsewhere_than_its_place(client, path):
    headers = {
        "Authorization": f"Bearer {TOKEN}",
        "Cookie": f"token={TOKEN}",
        "Referer": f"http://{HOST}/{TOKEN}/",
    }
    assert client.get(f"/{path}", headers=headers).status_code == 403


def test_an_answer_without_the_token_is_not_stored(client, folder):
    before = answer_lines(folder)
    assert client.post("/api/answers", json=answer()).status_code == 403
    assert answer_lines(folder) == before


def test_tokens_are_compared_in_constant_time(client, monkeypatch):
    compared = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *both: compared.append(both) or compare(*both))
    client.get("/wrong/api/session")
    assert compared == [(b"wrong", TOKEN.encode())]


@pytest.mark.parametrize("path", PATHS)
def test_everything_is_sent_with_the_token(client, path):
    reply = client.get(f"/{TOKEN}/{path}")
    assert reply.status_code == 200
    assert reply.content


def test_the_address_without_its_last_slash_leads_to_the_page(client):
    reply = client.get(f"/{TOKEN}", follow_redirects=False)
    assert (reply.status_code, reply.headers["location"]) == (307, f"/{TOKEN}/")


@pytest.mark.parametrize(
    "host",
    ["evil.example:8000", "evil.example", "127.0.0.1", "127.0.0.1:80", "127.0.0.1.evil.example:8000",
     "", "localhost:8000.evil.example", "10.0.0.1:8000", "[::1]evil:8000", "127.0.0.1:8000:8000",
     "127.0.0.1:99999999"],
)  # fmt: skip
def test_other_hosts_are_refused(client, host):
    reply = client.get(f"/{TOKEN}/api/session", headers={"Host": host})
    assert reply.status_code == 403
    assert "Host header" in reply.json()["error"]


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "LOCALHOST:8000", "[::1]:8000"])
def test_names_of_this_machine_are_let_in(client, host):
    assert client.get(f"/{TOKEN}/api/alive", headers={"Host": host}).status_code == 200


def test_a_page_for_other_machines_is_reached_by_number_or_its_own_name_only(session, monkeypatch):
    monkeypatch.setattr(guard.socket, "gethostname", lambda: "barn")
    client = client_of(session, host="0.0.0.0")
    status = lambda host: client.get(f"/{TOKEN}/api/alive", headers={"Host": host}).status_code  # noqa: E731
    assert [status(f"{host}:8000") for host in ("192.168.1.5", "[fe80::1]", "barn", "localhost")] == [200] * 4
    assert [status(f"{host}:8000") for host in ("evil.example", "192.168.1.5.evil.example")] == [403] * 2


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1:8000", "http://127.0.0.1:1"]
)
def test_other_pages_cannot_answer(client, folder, origin):
    before = answer_lines(folder)
    assert post(client, answer(), headers={"Origin": origin}).status_code == 403
    assert answer_lines(folder) == before
    assert post(client, answer(), headers={"Origin": f"http://{HOST}"}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"/{TOKEN}/", 200),
        ("GET", f"/{TOKEN}/audio/0/0.wav", 200),
        ("GET", "/", 403),
        ("GET", f"/{TOKEN}/nowhere", 404),
        ("PUT", f"/{TOKEN}/api/answers", 405),
        ("POST", f"/{TOKEN}/api/answers", 415),
    ],
)
def test_every_reply_forbids_what_the_page_does_not_need(client, method, path, status):
    reply = client.request(method, path)
    assert reply.status_code == status
    policy = dict(part.split(" ", 1) for part in reply.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert "server" not in reply.headers


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags = []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


def test_the_page_holds_no_inline_code_and_nothing_from_outside(client):
    page = _Page()
    page.feed(client.get(f"/{TOKEN}/").text)
    for tag, attributes in page.tags:
        assert tag != "style"
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert re.fullmatch(r"[a-z]+\.(js|css)|data:,", attributes.get(name) or "data:,")
        assert tag != "script" or attributes.get("src")
    for tag, attributes in page.tags:  # every field of the page has a name
        if tag == "input" and attributes.get("id") != "search":
            assert attributes["type"] == "checkbox"
    assert ("label", {"for": "search"}) in page.tags


_FORBIDDEN = (
    "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "http:", "https:", "@import",
    "url(",
)  # fmt: skip


def test_the_code_makes_no_markup_and_asks_nobody_else(client):
    names = {"app.js", "dom.js", "player.js", "search.js", "server.js", "style.css"}
    for name in names:
        text = client.get(f"/{TOKEN}/{name}").text
        assert not [each for each in _FORBIDDEN if each in text], name
        assert set(re.findall(r'from "\./([^"]+)"', text)) <= names


def test_names_with_markup_are_sent_as_text(client):
    reply = client.get(f"/{TOKEN}/api/questions/0")
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["sound"]["clip_id"] == MARKUP + "1"


def test_a_question_comes_with_its_sounds(client):
    question = client.get(f"/{TOKEN}/api/questions/1").json()
    assert (question["cluster"], question["cluster_size"], len(question["neighbours"])) == (2, 20, 1)
    assert question["sound"]["audio"] == "audio/1/0.wav"
    assert question["neighbours"][0]["audio"] == "audio/1/1.wav"
    picture = client.get(f"/{TOKEN}/{question['sound']['spectrogram']}").json()
    assert client.get(f"/{TOKEN}/{picture['image']}").content.startswith(b"\x89PNG")


def test_a_sound_is_sent_whole_and_in_parts(client, folder):
    content = (folder / "audio" / "q0001.wav").read_bytes()
    whole = client.get(f"/{TOKEN}/audio/0/0.wav")
    assert (whole.content, whole.headers["content-type"]) == (content, "audio/wav")
    part = client.get(f"/{TOKEN}/audio/0/0.wav", headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, content[100:200])  # what seeking asks for


@pytest.mark.parametrize(
    "path",
    ["api/questions/3", "api/questions/-1", "api/questions/x", "api/spectrograms/0/2", "audio/0/2.wav",
     "audio/9/0.wav", "audio/q0001.wav", "answers.jsonl", "static/app.js", "app.py", "application.py",
     "index.html", "audio/99999999999999999999999/0.wav", "audio/0/0.wav/x"],
)  # fmt: skip
def test_what_is_not_there_is_not_found(client, path):
    reply = client.get(f"/{TOKEN}/{path}")
    assert reply.status_code == 404
    assert reply.json()["error"]


def test_a_missing_sound_is_said_and_its_question_can_be_answered(tmp_path):
    folder = make_folder(tmp_path / "set")
    (folder / "audio" / "q0001.wav").unlink()
    with AnswerLog(str(folder)) as log:
        client = client_of(Session(read_questions(str(folder)), log, annotator=""))
        assert "missing" in client.get(f"/{TOKEN}/api/questions/0").json()["sound"]["problem"]
        for path in ("audio/0/0.wav", "api/spectrograms/0/0", "spectrograms/0/0.png"):
            reply = client.get(f"/{TOKEN}/{path}")
            assert reply.status_code == 404
            assert "missing" in reply.json()["error"]
        assert post(client, answer()).status_code == 200


def test_a_sound_replaced_by_a_link_is_not_sent(tmp_path):
    folder = make_folder(tmp_path / "set")
    (tmp_path / "secret.wav").write_bytes((folder / "audio" / "q0001.wav").read_bytes())
    with AnswerLog(str(folder)) as log:
        client = client_of(Session(read_questions(str(folder)), log, annotator=""))
        assert client.get(f"/{TOKEN}/audio/0/0.wav").status_code == 200
        (folder / "audio" / "q0001.wav").unlink()
        (folder / "audio" / "q0001.wav").symlink_to(tmp_path / "secret.wav")
        reply = client.get(f"/{TOKEN}/audio/0/0.wav")
    assert reply.status_code == 404
    assert "outside the set" in reply.json()["error"]


def test_an_answer_is_stored_and_its_reply_says_what_changed(client, folder):
    body = answer("q0003", "labels", ["siren"])
    reply = post(client, body)
    assert reply.json()["question"] == {"question_id": "q0003", "answer": "labels", "labels": ["siren"]}
    assert answer_lines(folder)[-1]["answer_id"] == body["answer_id"]
    stored = len(answer_lines(folder))
    assert client.get(f"/{TOKEN}/api/alive").json() == {"num_stored": stored}
    assert post(client, body).json()["question"] == reply.json()["question"]  # sent again
    assert len(answer_lines(folder)) == stored


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
        ({"data": {"answer": "unsure"}}, 415),
        ({"content": b"{}", "headers": _JSON_TYPE}, 400),
        ({"content": b"[" * 60000, "headers": _JSON_TYPE}, 400),
        ({"content": b'"' + b"x" * 70000 + b'"', "headers": _JSON_TYPE}, 413),
        ({"json": answer("q9999")}, 400),
        ({"json": answer(kind="labels", labels=["cat"])}, 400),
        ({"json": answer() | {"labels": [1]}}, 400),
        ({"json": answer() | {"annotator": "somebody else"}}, 400),
        ({"content": json.dumps(answer(kind="labels", labels=["\ud800"])), "headers": _JSON_TYPE}, 400),
    ],
)
def test_what_is_no_answer_is_refused_with_its_reason(client, folder, options, status):
    before = answer_lines(folder)
    reply = client.post(f"/{TOKEN}/api/answers", **options)
    assert reply.status_code == status
    assert reply.json()["error"]
    assert answer_lines(folder) == before


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "answer_id": _JSON | st.uuids().map(str),
        "question_id": _JSON | st.just("q0002"),
        "answer": _JSON | st.sampled_from(["labels", "unsure", "none", "withdrawn"]),
        "labels": _JSON | st.lists(st.sampled_from(["dog", "rain", "cat", "\ud800"]), max_size=3),
    },
)
# Only one field is odd, so that what lies behind the first check is reached, too.
_NEARLY = st.builds(
    lambda fields, odd: fields | odd,
    st.fixed_dictionaries(
        {
            "answer_id": st.uuids().map(str),
            "question_id": st.sampled_from(["q0001", "q0002", "q9"]),
            "answer": st.sampled_from(["labels", "unsure", "none", "withdrawn"]),
            "labels": st.lists(st.sampled_from(["dog", "rain", "cat", "\ud800"]), max_size=3),
        }
    ),
    _FIELDS.map(lambda fields: dict(list(fields.items())[:1])),
)
_BODIES = _NEARLY.map(json.dumps).map(str.encode) | (
    st.binary(max_size=200) | _JSON.map(json.dumps).map(str.encode) | _FIELDS.map(json.dumps).map(str.encode)
)


@given(body=_BODIES)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_body_breaks_the_server_or_the_log(client, folder, session, body):
    before = {line["answer_id"] for line in answer_lines(folder)}  # each line is JSON
    reply = client.post(f"/{TOKEN}/api/answers", content=body, headers=_JSON_TYPE)
    assert reply.status_code in (200, 400)
    after = [line["answer_id"] for line in answer_lines(folder)]
    assert set(after) == before | ({json.loads(body)["answer_id"]} if reply.status_code == 200 else set())
    assert len(after) == len(set(after)) == session.num_stored


def test_a_full_disk_is_said(client, session, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AnswerLog, "append", refuse)
    reply = post(client, answer())
    assert reply.status_code == 507
    assert "No space left" in reply.json()["error"]
