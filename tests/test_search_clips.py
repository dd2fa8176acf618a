"""`tfsound search`: by a file and by a clip, as a table and a page; files that moved, models that differ."""

import base64
import html.parser
import io
import os
import re
import shutil

import exported_models
import numpy as np
import pytest
import soundfile
from embedding_sets import clip_embedding, write_embeddings
from matplotlib.image import imread
from test_beam_examples import RATE, write_noise

from tfsound import cli, datasets, exported, media, mel, plots, search
from tfsound.beam.embed import embed
from tfsound.search.page import heard

NASTY = "<script>alert(1)</script> $x & 'q\" 日本"


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Six recordings of tones and noises, the export that embeds them, and indices of clips and windows."""
    folder = tmp_path_factory.mktemp("sounds")
    exported_models.export(folder / "model")
    rows = []
    for number, name in enumerate(("a", "b", "c", "d", "e", NASTY)):
        seconds = 3.0 + number / 2
        path = write_noise(folder / f"{name.replace('/', '-')}.wav", seconds, seed=number)
        waveform, _ = soundfile.read(path)
        tone = 0.1 * number * np.sin(2 * np.pi * 300 * (1 + number) * np.arange(len(waveform)) / RATE)
        soundfile.write(path, np.clip(waveform + tone, -1, 1), RATE)
        rows.append(datasets.ManifestRow(name, name, path, labels=(f"label {number}",)))
    datasets.write_manifest(str(folder / "m.csv"), rows)
    embed(str(folder / "model"), str(folder / "m.csv"), str(folder / "set"), num_workers=1, num_shards=1)
    for unit in ("clips", "windows"):
        search.build_index(str(folder / "set"), str(folder / unit), unit=unit)
    return folder


def names(result):
    return [found.item.clip_id for found in result.found]


def test_a_file_finds_itself_first(sounds):
    result = search.search_clip(
        str(sounds / "clips"), str(sounds / "c.wav"), model=str(sounds / "model"), num_neighbors=3
    )
    assert names(result)[0] == "c"
    assert len(result.found) == 3
    assert result.found[0].similarity == pytest.approx(1.0, abs=1e-5)
    similarities = [found.similarity for found in result.found]
    assert similarities == sorted(similarities, reverse=True)
    assert result.query.end_seconds == pytest.approx(4.0)
    assert result.found[0].item.uri == str(sounds / "c.wav")


def test_a_part_of_a_file_finds_its_window(sounds):
    start = mel.MelParams().context_seconds
    result = search.search_clip(
        str(sounds / "windows"), str(sounds / "d.wav"), model=str(sounds / "model"), num_neighbors=1,
        start_seconds=start, end_seconds=start + 0.975,
    )  # fmt: skip
    assert result.found[0].item.clip_id == "d"
    assert result.found[0].item.start_seconds == pytest.approx(start, abs=1e-6)
    assert result.found[0].similarity == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("unit", "times"), [("clips", {}), ("windows", {}), ("windows", {"start_seconds": 1.0})]
)
def test_a_clip_of_the_index_finds_others(sounds, unit, times):
    index = search.load_index(str(sounds / unit))
    result = search.search_clip(str(sounds / unit), "b", num_neighbors=100, **times)
    assert "b" not in names(result)
    assert set(names(result)) == {"a", "c", "d", "e", NASTY}
    rows = index.rows_of_clip("b", **times)
    query = index.embeddings[rows].mean(axis=0)
    expected = index.search(query, 100, excluded=index.rows_of_clip("b"))
    assert [found.item for found in result.found] == list(expected.items[0])
    assert result.query.start_seconds == pytest.approx(index.item(rows[0]).start_seconds)


def test_the_table_says_what_was_found(sounds):
    result = search.search_clip(str(sounds / "clips"), "a", num_neighbors=5)
    lines = str(result).splitlines()
    assert re.fullmatch(r" +similarity +seconds +clip +labels +file", lines[0])
    assert len(lines) == 6
    for number, (line, found) in enumerate(zip(lines[1:], result.found, strict=True), start=1):
        item = found.item
        assert line.split()[:3] == [
            str(number), f"{found.similarity:.4f}", f"{item.start_seconds:.2f}-{item.end_seconds:.2f}"
        ]  # fmt: skip
        assert item.labels[0] in line
        assert line.endswith(item.uri)
    item = search.Item("a\x1b[31m\nb", "r", "u\r", 0.0, 1.0)
    shown = str(search.SearchResult(item, (search.Found(0.5, item),)))
    assert len(shown.splitlines()) == 2
    assert "\x1b" not in shown


class Page(html.parser.HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def sources(self, tag):
        return [attributes["src"] for name, attributes in self.elements if name == tag]


def decoded(source, media_type):
    head, data = source.split(",")
    assert head == f"data:{media_type};base64"
    return io.BytesIO(base64.b64decode(data, validate=True))


def test_the_page_holds_what_was_found_and_needs_nothing_else(sounds, tmp_path):
    path = tmp_path / "pages" / "page.html"
    result = search.search_clip(str(sounds / "clips"), "b", num_neighbors=5, html=str(path))
    assert str(result).endswith(f"wrote {path}")
    page = Page(path)
    shown = [result.query, *(found.item for found in result.found)]
    players, pictures = page.sources("audio"), page.sources("img")
    assert len(players) == len(pictures) == len(shown) == 6
    for item, player, picture in zip(shown, players, pictures, strict=True):
        waveform, rate = soundfile.read(decoded(player, "audio/wav"))
        assert rate == RATE
        np.testing.assert_allclose(waveform, media.read_audio(item.uri), atol=2**-15)
        params = mel.MelParams()
        expected = plots.log_mel_png(
            mel.log_mel(mel.mel_energies(waveform.astype(np.float32), params), params)
        )
        found = imread(decoded(picture, "image/png"))
        np.testing.assert_allclose(found, imread(io.BytesIO(expected)), atol=0.02)
        assert item.clip_id in page.text
        assert item.uri in page.text
    for found in result.found:
        assert f"similarity {found.similarity:.4f}" in page.text
    # Nothing is fetched, and no name became an element.
    assert {tag for tag, _ in page.elements} == {
        "html", "head", "meta", "title", "style", "body", "h1", "div", "ol", "li", "b", "img", "audio",
    }  # fmt: skip
    assert not re.search(r"https?:|//[a-z]", path.read_text(encoding="utf-8").split("<body>")[0])
    policies = [attributes.get("content", "") for _, attributes in page.elements]
    assert any("default-src 'none'" in policy for policy in policies)


def test_the_page_of_a_file_of_another_format_plays(sounds, tmp_path):
    waveform = media.read_audio(sounds / "a.wav")
    soundfile.write(tmp_path / "a.flac", np.stack([waveform, waveform], axis=1), RATE)
    path = tmp_path / "page.html"
    result = search.search_clip(
        str(sounds / "windows"), str(tmp_path / "a.flac"), model=str(sounds / "model"), num_neighbors=2,
        html=str(path),
    )  # fmt: skip
    page = Page(path)
    heard_seconds = [
        len(soundfile.read(decoded(source, "audio/wav"))[0]) / RATE for source in page.sources("audio")
    ]
    assert heard_seconds[0] == pytest.approx(3.0)
    # Windows with a second around them, as far as there is sound.
    for seconds, found in zip(heard_seconds[1:], result.found, strict=True):
        start = max(0.0, found.item.start_seconds - 1)
        end = min(media.audio_info(found.item.uri).duration_seconds, found.item.end_seconds + 1)
        assert seconds == pytest.approx(end - start, abs=0.01)


@pytest.mark.parametrize(
    ("times", "expected"),
    [((0.5, 1.46), (0.0, 2.46)), ((5.0, 5.96), (4.0, 6.96)), ((3.0, 99.0), (3.0, 13.0))],
)
def test_a_short_item_is_heard_with_its_surroundings_and_a_long_one_in_part(times, expected):
    assert heard(search.Item("a", "a", "a", *times)) == expected


def test_a_file_that_moved_is_said_in_its_place(sounds, tmp_path):
    folder = tmp_path / "here"
    folder.mkdir()
    clips = [clip_embedding(number, uri=str(folder / f"{number}.wav"), labels=("x",)) for number in range(3)]
    for number in (0, 1):
        write_noise(folder / f"{number}.wav", 1.0)
    write_embeddings(tmp_path / "set", clips)
    search.build_index(str(tmp_path / "set"), str(tmp_path / "index"))
    path = tmp_path / "page.html"
    result = search.search_clip(str(tmp_path / "index"), "clip-0", html=str(path))
    assert f"wrote {path}; 1 sounds cannot be played:" in result.notes[0]
    assert "2.wav" in result.notes[1]
    assert "no such file" in result.notes[1]
    page = Page(path)
    assert len(page.sources("audio")) == 2
    assert "no such file" in page.text


def write_float(path, samples):
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    return str(path)


def test_queries_that_cannot_be_used(sounds, tmp_path):
    model, index = str(sounds / "model"), str(sounds / "clips")
    (tmp_path / "text.wav").write_text("this is no sound " * 100)
    samples = np.zeros(2 * RATE)
    samples[RATE] = np.nan
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    cases = {
        "gone.wav": (media.MediaError, "no such file"),
        "text.wav": (media.MediaError, "text.wav"),
        "none.wav": (media.MediaError, "none.wav"),
        write_float(tmp_path / "nan.wav", samples): (ValueError, "finite|NaN"),
    }
    for name, (error, message) in cases.items():
        with pytest.raises(error, match=message):
            search.search_clip(index, str(tmp_path / name), model=model)
    with pytest.raises(media.MediaError, match="past the end"):
        search.search_clip(index, str(sounds / "a.wav"), model=model, start_seconds=90.0)
    with pytest.raises(
        search.SearchError, match=r"holds no clip .*To search by a file, name its model: --model"
    ):
        search.search_clip(index, str(sounds / "a.wav"))


def test_another_model_is_refused(sounds, tmp_path):
    path = str(sounds / "a.wav")
    exported_models.export(tmp_path / "longer", dim=12)
    exported_models.export(tmp_path / "other", seed=5)
    for name, numbers in (("longer", "12"), ("other", "8")):
        with pytest.raises(
            search.SearchError,
            match=rf"is another model than the one of .*\({numbers} numbers an embedding, 8 in",
        ):
            search.search_clip(str(sounds / "clips"), path, model=str(tmp_path / name))
    with pytest.raises(exported.ModelError, match="nowhere is no folder"):
        search.search_clip(str(sounds / "clips"), path, model=str(tmp_path / "nowhere"))
    # The same weights, exported again or copied, are the same model.
    exported_models.export(tmp_path / "same")
    shutil.copytree(sounds / "model", tmp_path / "copy")
    for name in ("same", "copy"):
        found = search.search_clip(str(sounds / "clips"), path, model=str(tmp_path / name), num_neighbors=1)
        assert names(found) == ["a"]


def test_an_approximate_search_says_so(sounds, tmp_path):
    search.build_index(str(sounds / "set"), str(tmp_path / "index"), unit="windows", approximate="hnsw")
    result = search.search_clip(str(tmp_path / "index"), "a", backend="faiss", num_neighbors=3)
    assert re.search(r"searched approximately \(.* hnsw finds [\d.]+% of the 10 nearest", result.notes[0])
    exact = search.search_clip(str(tmp_path / "index"), "a", num_neighbors=3)
    assert exact.notes == ()
    assert names(result) == names(exact)


def test_the_commands(sounds, tmp_path, capsys):
    index = str(tmp_path / "index")
    assert cli.main(["index", str(sounds / "set"), index, "--unit", "windows"]) == 0
    assert "windows of 6 clips, 8 numbers each" in capsys.readouterr().out
    page = str(tmp_path / "page.html")
    command = ["search", index, str(sounds / "e.wav"), "--model", str(sounds / "model"), "--html", page]
    assert cli.main([*command, "--num-neighbors", "2", "--end-seconds", "2.5"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 4
    assert f"wrote {page}" in out
    assert os.path.exists(page)
    assert cli.main(["search", index, "nobody"]) == 1
    assert "tfsound search: " in capsys.readouterr().err
