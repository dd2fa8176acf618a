"""Tests of tfsound.datasets.manifest: exact rows, round trips, every bad input with its message, fuzz."""

import io
import json
import os
import re
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfsound.datasets import BadRow, ManifestError, ManifestRow, iter_manifest, manifest_format
from tfsound.datasets import read_manifest as read
from tfsound.datasets import write_manifest as write
from tfsound.datasets.manifest_rows import COLUMNS

HEADER = "clip_id,recording_id,uri,start_seconds,end_seconds,labels,fold,split\n"


def rows_of(text, format="csv", **options):
    lines = io.StringIO(text, newline="")
    return list(iter_manifest(lines, name="m", format=format, **options))


def test_csv_rows_are_read_exactly():
    text = HEADER + "a,r,/x/a.wav,,\n" + 'b,r,"/x/a, b.wav",0.5,1.25,dog; big cat ;,3,train\n'
    assert rows_of(text) == [
        (2, BadRow(2, "", "", "m, row 2: found 5 fields, expected 8; check its quotes.")),
        (3, ManifestRow("b", "r", "/x/a, b.wav", 0.5, 1.25, ("dog", "big cat"), "3", "train")),
    ]


def test_jsonl_rows_are_read_exactly():
    text = (
        '{"uri": "/a.wav", "clip_id": 7, "labels": ["x", "y, z"], "fold": 1, "start_seconds": null}\n'
        "\n"
        '{"uri": "/a.wav", "clip_id": "c", "recording_id": "r", "end_seconds": 2, "labels": "x;y"}\n'
    )
    assert rows_of(text, "jsonl") == [
        (1, ManifestRow("7", "/a.wav", "/a.wav", labels=("x", "y, z"), fold="1")),
        (3, ManifestRow("c", "r", "/a.wav", None, 2.0, ("x", "y"))),
    ]


def test_defaults_share_the_recording_and_differ_by_time():
    rows = [row for _, row in rows_of("uri,start_seconds\na/b.wav,\na/b.wav,0\na/b.wav,1\n")]
    assert [row.recording_id for row in rows] == ["a/b.wav"] * 3
    assert rows[0].clip_id == rows[1].clip_id == "b-99d992c6df8971b8"  # No start is 0; stable over machines.
    assert rows[2].clip_id != rows[0].clip_id


def test_relative_uris_count_from_the_base_and_ids_do_not():
    text = "uri\na.wav\n/abs.wav\ngs://bucket/a.wav\n"
    for base, expected in (("/base", "/base/a.wav"), ("gs://b/c", "gs://b/c/a.wav"), ("", "a.wav")):
        rows = [row for _, row in rows_of(text, base_uri=base)]
        assert [row.uri for row in rows] == [expected, "/abs.wav", "gs://bucket/a.wav"]
        assert rows[0].recording_id == "a.wav"


def test_read_resolves_from_the_folder_of_the_manifest(tmp_path):
    (tmp_path / "m.csv").write_bytes(b"\xef\xbb\xbfuri,fold\r\nsub/a.wav,2\r\n")  # As a spreadsheet saves it.
    assert [(row.uri, row.fold) for row in read(str(tmp_path / "m.csv"))] == [(f"{tmp_path}/sub/a.wav", "2")]


def test_columns_map_names_and_drop_the_rest():
    text = "path,species,uri_of_photo\n/a.wav,owl;barn owl,p.jpg\n"
    columns = {"uri": "path", "labels": "species"}
    ((_, row),) = rows_of(text, columns=columns)
    assert (row.uri, row.labels) == ("/a.wav", ("owl", "barn owl"))
    ((_, same),) = rows_of('{"path": "/a.wav", "species": ["owl"], "more": 1}', "jsonl", columns=columns)
    assert (same.uri, same.labels) == ("/a.wav", ("owl",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "m: found no header, expected columns of clip_id"),
        ("uri\n", "m: found no rows, expected at least one clip; nothing to do."),
        ("uri,label\nx,y\n", "m: unknown column 'label'; did you mean 'labels'? The names known are: "),
        ("clip_id,fold\nx,y\n", "m: no column 'uri' for uri"),
        ("uri,fold,uri\nx,y,z\n", "m: found column 'uri' twice"),
        ('uri\n"open\nx\n', "m, after 0 rows: not CSV (unexpected end of data); check the quotes."),
        ('uri\na\n"b"c\n', "m, after 1 rows: not CSV"),
    ],
)
def test_a_csv_wrong_as_a_whole_raises(text, message):
    with pytest.raises(ManifestError, match=re.escape(message)):
        rows_of(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "m: found no rows"),
        ("uri,labels\n", "m, row 1: not JSON Lines: found 'uri,labels\\n', expected a JSON object"),
        ('[{"uri": "a"}]', "m, row 1: not JSON Lines"),
        ("[" * 100_000, "m, row 1: not JSON Lines"),
    ],
)
def test_a_jsonl_wrong_as_a_whole_raises(text, message):
    with pytest.raises(ManifestError, match=re.escape(message)):
        rows_of(text, "jsonl")


