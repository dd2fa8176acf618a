"""Which folds a reproduction holds out, and which it learns from."""

import pytest
import tiny

from tfsound import datasets
from tfsound.reproduction import scales
from tfsound.reproduction.folds import Folds, held_out_folds, thin_training_folds

SMALL, TINY = scales.SCALES["small"], scales.SCALES["tiny"]


@pytest.mark.parametrize(
    ("names", "asked", "scale", "held_out"),
    [
        ("12345", (), SMALL, ("1", "2", "3", "4", "5")),
        ("12345", (), TINY, ("1",)),
        ("12345", ("4", "2"), TINY, ("4", "2")),
        # AudioSet's names, and those of digit scenes: nothing is trained on the evaluation split.
        (["train", "test"], (), SMALL, ("test",)),
        (["train", "eval"], (), SMALL, ("eval",)),
    ],
)
def test_the_folds_that_are_held_out(names, asked, scale, held_out):
    assert held_out_folds(names, asked, scale.max_folds) == held_out


@pytest.mark.parametrize(
    ("names", "asked", "message"),
    [
        ([""], (), r"the data set has none: give its manifest a column `fold`, or `split`.*got \[''\]"),
        ("12", ("3", "1"), "folds must be among 1, 2, got 3"),
    ],
)
def test_folds_that_cannot_be_held_out(names, asked, message):
    with pytest.raises(ValueError, match=message):
        held_out_folds(names, asked, SMALL.max_folds)


def test_a_long_tail_is_learnt_from_and_everything_scored(tmp_path):
    rows = [
        datasets.ManifestRow(f"{fold}-{name}-{i}", f"{fold}-{name}-{i}", "x.wav", labels=(name,), fold=fold)
        for fold in "12" for name in "abcd" for i in range(8)
    ]  # fmt: skip
    assert thin_training_folds(rows, "natural", seed=0) == rows
    thinned = thin_training_folds(rows, "longtail", seed=0)
    assert [row.clip_id for row in thinned] == [row.clip_id for row in rows]
    clips = [tiny.make_clip(number, labels=row.labels, fold=row.fold) for number, row in enumerate(thinned)]
    folds = Folds(str(tiny.write_clips(tmp_path / "clips", clips)))
    assert folds.names == ("1", "2")
    learnt = [row for row in thinned if row.fold in folds.of_training("1")]
    assert {row.fold for row in learnt} == {"2"}
    assert len(learnt) < 32
    assert sum(row.fold in folds.of_test("1") for row in thinned) == 32
    assert {row.fold for row in thinned} - set(folds.not_of_training("1")) == {"2"}


def test_the_evaluation_split_is_not_thinned():
    rows = [
        datasets.ManifestRow(f"{name}-{split}-{i}", f"{name}-{split}-{i}", "x", labels=(name,), fold=split)
        for split in ("train", "test") for name in "abcd" for i in range(8)
    ]  # fmt: skip
    thinned = thin_training_folds(rows, "longtail", seed=0)
    assert sum(row.fold == "test" for row in thinned) == 32
    # 16 clips of a class halve, and so on.
    assert 8 <= sum(row.fold == "train" for row in thinned) < 24
