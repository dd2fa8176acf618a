"""Search: exact neighbours, the store that is mapped, FAISS beside it, and what is no index or no query."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tiny
from embedding_sets import DIM, clip_embedding, write_embeddings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfsound import examples, metrics, search
from tfsound.records import ActiveLearningError
from tfsound.search import approximate, exact
from tfsound.search.store import CLIPS_NAME, EMBEDDINGS_NAME, INFO_NAME, WINDOWS_NAME

CONTEXT_SECONDS = tiny.PARAMS.context_seconds
FEW = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    clips = [
        clip_embedding(
            number, num_windows=1 + number % 3, labels=("dog", "a; b")[: number % 3], start_seconds=2.0
        )
        for number in range(7)
    ]
    return write_embeddings(tmp_path_factory.mktemp("embeddings") / "set", clips)


@pytest.fixture(scope="module")
def clip_index(embeddings, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("clips") / "index")
    search.build_index(embeddings, path)
    return path


@pytest.fixture(scope="module")
def window_index(embeddings, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("windows") / "index")
    search.build_index(embeddings, path, unit="windows")
    return path


# Exact search.


def test_nearest_rows_of_a_case_by_hand():
    rows = np.array([[1, 0], [0, 1], [0.6, 0.8], [1, 0], [-1, 0]], np.float32)
    queries = np.array([[1, 0], [0, 1]], np.float32)
    products, numbers = search.nearest_rows(rows, queries, 4)
    assert numbers.tolist() == [[0, 3, 2, 1], [1, 2, 0, 3]]
    np.testing.assert_allclose(products, [[1, 1, 0.6, 0], [1, 0.8, 0, 0]], atol=1e-7)
    _, without = search.nearest_rows(rows, queries, 3, excluded=np.array([3, 1]))
    assert without.tolist() == [[0, 2, 4], [2, 0, 4]]
    products, numbers = search.nearest_rows(rows, queries, 0)
    assert products.shape == numbers.shape == (2, 0)
    assert search.nearest_rows(rows, queries[:0], 3)[1].shape == (0, 3)


@FEW
@given(
    # Few different numbers, so that there are ties, and so small that products are exact.
    rows=hnp.arrays(np.int8, st.tuples(st.integers(1, 40), st.just(3)), elements=st.integers(-2, 2)),
    queries=hnp.arrays(np.int8, st.tuples(st.integers(0, 5), st.just(3)), elements=st.integers(-2, 2)),
    data=st.data(),
)
def test_nearest_rows_are_those_of_sorting_all(rows, queries, data):
    excluded = np.array(sorted(data.draw(st.sets(st.integers(0, len(rows) - 1)))), np.int64)
    k = data.draw(st.integers(0, len(rows) - len(excluded)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_ROWS_PER_BLOCK", data.draw(st.integers(1, 50)))
        patch.setattr(exact, "_QUERIES_PER_BLOCK", data.draw(st.integers(1, 6)))
        products, numbers = search.nearest_rows(
            rows.astype(np.float32), queries.astype(np.float32), k, excluded=excluded
        )
    everything = queries.astype(np.float64) @ rows.T
    everything[:, excluded] = -np.inf
    expected = np.argsort(-everything, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_array_equal(products, np.take_along_axis(everything, expected, 1))


def test_an_index_finds_what_metrics_find(clip_index, embeddings):
    clips = list(examples.iter_embeddings(embeddings))
    vectors = np.stack([clip.embedding for clip in clips])
    found = search.load_index(clip_index).search(3 * vectors, 4)
    expected, distances = metrics.nearest_neighbors(vectors, vectors, 4)
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_allclose(found.similarities, 1 - distances, atol=1e-6)
    names = [[item.clip_id for item in items] for items in found.items]
    assert names == [[clips[row].clip_id for row in rows] for rows in expected]
    # Itself first, and 1 at most.
    np.testing.assert_array_equal(found.rows[:, 0], np.arange(7))
    assert (found.similarities <= 1).all()


# The store.


def test_what_an_index_of_clips_holds(clip_index, embeddings):
    index = search.load_index(clip_index)
    clips = list(examples.iter_embeddings(embeddings))
    assert sorted(os.listdir(clip_index)) == [CLIPS_NAME, EMBEDDINGS_NAME, INFO_NAME]
    assert isinstance(index.embeddings, np.memmap)
    np.testing.assert_allclose(
        index.embeddings, unit(np.stack([clip.embedding for clip in clips])), atol=1e-6
    )
    assert [index.item(row) for row in range(len(index))] == [
        search.Item(
            clip.clip_id, clip.recording_id, clip.uri, clip.start_seconds, clip.end_seconds, clip.labels
        )
        for clip in clips
    ]
    assert (index.info.unit, len(index), index.info.num_clips) == ("clips", 7, 7)
    assert (index.info.model, index.info.weights) == ("models/1", "77")
    assert str(index.info) == "7 clips of 7 clips, 6 numbers each"
    assert index.rows_of_clip("clip-0").tolist() == [0]


def test_what_an_index_of_windows_holds(window_index, embeddings):
    index = search.load_index(window_index)
    clips = list(examples.iter_embeddings(embeddings))
    rows = np.concatenate([clip.window_embeddings for clip in clips])
    np.testing.assert_allclose(index.embeddings, unit(rows), atol=1e-6)
    items = [index.item(row) for row in range(len(index))]
    assert [item.clip_id for item in items] == [c.clip_id for c in clips for _ in range(c.num_windows)]
    starts = np.concatenate([clip.window_start_seconds for clip in clips])
    np.testing.assert_allclose([item.start_seconds for item in items], starts)
    np.testing.assert_allclose([item.end_seconds for item in items], starts + CONTEXT_SECONDS, atol=1e-6)
    assert str(index.info) == "13 windows of 7 clips, 6 numbers each"


def test_the_windows_of_a_clip_and_of_a_part_of_it(window_index):
    index = search.load_index(window_index)
    rows = index.rows_of_clip("clip-5")
    assert [index.item(row).clip_id for row in rows] == ["clip-5"] * 3
    times = {"start_seconds": 2.0 + 1.5 * CONTEXT_SECONDS}
    assert index.rows_of_clip("clip-5", **times).tolist() == rows[1:].tolist()
    times["end_seconds"] = 2.0 + 2 * CONTEXT_SECONDS
    assert index.rows_of_clip("clip-5", **times).tolist() == rows[1:2].tolist()
    with pytest.raises(
        search.SearchError, match=r"clip 'clip-5' has no window from 90.0 to None s; it has 3"
    ):
        index.rows_of_clip("clip-5", start_seconds=90.0)


def test_a_clip_shorter_than_a_window_ends_before_its_window(tmp_path):
    clip = clip_embedding(0, num_windows=1)
    short = type(clip)(**(vars(clip) | {"end_seconds": CONTEXT_SECONDS / 2}))
    write_embeddings(tmp_path / "set", [short])
    search.build_index(str(tmp_path / "set"), str(tmp_path / "index"), unit="windows")
    item = search.load_index(str(tmp_path / "index")).item(0)
    assert item.end_seconds == pytest.approx(CONTEXT_SECONDS / 2)


def test_excluded_rows_are_not_found(window_index):
    index = search.load_index(window_index)
    own = index.rows_of_clip("clip-5")
    found = index.search(index.embeddings[own[0]], 20, excluded=own)
    assert found.rows.shape == (1, 10)
    assert sorted([*found.rows[0], *own]) == list(range(13))


def test_a_store_needs_no_tensorflow(clip_index):
    code = (
        "import sys\nfrom tfsound import search\n"
        f"index = search.load_index({clip_index!r})\n"
        "print(index.search(index.embeddings[:2], 3).rows.tolist(), 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[[0, ")
    assert done.stdout.endswith("False\n")


def test_an_index_is_replaced_only_when_asked(embeddings, clip_index, tmp_path):
    shutil.copytree(clip_index, tmp_path / "index")
    with pytest.raises(ActiveLearningError, match="index is finished; pass --overwrite"):
        search.build_index(embeddings, str(tmp_path / "index"), unit="windows")
    assert search.load_index(str(tmp_path / "index")).info.unit == "clips"
    search.build_index(embeddings, str(tmp_path / "index"), unit="windows", overwrite=True)
    assert search.load_index(str(tmp_path / "index")).info.unit == "windows"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ActiveLearningError, match=r"mine exists and holds no index_info\.json"):
        search.build_index(embeddings, str(tmp_path / "mine"), overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["index", "mine"]


def test_what_cannot_be_finished_leaves_nothing(embeddings, tmp_path, monkeypatch):
    def interrupt(directory):
        yield next(original(directory))
        raise KeyboardInterrupt

    original = examples.iter_embeddings
    monkeypatch.setattr(examples, "iter_embeddings", interrupt)
    with pytest.raises(KeyboardInterrupt):
        search.build_index(embeddings, str(tmp_path / "index"))
    assert os.listdir(tmp_path) == []


# FAISS.


@pytest.fixture(scope="module")
def large_index(tmp_path_factory):
    """2,500 clips around 50 centres; with an `ivf` and an `hnsw` index beside it."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(50, DIM))
    clips = []
    for number in range(2500):
        clip = clip_embedding(number, num_windows=1)
        embedding = (centres[number % 50] + 0.3 * rng.normal(size=DIM)).astype(np.float32)
        clips.append(type(clip)(**(vars(clip) | {"embedding": embedding})))
    write_embeddings(folder / "set", clips)
    for kind in ("", *approximate.APPROXIMATE):
        search.build_index(str(folder / "set"), str(folder / f"index{kind}"), approximate=kind)
    return folder