def test_other_wrong_files_raise():
    with pytest.raises(ManifestError, match="m: not UTF-8 text"):
        list(iter_manifest(io.TextIOWrapper(io.BytesIO(b"uri\n\xff\n"), "utf-8"), name="m", format="csv"))
    with pytest.raises(ManifestError, match="m: found bytes, expected text; open it as UTF-8"):
        list(iter_manifest([b"uri\n"], name="m", format="csv"))
    with pytest.raises(ManifestError, match="format must be 'csv' or 'jsonl', got 'tsv'"):
        rows_of("uri\n", "tsv")
    with pytest.raises(ManifestError, match=re.escape("no column 'paht' for uri; did you mean 'path'?")):
        rows_of("path\na\n", columns={"uri": "paht"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("k,r,,,,,,", "uri: found '', expected a name that is not blank; fill it in or drop the row."),
        ("k,r,a\0b,,,,,", "uri: found 'a\\x00b', expected Unicode text without NUL; rename it."),
        ("k,r,a,x,,,,", "start_seconds: found 'x', expected a finite number of seconds, 0 or more;"),
        ("k,r,a,nan,,,,", "start_seconds: found 'nan', expected a finite"),
        ("k,r,a,-1,,,,", "start_seconds: found '-1', expected a finite"),
        ("k,r,a,1_0,,,,", "start_seconds: found '1_0', expected a finite"),
        ("k,r,a,,inf,,,", "end_seconds: found 'inf', expected a finite"),
        ("k,r,a,2,2,,,", "end_seconds: found 2.0, expected more than the start, 2.0; correct it."),
        ("k,r,a,,0,,,", "end_seconds: found 0.0, expected more than the start, 0.0; correct it."),
        ("k,r,a,,,x\x07y,,", "labels: found 'x\\x07y', expected a name without `;`, control characters and"),
    ],
)
def test_a_bad_csv_row_is_told_and_the_next_is_read(fields, message):
    (number, bad), (_, good) = rows_of(f"{HEADER}{fields}\nk2,r,b,,,,,\n")
    assert (number, bad.row_number, bad.clip_id) == (2, 2, "k")
    assert bad.reason.startswith("m, row 2, " + message)
    assert good == ManifestRow("k2", "r", "b")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense", "m, row 2: found 'nonsense\\n', expected a JSON object; write one object a line."),
        ("[1]", "m, row 2: found '[1]\\n', expected a JSON object"),
        ('{"uri": "a", "Labels": 1}', "m, row 2: unknown key 'Labels'; did you mean 'labels'?"),
        ('{"uri": null}', "m, row 2, uri: found '', expected a name"),
        ('{"uri": ["a"]}', "m, row 2, uri: found ['a'], expected text; quote it."),
        ('{"uri": "a", "start_seconds": true}', "m, row 2, start_seconds: found True, expected a finite"),
        ('{"uri": "a", "start_seconds": NaN}', "m, row 2, start_seconds: found nan, expected a finite"),
        ('{"uri": "a", "end_seconds": 1' + "0" * 400 + "}", "m, row 2, end_seconds: found 1000"),
        ('{"uri": "a", "labels": {"x": 1}}', "m, row 2, labels: found {'x': 1}, expected a list of"),
        ('{"uri": "a", "labels": ["x;y"]}', "m, row 2, labels: found 'x;y', expected a name without `;`"),
        ('{"uri": "a", "labels": [" x"]}', "m, row 2, labels: found ' x', expected a name without"),
        ('{"uri": "a", "labels": [""]}', "m, row 2, labels: found '', expected a name without"),
        ('{"uri": "\\ud800"}', "m, row 2, uri: found '\\ud800', expected Unicode text"),
    ],
)
def test_a_bad_jsonl_row_is_told_and_the_next_is_read(line, message):
    _, (number, bad), (_, good) = rows_of(f'{{"uri": "z"}}\n{line}\n{{"uri": "b"}}\n', "jsonl")
    assert (number, bad.row_number) == (2, 2)
    assert bad.reason.startswith(message)
    assert good.uri == "b"


def test_read_lists_the_first_bad_rows_and_counts_them(tmp_path):
    path = str(tmp_path / "m.csv")
    with open(path, "w") as file:
        file.write("clip_id,uri\nk,a\n" + "k,b\n" * 7)
    with pytest.raises(ManifestError) as caught:
        read(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}: 7 bad rows:"
    expected = "clip_id: found 'k', expected an id other than that of row 2; make it unique."
    assert lines[1] == f"  {path}, row 3, {expected}"
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows to write, expected at least one clip"),
        ([ManifestRow("a", "r", "u")] * 2, "clip 'a', clip_id: found 'a', expected no id twice"),
        ([ManifestRow("", "r", "u")], "clip '', clip_id: found '', expected a name that is not blank"),
        ([ManifestRow("a", "r", "u", labels=("x;y",))], "clip 'a', labels: found 'x;y', expected a name"),
        ([ManifestRow("a", "r", "u", fold=1)], "clip 'a', fold: found 1, expected Unicode text"),
        ([ManifestRow("a", "r", "u", 3.0, 2.0)], "clip 'a', end_seconds: found 2.0, expected more than"),
    ],
)
def test_write_refuses_and_leaves_what_was_there(tmp_path, rows, message):
    path = tmp_path / "m.csv"
    path.write_text("before")
    with pytest.raises(ManifestError, match=re.escape(message)):
        write(str(path), rows)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["m.csv"]


