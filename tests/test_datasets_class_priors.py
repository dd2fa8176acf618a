"""Tests of tfsound.datasets.class_priors: what a long tail keeps, and in which order of rows."""

import collections
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfsound import datasets
from tfsound.datasets import ManifestError, ManifestRow, class_priors, longtail


def make_row(number, label="", *, recording=None, fold="1"):
    name = f"clip-{number}"
    labels = tuple(label.split(";")) if label else ()
    return ManifestRow(name, recording or name, f"{name}.wav", labels=labels, fold=fold)


@pytest.fixture(scope="module")
def balanced():
    """12 clips of each of 6 classes in each of 3 folds, each a recording of its own."""
    combinations = [(label, fold) for label in "abcdef" for fold in "123" for _ in range(12)]
    return [make_row(number, label, fold=fold) for number, (label, fold) in enumerate(combinations)]


def test_zipf_is_1_over_the_rank():
    np.testing.assert_allclose(class_priors.zipf(4, 1.0), [1, 1 / 2, 1 / 3, 1 / 4])
    np.testing.assert_allclose(class_priors.zipf(4, 2.0), [1, 1 / 4, 1 / 9, 1 / 16])
    np.testing.assert_array_equal(class_priors.zipf(3, 0.0), np.ones(3))
    assert class_priors.zipf(0, 1.0).shape == (0,)


@pytest.mark.parametrize(
    ("exponent", "least", "expected"),
    [
        (1.0, 1, [24, 12, 8, 6, 5, 4]),
        (2.0, 1, [24, 6, 3, 2, 1, 1]),  # 24 / 25 and 24 / 36 are rounded to 1
        (2.0, 3, [24, 6, 3, 3, 3, 3]),
        (5.0, 1, [24, 1, 1, 1, 1, 1]),
        (0.0, 1, [24] * 6),
    ],
)
def test_a_class_keeps_as_many_clips_as_zipf_has_it(balanced, exponent, least, expected):
    result = longtail(balanced, test_folds=["2"], exponent=exponent, least_per_class=least)
    assert [kept.num_kept for kept in result.classes] == expected
    assert [kept.num_wanted for kept in result.classes] == expected
    assert {kept.num_before for kept in result.classes} == {24}
    assert {kept.label for kept in result.classes} == set("abcdef")
    counts = collections.Counter(row.labels[0] for row in result.rows if row.fold != "2")
    assert [counts[kept.label] for kept in result.classes] == expected
    assert [row for row in result.rows if row.fold == "2"] == [row for row in balanced if row.fold == "2"]
    assert (result.num_test, result.num_unlabelled) == (72, 0)
    assert [row for row in balanced if row in set(result.rows)] == list(result.rows)  # in their order


def test_it_says_what_it_kept(balanced):
    result = longtail([*balanced, make_row(999)], test_folds=["2"], exponent=1.0)
    first, *_, last = [kept.label for kept in result.classes]
    assert str(result) == (
        f"kept 59 of 144 labelled clips to learn from: 6 classes from {first} (24) to {last} (4); beside "
        "them all 1 without a label and all 72 of the test folds"
    )


def test_seeds_draw_other_ranks_and_other_clips(balanced):
    results = [longtail(balanced, seed=seed) for seed in range(20)]
    assert len({result.classes[0].label for result in results}) > 3
    assert len({result.rows for result in results}) == 20


def test_a_recording_of_several_classes_counts_for_the_rarest(balanced):
    ranked = [kept.label for kept in longtail(balanced).classes]
    rows = [make_row(number, f"{ranked[0]};{ranked[5]}") for number in range(10)]
    result = longtail([*rows, *[make_row(100 + number, label) for number, label in enumerate(ranked)]])
    assert [kept.num_before for kept in result.classes] == [1, 1, 1, 1, 1, 11]


def test_what_is_missed_least_is_kept_where_all_recordings_are_large(balanced):
    ranked = class_priors.draw_ranks("ab", 0)
    rows = [make_row(number, ranked[0]) for number in range(20)]
    # Wanted are 20 / 2 ** 4, about 1.
    sizes = [5, 3, 4]
    for size in sizes:
        rows += [
            make_row(1000 * size + part, ranked[1], recording=f"recording-{size}") for part in range(size)
        ]
    result = longtail(rows, exponent=4.0)
    assert [(kept.num_wanted, kept.num_kept) for kept in result.classes] == [(20, 20), (1, 3)]


# Sets of rows: recordings of 1 to 4 clips with 0 to 2 labels, in folds.
RECORDINGS = st.lists(
    st.tuples(
        st.integers(1, 4), st.lists(st.sampled_from("abcde"), max_size=2, unique=True), st.sampled_from("12")
    ),
    min_size=1, max_size=40,
)  # fmt: skip