def test_faiss_finds_what_exact_search_finds(large_index):
    index = search.load_index(str(large_index / "index"))
    queries = np.random.default_rng(1).normal(size=(20, DIM))
    excluded = np.arange(0, 2500, 7)
    for options in ({}, {"excluded": excluded}):
        expected = index.search(queries, 10, **options)
        found = index.search(queries, 10, backend="faiss", **options)
        np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-6)
        np.testing.assert_array_equal(found.rows, expected.rows)
        assert found.items == expected.items


@pytest.mark.parametrize("kind", approximate.APPROXIMATE)
def test_how_much_an_approximate_index_finds_is_measured_and_said(large_index, kind):
    index = search.load_index(str(large_index / f"index{kind}"))
    assert index.info.approximate == kind
    assert f"; {kind} finds {index.info.recall:.1%} of the 10 nearest" in str(index.info)
    queries = np.asarray(index.embeddings)
    expected, found = (index.search(queries, 10, backend=backend).rows for backend in ("exact", "faiss"))
    share = np.mean([len(np.intersect1d(*pair)) / 10 for pair in zip(expected, found, strict=True)])
    # The recall is that of a thousand of these rows.
    assert index.info.recall == pytest.approx(share, abs=0.03)
    assert share > 0.6


def test_few_rows_are_few_cells(tmp_path):
    write_embeddings(tmp_path / "set", [clip_embedding(number) for number in range(5)])
    info = search.build_index(str(tmp_path / "set"), str(tmp_path / "index"), approximate="ivf")
    assert info.recall == 1.0
    found = search.load_index(str(tmp_path / "index")).search(np.ones(DIM), 10, backend="faiss")
    assert sorted(found.rows[0]) == list(range(5))