def test_formats_by_extension():
    paths = ("a.csv", "gs://b/a.JSONL", "a.ndjson")
    assert [manifest_format(path) for path in paths] == ["csv", "jsonl", "jsonl"]
    with pytest.raises(ManifestError, match=r"found extension '.txt', expected one of .csv, .jsonl"):
        manifest_format("a.csv.txt")


def test_csv_is_written_as_documented(tmp_path):
    row = ManifestRow("a", "r", '/x "y",z', 0.1, None, ("p", "q"), "1", "test", "/x.png")
    write(str(tmp_path / "m.csv"), [row])
    assert (tmp_path / "m.csv").read_bytes() == (
        HEADER.replace("\n", ",image_uri\r\n") + 'a,r,"/x ""y"",z",0.1,,p;q,1,test,/x.png\r\n'
    ).encode()


def test_the_picture_of_a_clip_is_found_as_its_sound_is():
    text = "uri,image_uri\na.wav,a.png\nb.wav,\nc.wav,/abs.png\nd.wav,gs://bucket/d.png\n"
    rows = [row for _, row in rows_of(text, base_uri="/base")]
    assert [row.image_uri for row in rows] == ["/base/a.png", "", "/abs.png", "gs://bucket/d.png"]
    # The picture is no part of the default ids: a manifest that gains pictures keeps its clips.
    assert rows[0].clip_id == rows_of("uri\na.wav\n")[0][1].clip_id
    ((_, bad),) = rows_of('{"uri": "a.wav", "image_uri": ["a.png"]}\n', "jsonl")
    assert "image_uri: found ['a.png'], expected text; quote it" in bad.reason


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))
NAME = TEXT.filter(str.strip)
LABEL = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters=";"), min_size=1)
LABEL = LABEL.filter(lambda label: label == label.strip())
SECONDS = st.floats(0, allow_infinity=False, allow_nan=False)


@st.composite
def manifest_rows(draw):
    start, end = draw(st.none() | SECONDS), draw(st.none() | SECONDS)
    end = end if end is not None and end > (start or 0) else None
    labels = tuple(draw(st.lists(LABEL, max_size=3)))
    image_uri = draw(st.just("") | TEXT.map(lambda text: "/" + text))
    uri, fold, split = "/" + draw(TEXT), draw(TEXT), draw(TEXT)
    return ManifestRow(draw(NAME), draw(NAME), uri, start, end, labels, fold, split, image_uri)


@settings(deadline=None)
@given(st.lists(manifest_rows(), min_size=1, max_size=5, unique_by=lambda row: row.clip_id))
def test_what_is_written_is_read_back(rows):
    with tempfile.TemporaryDirectory() as folder:
        for name in ("m.csv", "m.jsonl"):
            write(os.path.join(folder, name), rows)
            assert read(os.path.join(folder, name)) == rows


def check_only_known_outcomes(lines, format):
    try:
        for number, row in iter_manifest(lines, name="m", format=format):
            assert isinstance(number, int)
            assert isinstance(row, ManifestRow | BadRow)
    except ManifestError:
        pass


PIECES = st.sampled_from(
    ["uri", "clip_id", "labels", "end_seconds", ",", "\n", '"', "-1", "nan", "{", "}", ":"]
)


@given(st.text() | st.lists(PIECES).map("".join), st.sampled_from(["", "uri\n", HEADER, '{"uri": "a"}\n']))
def test_any_text_gives_rows_bad_rows_or_a_manifest_error(text, head):
    check_only_known_outcomes(io.StringIO(head + text, newline=""), "csv")
    check_only_known_outcomes(io.StringIO(head + text, newline=""), "jsonl")


@given(st.binary(), st.sampled_from([b"", b"uri\n", b'{"uri": "a"}\n']))
def test_any_bytes_give_rows_bad_rows_or_a_manifest_error(data, head):
    for format in ("csv", "jsonl"):
        check_only_known_outcomes(io.TextIOWrapper(io.BytesIO(head + data), "utf-8", newline=""), format)


ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = ATOMS | st.lists(ATOMS, max_size=2) | st.dictionaries(st.text(), ATOMS, max_size=1)


@given(st.dictionaries(st.sampled_from(COLUMNS), JSON))
def test_any_json_object_gives_a_row_or_a_bad_row(record):
    ((_, row),) = rows_of(json.dumps(record), "jsonl")
    assert isinstance(row, ManifestRow | BadRow)
