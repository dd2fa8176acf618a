"""Tests of evaluation.evaluate_classifier: clip scores, mAP and d' by hand, reports, what is refused."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from classifier_sets import NAMES, SETTINGS, clips, make_clip, train

from tfsound import evaluation, examples, metrics, training
from tfsound.export import saved_model

__all__ = ["clips"]  # a fixture
pytestmark = pytest.mark.usefixtures("tiny_encoder")


@pytest.fixture(scope="module")
def run(clips, tmp_path_factory):
    """A classifier that has learned something, but not all."""
    output = str(tmp_path_factory.mktemp("runs") / "run")
    train(clips, output, exclude_folds=("2",), num_steps=40, steps_per_checkpoint=40)
    return output


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return saved_model.export(run, str(tmp_path_factory.mktemp("models") / "model"))


def test_the_score_of_a_clip_is_the_mean_over_its_windows(clips, run):
    classifier, mel_params, class_names = training.load_classifier(run)
    score, *rest = evaluation.load_score(run)
    assert rest == [mel_params, class_names]
    found = evaluation.score_clips(clips, score, mel_params, class_names, folds=("2",))
    assert len(found.clip_ids) == 15
    by_id = {clip.clip_id: clip for clip in map(make_clip, range(30))}
    for clip_id, scores, labels in zip(found.clip_ids, found.scores, found.labels, strict=True):
        clip = by_id[clip_id]
        windows = np.log(clip.mel_energy.astype(np.float32) + 0.01).reshape(3, *tiny.WINDOW)
        np.testing.assert_allclose(scores, classifier(windows).numpy().mean(axis=0), atol=1e-6)
        assert [name for name, has in zip(NAMES, labels, strict=True) if has] == list(clip.labels)
    expected = metrics.mean_average_precision(found.labels, found.scores)
    assert found.average_precision.mean == expected.mean
    assert found.d_prime.mean == metrics.d_prime(found.labels, found.scores).mean


def test_folds_are_scored_each_by_itself_and_spread(clips, run):
    both = evaluation.evaluate_classifier(clips, run, folds=("1", "2"))
    singles = [evaluation.evaluate_classifier(clips, run, folds=(fold,)) for fold in ("1", "2")]
    assert both.mean_average_precisions == tuple(one.mean_average_precisions[0] for one in singles)
    assert both.mean_d_primes == tuple(one.mean_d_primes[0] for one in singles)
    together = evaluation.evaluate_classifier(clips, run)
    assert len(together.folds[0].clip_ids) == 30
    lines = str(both).splitlines()
    assert lines[0] == "Classification of 30 clips, 3 classes"
    spread = metrics.mean_and_spread(both.mean_average_precisions)
    assert lines[1] == f"mAP      {spread} (chance 0.333)"
    assert lines[2].startswith("mean d'  ")


def test_an_export_scores_as_its_run(clips, run, exported):
    live, served = (evaluation.evaluate_classifier(clips, model) for model in (run, exported.path))
    assert served.class_names == NAMES
    np.testing.assert_allclose(served.folds[0].scores, live.folds[0].scores, atol=1e-5)
    windows = np.random.default_rng(0).normal(size=(3, *tiny.WINDOW)).astype(np.float32)
    embed, _ = evaluation.load_embed(exported.path)
    np.testing.assert_allclose(embed(windows), evaluation.load_embed(run)[0](windows), atol=1e-5)


def test_the_report_holds_every_class(clips, run, tmp_path):
    found = evaluation.evaluate_classifier(clips, run, str(tmp_path / "report"), folds=("2",))
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [
        "classification.json", "classification.txt",
    ]  # fmt: skip
    fields = json.loads((tmp_path / "report" / "classification.json").read_text())
    (fold,) = fields["folds"]
    assert (fold["fold"], fold["num_clips"], fold["mAP"]) == ("2", 15, found.mean_average_precisions[0])
    assert fold["mean_d_prime"] == found.mean_d_primes[0]
    assert list(fold["classes"]) == fields["class_names"] == list(NAMES)
    result = found.folds[0]
    for index, figures in enumerate(fold["classes"].values()):
        assert figures["num_positives"] == 5
        assert figures["average_precision"] == result.average_precision.per_class[index]
        assert figures["auc"] == result.d_prime.auc[index]
    assert fields["spread"]["mAP"]["num_values"] == 1
    text = (tmp_path / "report" / "classification.txt").read_text()
    assert text == f"{found}\n\n{found.table()}\n"
    rows = [line.split() for line in found.table().splitlines()[1:]]
    assert sorted(row[0] for row in rows) == list(NAMES)
    assert [float(row[2]) for row in rows] == sorted(float(row[2]) for row in rows)


def test_what_is_not_finite_is_null_in_the_report():
    labels = np.asarray([[1, 0, 0], [0, 0, 1]], bool)
    scores = np.asarray([[0.9, 0.5, 0.5], [0.1, 0.5, 0.5]], np.float32)
    results = metrics.mean_average_precision(labels, scores), metrics.d_prime(labels, scores)
    fold = evaluation.ClipScores("", ("x", "y"), labels, scores, *results)
    fields = evaluation.ClassifierEvaluation((fold, fold), NAMES).to_dict()
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    classes = fields["folds"][0]["classes"]
    assert classes["a"] == {"num_positives": 1, "average_precision": 1.0, "auc": 1.0, "d_prime": None}
    assert classes["b"] == {"num_positives": 0, "average_precision": None, "auc": None, "d_prime": None}
    assert classes["c"]["d_prime"] == 0.0
    table = evaluation.ClassifierEvaluation((fold, fold), NAMES).table().splitlines()
    assert [line.split() for line in table[1:]] == [
        ["c", "2", "0.500", "0.500"], ["a", "2", "1.000", "1.000"], ["b", "0", "nan", "nan"],
    ]  # fmt: skip


def test_what_cannot_be_scored_is_refused(clips, run, tmp_path):
    unlabelled = [dataclasses.replace(make_clip(number), labels=()) for number in range(3)]
    silent = tiny.write_clips(tmp_path / "unlabelled", unlabelled)
    with pytest.raises(evaluation.EvaluationError, match="holds no labelled clip"):
        evaluation.evaluate_classifier(silent, run)
    mixed = tiny.write_clips(tmp_path / "mixed", [*unlabelled, make_clip(4), make_clip(6)])
    found = evaluation.evaluate_classifier(mixed, run)
    assert sorted(found.folds[0].clip_ids) == ["clip-4", "clip-6"]
    same = tiny.write_clips(tmp_path / "same", [make_clip(0), make_clip(1)])
    with pytest.raises(evaluation.EvaluationError, match="all 2 clips have the same labels"):
        evaluation.evaluate_classifier(same, run)
    strange = [dataclasses.replace(make_clip(0), labels=("wolf",)), make_clip(2)]
    strange = tiny.write_clips(tmp_path / "strange", strange)
    with pytest.raises(
        evaluation.EvaluationError, match="strange: label 'wolf' is not among the 3 class names; score clips"
    ):
        evaluation.evaluate_classifier(strange, run)
    with pytest.raises(examples.DatasetError, match="fold '9' does not occur"):
        evaluation.evaluate_classifier(clips, run, folds=("9",))
    params = dataclasses.replace(tiny.PARAMS, mel_max_hz=7000.0)
    other = tiny.write_set(
        tmp_path / "other", examples.CLIPS, [[examples.encode_clip(make_clip(0))]], mel_params=params
    )
    with pytest.raises(ValueError, match="other mel parameters"):
        evaluation.evaluate_classifier(other, run)


def test_scores_that_are_no_numbers_are_refused(clips):
    def score(log_mel):
        return np.full((len(log_mel), 3), np.nan, np.float32)

    with pytest.raises(evaluation.EvaluationError, match="scores are no numbers"):
        evaluation.score_clips(clips, score, tiny.PARAMS, NAMES)


def test_what_gives_no_scores_is_refused(clips, tmp_path):
    encoder = keras.Sequential([keras.Input(tiny.WINDOW), keras.layers.GlobalAveragePooling1D()])
    path = saved_model.save(encoder, tiny.PARAMS, str(tmp_path / "model"), provenance={}).path
    with pytest.raises(evaluation.EvaluationError, match="gives embeddings and no scores; export a run on l"):
        evaluation.evaluate_classifier(clips, path)
    triplets = tiny.write_triplets(tmp_path / "triplets", range(8))
    training.train([triplets], str(tmp_path / "run"), **(SETTINGS | {"num_steps": 1}))
    with pytest.raises(training.TrainingError, match=r"holds no classifier\.keras"):
        evaluation.evaluate_classifier(clips, str(tmp_path / "run"))
    with pytest.raises(training.TrainingError, match="does not exist"):
        evaluation.evaluate_classifier(clips, str(tmp_path / "nowhere"))
    tf.saved_model.save(tf.Module(), str(tmp_path / "strange"))
    with pytest.raises(evaluation.EvaluationError, match="was not exported by tfsound"):
        evaluation.evaluate_classifier(clips, str(tmp_path / "strange"))