def test_an_approximate_index_may_find_fewer():
    class FindsOne:
        def search(self, queries, k):
            numbers = np.full((len(queries), k), -1)
            numbers[:, 0] = 3
            return np.where(numbers < 0, np.float32(-3e38), np.float32(0.5)), numbers

    products, numbers = approximate.search(FindsOne(), np.ones((2, 4)), 3)
    assert numbers.tolist() == [[3, -1, -1]] * 2
    assert products.tolist() == [[0.5, -np.inf, -np.inf]] * 2


def test_without_faiss_it_says_what_to_install(clip_index, embeddings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    index = search.load_index(clip_index)
    assert index.search(np.ones(DIM), 2).rows.shape == (1, 2)
    message = r"FAISS is not installed: pip install tfsound\[search\]"
    with pytest.raises(search.SearchError, match=message):
        index.search(np.ones(DIM), 2, backend="faiss")
    with pytest.raises(search.SearchError, match=message):
        search.build_index(embeddings, str(tmp_path / "index"), approximate="hnsw")
    assert os.listdir(tmp_path) == []


def test_a_damaged_faiss_index_is_refused(large_index, tmp_path):
    shutil.copytree(large_index / "indexivf", tmp_path / "index")
    size = os.path.getsize(tmp_path / "index" / "faiss.index")
    (tmp_path / "index" / "faiss.index").write_bytes(bytes(size))
    index = search.load_index(str(tmp_path / "index"))
    with pytest.raises(search.SearchError, match=r"faiss\.index cannot be read; make the index again"):
        index.search(np.ones(DIM), 2, backend="faiss")


# Bad input.


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        (np.ones(5), {}, r"queries must be \(queries, 6\), got shape \(5,\); embed them with .* models/1"),
        (np.ones((2, 3, 6)), {}, r"got shape \(2, 3, 6\)"),
        (np.full(6, np.nan), {}, "queries must be finite, got NaN or infinity"),
        (np.zeros(6), {}, "a query of zeros has no direction"),
        (np.ones(6), {"num_neighbors": 0}, "num_neighbors must be at least 1, got 0"),
        (np.ones(6), {"backend": "annoy"}, "backend must be 'exact' or 'faiss', got 'annoy'"),
    ],
)
def test_wrong_queries_are_refused(clip_index, query, options, message):
    with pytest.raises(search.SearchError, match=message):
        search.load_index(clip_index).search(query, **options)


