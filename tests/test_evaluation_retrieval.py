"""Tests of tfsound.evaluation.retrieval: against section 4.3 written out anew, and from end to end."""

import dataclasses
import json
import math
import os

import numpy as np
import pytest
import tensorflow as tf
import tiny
from test_evaluation_segments import LABELS, naive_segment

from tfsound import evaluation, examples, metrics, training
from tfsound.export import saved_model


def make_clips(num_clips=18):
    """Clips of three classes and two folds, of 1 to 4 windows and a rest."""
    return [
        tiny.make_clip(n, labels=LABELS[n % 3], fold=str(n % 2 + 1), num_frames=8 * (1 + n % 4) + 3)
        for n in range(num_clips)
    ]


@pytest.fixture(scope="module")
def clip_set(tmp_path_factory):
    return tiny.write_clips(tmp_path_factory.mktemp("sets") / "clips", make_clips())


@pytest.fixture(scope="module")
def run(tiny_encoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    triplets = tiny.write_triplets(folder / "triplets", range(40))
    training.train(
        [triplets], str(folder / "run"), encoder="tiny", embedding_dim=8, num_steps=4, batch_size=8
    )
    return str(folder / "run")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """An export of the run, as its third version."""
    encoder, mel_params = training.load_encoder(run)
    output = tmp_path_factory.mktemp("exports")
    saved_model.save(encoder, mel_params, str(output / "model"), provenance={})
    os.rename(output / "model" / "1", output / "model" / "10")
    (output / "model" / "9").mkdir()  # older, though it sorts after
    return str(output / "model")


def naive_map(embeddings, labels):
    """Query by example with all pairs: section 4.3, pair by pair."""
    units = np.asarray(embeddings, np.float64)
    units = units / np.linalg.norm(units, axis=1, keepdims=True)
    names = sorted({name for row in labels for name in row})
    per_class = []
    for name in names:
        present = [i for i, row in enumerate(labels) if name in row]
        absent = [i for i, row in enumerate(labels) if name not in row]
        pairs = [(1 - units[a] @ units[b], True) for n, a in enumerate(present) for b in present[n + 1 :]]
        pairs += [(1 - units[a] @ units[b], False) for a in present for b in absent]
        pairs.sort()
        hits, precisions = 0, []
        for rank, (_, is_target) in enumerate(pairs, start=1):
            if is_target:
                hits += 1
                precisions.append(hits / rank)
        per_class.append(np.mean(precisions))
    return float(np.mean(per_class))


def make_evaluation(**fields):
    defaults = {
        "by": "labels", "folds": ("1",), "chance": 0.25, "protocol": "all pairs", "num_segments": 9,
        "scores": {evaluation.BASELINE: (0.4,), evaluation.LEARNED: (0.5,)}, "topline": 0.8,
    }  # fmt: skip
    return evaluation.Evaluation(**(defaults | fields))


def test_recovery_by_hand():
    assert make_evaluation().recovery == (pytest.approx(0.25),)  # (.5 - .4) / (.8 - .4)
    assert make_evaluation(topline=None).recovery is None


def test_merging_by_hand():
    other = make_evaluation(
        folds=("2",), chance=0.35, protocol="100 + 100 a class", num_segments=11,
        scores={evaluation.BASELINE: (0.6,), evaluation.LEARNED: (0.9,)},
    )  # fmt: skip
    merged = evaluation.merge([make_evaluation(), other])
    assert merged == make_evaluation(
        folds=("1", "2"), chance=pytest.approx(0.3), protocol="all pairs; 100 + 100 a class", num_segments=20,
        scores={evaluation.BASELINE: (0.4, 0.6), evaluation.LEARNED: (0.5, 0.9)},
    )  # fmt: skip
    assert merged.recovery == (pytest.approx(0.25), pytest.approx(1.5))
    assert evaluation.merge([other]) == other
    assert str(merged).splitlines() == [
        "Query by example, mAP by labels, 20 segments, all pairs; 100 + 100 a class",
        "chance              0.300",
        "log mel (baseline)  0.500 ± 0.141 (0.400..0.600, n=2)",
        "learned embedding   0.700 ± 0.283 (0.500..0.900, n=2)",
        "gain                0.200 ± 0.141 (0.100..0.300, n=2)",
        "recovery            0.875 ± 0.884 (0.250..1.500, n=2)",
    ]


# From end to end.


def test_an_evaluation_agrees_with_numpy(clip_set, run, tmp_path):
    result = evaluation.evaluate(clip_set, run, str(tmp_path / "out"), topline=1.0)
    clips = make_clips()
    clips = clips[::2] + clips[1::2]  # the order of the shards
    labels = [clip.labels for clip in clips]
    encoder, _ = training.load_encoder(run)
    embeds = {
        evaluation.BASELINE: lambda window: window.ravel(),
        evaluation.LEARNED: lambda window: encoder(window[None].astype(np.float32)).numpy()[0],
    }
    for name, embed in embeds.items():
        expected = naive_map(np.stack([naive_segment(clip, embed) for clip in clips]), labels)
        assert result.scores[name] == (pytest.approx(expected, abs=1e-6),)
    assert (result.by, result.folds, result.num_segments) == ("labels", ("",), 18)
    # Of a class, 15 pairs within and 6 x 12 across.
    assert result.chance == pytest.approx(15 / (15 + 72))
    baseline, learned = result.scores[evaluation.BASELINE][0], result.scores[evaluation.LEARNED][0]
    assert result.recovery == (pytest.approx((learned - baseline) / (1 - baseline)),)
    assert baseline > result.chance + 0.1, "the classes cannot be told apart, little tested"


def refuse_constant(name):
    raise AssertionError(f"{name} is no JSON")


def test_what_is_written_can_be_read(clip_set, run, tmp_path):
    result = evaluation.evaluate(clip_set, run, str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out")) == ["evaluation.json", "evaluation.png", "evaluation.txt"]
    text = (tmp_path / "out" / "evaluation.json").read_text()
    fields = json.loads(text, parse_constant=refuse_constant)
    assert fields["scores"] == {name: list(values) for name, values in result.scores.items()}
    assert fields["spread"][evaluation.LEARNED]["standard_deviation"] is None  # of one value
    assert (fields["recovery"], fields["topline"], fields["num_segments"]) == (None, None, 18)
    assert (tmp_path / "out" / "evaluation.txt").read_text() == f"{result}\n"
    assert (tmp_path / "out" / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    assert math.isnan(metrics.mean_and_spread([1.0]).standard_deviation)


def test_nothing_is_written_without_an_output(clip_set, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluation.evaluate(clip_set, run)
    assert os.listdir(tmp_path) == []


def test_folds_are_scored_each_by_itself(clip_set, run):
    both = evaluation.evaluate(clip_set, run, folds=("1", "2"), topline=0.9)
    apart = [evaluation.evaluate(clip_set, run, folds=(fold,), topline=0.9) for fold in ("1", "2")]
    assert both == evaluation.merge(apart)
    assert both.folds == ("1", "2")
    assert both.num_segments == 18
    assert len(both.recovery) == 2
    with pytest.raises(examples.DatasetError, match="fold '3' does not occur in"):
        evaluation.evaluate(clip_set, run, folds=("3",))


def test_draws_depend_on_the_seed_alone(clip_set, run):
    def scores(seed):
        return evaluation.evaluate(clip_set, run, num_present=3, num_absent=3, seed=seed).scores

    assert scores(0) == scores(0)
    assert scores(0) != scores(1)


def test_by_recordings_the_other_half_is_sought(run, tmp_path):
    clips = [tiny.make_clip(i, num_frames=32) for i in range(6)] + [tiny.make_clip(6, num_frames=9)]
    # Halves that are alike, and unlike all others.
    for number, clip in enumerate(clips):
        clip.mel_energy[:] = np.random.default_rng(100 + number).uniform(0, 9, 8)
    directory = tiny.write_clips(tmp_path / "clips", clips)
    with pytest.raises(
        evaluation.EvaluationError,
        match=r"clips: no class of 7 segments has two of them, .*evaluate by recordings",
    ):
        evaluation.evaluate(directory, run)
    result = evaluation.evaluate(directory, run, by="recordings")
    assert result.num_segments == 12  # the seventh is too short to halve
    assert result.scores[evaluation.BASELINE] == (1.0,)
    assert result.by == "recordings"


def test_recordings_that_cannot_be_halved_are_refused(run, tmp_path):
    directory = tiny.write_clips(tmp_path / "clips", [tiny.make_clip(i, num_frames=8) for i in range(3)])
    with pytest.raises(evaluation.EvaluationError, match="halves of recordings need clips of two windows"):
        evaluation.evaluate(directory, run, by="recordings")


def test_labels_that_all_clips_share_cannot_be_scored(run, tmp_path):
    directory = tiny.write_clips(
        tmp_path / "clips", [tiny.make_clip(i, labels=("bell",), fold="1") for i in range(3)]
    )
    with pytest.raises(evaluation.EvaluationError, match="clips, fold 1: no class of 3 segments"):
        evaluation.evaluate(directory, run, folds=("1",))


def test_what_to_go_by_is_checked_first():
    with pytest.raises(ValueError, match="by must be 'labels' or 'recordings', got 'label'"):
        evaluation.evaluate("nowhere", "nowhere", by="label")


def test_what_is_no_model_is_refused(clip_set, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name, state in (
        ("nowhere", "does not exist"), ("file", "is no training run"), ("empty", "is no training run"),
    ):  # fmt: skip
        with pytest.raises(training.TrainingError, match=f"{name} holds no trained encoder .*: it {state}"):
            evaluation.evaluate(clip_set, str(tmp_path / name))
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.json").write_text('{"steps_per_checkpoint": 5}')
    with pytest.raises(training.TrainingError, match="it was not finished; train it to its end"):
        evaluation.evaluate(clip_set, str(tmp_path / "unfinished"))


def test_clips_of_another_front_end_are_refused(run, tmp_path):
    other = dataclasses.replace(tiny.PARAMS, log_offset=0.5)
    record = examples.encode_clip(tiny.make_clip(0))
    directory = tiny.write_set(tmp_path / "other", examples.CLIPS, [[record]], mel_params=other)
    with pytest.raises(ValueError, match=r"other was made with other mel parameters: log_offset is 0\.5"):
        evaluation.evaluate(directory, run)


def test_an_export_scores_as_its_run(clip_set, run, exported):
    expected = evaluation.evaluate(clip_set, run)
    for path in (exported, os.path.join(exported, "10")):  # the newest version, or one by name
        found = evaluation.evaluate(clip_set, path)
        for name, values in expected.scores.items():
            assert found.scores[name] == pytest.approx(values, abs=1e-6)
    embed, mel_params = evaluation.load_embed(exported)
    assert mel_params == tiny.PARAMS
    windows = examples.clip_windows(tiny.make_clip(0), tiny.PARAMS)
    np.testing.assert_allclose(embed(windows), evaluation.load_embed(run)[0](windows), atol=1e-6)


def test_a_saved_model_of_others_is_refused(clip_set, tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path / "model"))
    with pytest.raises(evaluation.EvaluationError, match="was not exported by tfsound"):
        evaluation.evaluate(clip_set, str(tmp_path / "model"))


def test_embeddings_that_are_no_numbers_are_refused(clip_set, run, monkeypatch):
    real, mel_params = evaluation.load_embed(run)
    monkeypatch.setattr(
        evaluation.retrieval, "load_embed", lambda model: (lambda x: real(x) * np.nan, mel_params)
    )
    with pytest.raises(ValueError, match="embeddings must be finite"):
        evaluation.evaluate(clip_set, run)


def test_nan_becomes_null_and_the_rest_stays():
    value = {"a": [1.0, math.nan, (2, "x")], "b": {"c": math.nan, "d": None}}
    assert evaluation.retrieval._without_nan(value) == {
        "a": [1.0, None, [2, "x"]],
        "b": {"c": None, "d": None},
    }
