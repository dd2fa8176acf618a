"""Tests of tfsound.training.measures: held-out clips through a model, many at a time."""

import numpy as np
import pytest
import tiny

from tfsound import examples
from tfsound.training import measures

CLIPS = [
    tiny.make_clip(n, num_frames=8 * (1 + n % 3), labels=("ab"[n % 2],) if n % 5 else (), fold=str(n % 2))
    for n in range(20)
] + [tiny.make_clip(90 + n, labels=("other",), fold="odd") for n in range(2)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return tiny.write_clips(tmp_path_factory.mktemp("sets") / "clips", CLIPS)


def test_clips_are_read_many_at_a_time(clips):
    held_out = measures.HeldOutClips([clips], ("1",), ("b", "a"))
    sizes = []

    def model(windows):
        sizes.append(len(windows))
        return windows[:, 0, :3]

    found = held_out.read(model)
    expected = [clip for clip in [*CLIPS[::2], *CLIPS[1::2]] if clip.fold == "1" and clip.labels]
    assert sizes == [sum(len(clip.mel_energy) // 8 for clip in expected)]
    windows = [examples.clip_windows(clip, tiny.PARAMS) for clip in expected]
    np.testing.assert_allclose(found, [of_clip[:, 0, :3].mean(axis=0) for of_clip in windows], rtol=1e-6)
    np.testing.assert_array_equal(held_out.labels, [("b", "a").index(clip.labels[0]) for clip in expected])
    np.testing.assert_array_equal(held_out.read(model), found)


@pytest.mark.parametrize(
    ("folds", "found"), [(("odd",), "a clip of class 'other'"), (("1", "odd"), "a clip of class 'other'")]
)
def test_clips_of_a_class_that_is_not_learned_are_refused(clips, folds, found):
    with pytest.raises(examples.DatasetError, match=f"hold {found}, expected clips of the 2 classes"):
        measures.HeldOutClips([clips], folds, ("a", "b"))


def test_clips_without_labels_are_refused(tmp_path):
    made = [tiny.make_clip(n, fold=str(n % 2), labels=("a",) * (n % 2)) for n in range(6)]
    unlabelled = tiny.write_clips(tmp_path / "clips", made)
    with pytest.raises(
        examples.DatasetError, match=r"folds \['0'\] hold no labelled clip, expected clips of"
    ):
        measures.HeldOutClips([unlabelled], ("0",), ("a",))