def test_clips_that_are_not_there(clip_index):
    index = search.load_index(clip_index)
    with pytest.raises(search.SearchError, match="holds no clip 'clip-99'; give the clip_id of a row"):
        index.rows_of_clip("clip-99")
    with pytest.raises(search.SearchError, match="is an index of whole clips, which has no part"):
        index.rows_of_clip("clip-1", start_seconds=1.0)


@pytest.mark.parametrize(
    ("parameters", "options", "message"),
    [
        ({"window_embeddings": False}, {"unit": "windows"}, "was made without windows; embed again"),
        ({}, {"unit": "songs"}, "unit must be 'clips' or 'windows', got 'songs'"),
        ({}, {"approximate": "lsh"}, r"approximate must be one of \('ivf', 'hnsw'\)"),
        ({"embedding_dim": 9}, {}, "found 6 numbers, expected 9"),
    ],
)
def test_embeddings_that_cannot_be_indexed(tmp_path, parameters, options, message):
    path = write_embeddings(tmp_path / "set", [clip_embedding(0)], **parameters)
    with pytest.raises(ValueError, match=message):
        search.build_index(path, str(tmp_path / "index"), **options)
    assert os.listdir(tmp_path) == ["set"]


def test_a_set_that_holds_other_than_it_says_is_refused(tmp_path):
    for number, num_windows in enumerate((2, 9)):
        path = write_embeddings(tmp_path / f"set{number}", [clip_embedding(0)], num_windows=num_windows)
        with pytest.raises(search.SearchError, match=f"another number of windows than the {num_windows}"):
            search.build_index(path, str(tmp_path / "index"), unit="windows")


def test_an_empty_set_has_no_index(tmp_path):
    path = write_embeddings(tmp_path / "set", [])
    with pytest.raises(search.SearchError, match="holds no embedding, expected one or more"):
        search.build_index(path, str(tmp_path / "index"))
    with pytest.raises(examples.DatasetError, match="nowhere is not a folder"):
        search.build_index(str(tmp_path / "nowhere"), str(tmp_path / "index"))


@pytest.mark.parametrize("name", [EMBEDDINGS_NAME, CLIPS_NAME, WINDOWS_NAME])
def test_an_index_that_lacks_something_is_refused(window_index, tmp_path, name):
    shutil.copytree(window_index, tmp_path / "index")
    path = tmp_path / "index" / name
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(search.SearchError, match=rf"{name} has \d+ bytes, expected \d+"):
        search.load_index(str(tmp_path / "index"))
    path.unlink()
    with pytest.raises(search.SearchError, match=f"{name} is missing"):
        search.load_index(str(tmp_path / "index"))


def test_what_is_no_index_is_refused(clip_index, tmp_path):
    with pytest.raises(search.SearchError, match=r"holds no index_info.json, so it is no index"):
        search.load_index(str(tmp_path / "nowhere"))
    shutil.copytree(clip_index, tmp_path / "index")
    path = tmp_path / "index" / INFO_NAME
    fields = json.loads(path.read_text())
    for change, message in (
        ({"schema_version": 2}, "schema version 2, this tfsound reads 1"),
        ({"num_rows": "7"}, "describes no index of tfsound"),
        ({"unit": "songs"}, "describes no index of tfsound"),
        ({"recall": 2.0}, "describes no index of tfsound"),
        ({"surplus": 1}, "describes no index of tfsound"),
        ({"num_rows": 8}, r"holds float32 \(7, 6\), expected float32 \(8, 6\)"),
        ({"num_clips": 8}, r"holds 7 rows of .*expected 8"),
    ):
        path.write_text(json.dumps(fields | change))
        with pytest.raises(search.SearchError, match=message):
            search.load_index(str(tmp_path / "index"))


@FEW
@given(data=st.data())
def test_a_mutated_index_is_read_or_refused(window_index, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz") / "index"
    shutil.copytree(window_index, folder)
    path = folder / data.draw(st.sampled_from([INFO_NAME, EMBEDDINGS_NAME, CLIPS_NAME, WINDOWS_NAME]))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        index = search.load_index(str(folder))
        items = [index.item(row) for row in range(len(index))]
    except search.SearchError:
        return
    assert len(items) == len(index)