def rows_of(recordings):
    return [
        make_row(f"{number}-{part}", ";".join(labels), recording=f"recording-{number}", fold=fold)
        for number, (size, labels, fold) in enumerate(recordings)
        for part in range(size)
    ]


@given(
    recordings=RECORDINGS,
    test_folds=st.sampled_from([(), ("2",)]),
    exponent=st.floats(0, 10),
    least=st.integers(1, 3),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_properties_of_a_long_tail(recordings, test_folds, exponent, least, seed, data):
    rows = rows_of(recordings)
    options = {"exponent": exponent, "least_per_class": least, "seed": seed}
    learnt = [row for row in rows if row.fold not in test_folds]
    if not any(row.labels for row in learnt) or not set(test_folds) <= {row.fold for row in rows}:
        with pytest.raises(ManifestError):
            longtail(rows, test_folds=test_folds, **options)
        return
    result = longtail(rows, test_folds=test_folds, **options)
    kept = set(result.rows)
    assert kept <= set(rows)
    # Test folds and what has no label stay, recordings are whole.
    assert {row for row in rows if row.fold in test_folds or not row.labels} <= kept
    kept_recordings = {row.recording_id for row in kept}
    assert {row for row in rows if row.recording_id in kept_recordings} == kept
    # The order of the rows does not matter.
    shuffled = data.draw(st.permutations(rows))
    assert set(longtail(shuffled, test_folds=test_folds, **options).rows) == kept
    # The counts are those of Zipf, to half a recording.
    largest = max(kept.num_before for kept in result.classes)
    assert sum(kept.num_before for kept in result.classes) == sum(bool(row.labels) for row in learnt)
    for rank, of_class in enumerate(result.classes, start=1):
        wanted = min(of_class.num_before, max(least, largest / rank**exponent))
        assert abs(of_class.num_wanted - wanted) <= 0.5 + 1e-9
        assert of_class.num_kept >= min(least, of_class.num_before)
        missed = of_class.num_kept - of_class.num_wanted
        # More than half of a recording of 4 is kept only where the least would not be.
        assert abs(missed) <= 2 or of_class.num_kept - 4 < least
    num_kept = sum(of_class.num_kept for of_class in result.classes)
    assert len(kept) == num_kept + result.num_unlabelled + result.num_test


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exponent": -0.5}, "the exponent of Zipf must be from 0 to 10, got -0.5"),
        ({"exponent": float("nan")}, "the exponent of Zipf must be from 0 to 10, got nan"),
        ({"exponent": 11.0}, "the exponent of Zipf must be from 0 to 10, got 11"),
        ({"least_per_class": 0}, "least_per_class must be at least 1, got 0"),
        ({"test_folds": ["9"]}, "test fold '9' does not occur; folds are 1, 2, 3"),
        (
            {"test_folds": ["1", "2", "3"]},
            "no clip outside the test folds has a label; expected some to draw",
        ),
    ],
)
def test_what_makes_no_long_tail_is_refused(balanced, options, message):
    with pytest.raises(ManifestError, match=re.escape(message)):
        longtail(balanced, **options)
    with pytest.raises(ManifestError, match="no clip outside the test folds has a label"):
        longtail([])


def test_the_job_writes_a_manifest(balanced, tmp_path):
    source, output = str(tmp_path / "all.csv"), str(tmp_path / "tail" / "thin.jsonl")
    datasets.write_manifest(source, balanced)
    result = datasets.thin_manifest(
        source, output, test_folds=("3",), exponent=2.0, least_per_class=2, seed=4
    )
    rows = datasets.read_manifest(output)
    assert rows == list(result.rows)
    assert {row.uri for row in rows} <= {f"{tmp_path}/{row.uri}" for row in balanced}
    expected = longtail(balanced, test_folds=("3",), exponent=2.0, least_per_class=2, seed=4)
    assert [row.clip_id for row in rows] == [row.clip_id for row in expected.rows]
    with pytest.raises(ManifestError, match=r"thin\.jsonl exists; choose another output or pass --overwrite"):
        datasets.thin_manifest(source, output)
    assert len(datasets.thin_manifest(source, output, exponent=0.0, overwrite=True).rows) == len(balanced)
    with pytest.raises(ManifestError, match="extension"):
        datasets.thin_manifest(source, str(tmp_path / "thin.txt"))


def test_a_long_tail_of_esc_50(shared_data):
    rows = datasets.ADAPTERS["esc50"](str(shared_data / "esc50")).rows
    result = longtail(rows, test_folds=["5"])
    wanted = [kept.num_wanted for kept in result.classes]
    assert (len(wanted), wanted[0], wanted[-1]) == (50, 32, 1)
    test_clips = {row.clip_id for row in rows if row.fold == "5"}
    assert {row.clip_id for row in result.rows if row.fold == "5"} == test_clips
    assert abs(sum(kept.num_kept for kept in result.classes) - sum(wanted)) < 40
