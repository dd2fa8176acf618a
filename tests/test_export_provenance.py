"""Tests of tfsound.export.provenance: the command that trains the same, metrics, evaluations from outside."""

import json
import math
import shlex

import pytest
import tiny
from classifier_sets import clips, train, window_labels
from coincidence_sets import pairs
from hypothesis import given, settings
from hypothesis import strategies as st
from test_training_instances import instances
from test_training_instances import train as train_instances
from training_runs import config_of

from tfsound import arguments, cli, evaluation, training
from tfsound.export import provenance

__all__ = ["clips", "instances", "pairs"]  # fixtures
pytestmark = pytest.mark.usefixtures("tiny_encoder")

SETTINGS = {"encoder": "tiny", "embedding_dim": 6, "num_steps": 1, "batch_size": 4, "seed": 3}


def trained(kind, output, request):
    """The folder of a run of some kind, with settings that are no defaults."""
    if kind == "train":
        triplets = [tiny.write_triplets(output / name, range(8)) for name in ("a set", "b")]
        training.train(triplets, str(output / "run"), source_weights=(1.0, 0.5), margin=0.2, **SETTINGS)
    elif kind == "train-coincidence":
        folders = request.getfixturevalue("pairs")
        training.train_coincidence(
            str(output / "run"), audio_audio=folders[:1], audio_image=folders[1:], unit_norm=True,
            num_clusters=3, negatives="random", **SETTINGS,
        )  # fmt: skip
    elif kind == "train-instances":
        train_instances(
            request.getfixturevalue("instances"), output / "run", flip=False, knn_folds=("2",), num_steps=1
        )
    else:
        train(
            request.getfixturevalue("clips"), output / "run", folds=("1",), multi_label=False, num_steps=1,
            measure_folds=("2",), hard=True,
        )  # fmt: skip
    return str(output / "run")


@pytest.mark.parametrize("kind", ["train", "train-coincidence", "train-instances", "train-classifier"])
def test_the_command_trains_the_same(kind, tmp_path, request):
    run = trained(kind, tmp_path, request)
    config = config_of(run)
    command = provenance.training_command(run, config)
    program, name, *words = shlex.split(command)
    assert (program, name) == ("tfsound", kind)
    parser, function = cli.command_parser(name)
    again = str(tmp_path / "again")
    assert words.count(run) == 1
    arguments.call(parser, function, [again if word == run else word for word in words])
    assert config_of(again) == config
    assert "--learning-rate-decay" not in words  # a default


@pytest.mark.parametrize("config", [{"encoder": "own"}, {"clips": "c", "labels": "(arrays)"}])
def test_a_run_that_no_command_trains_has_none(config):
    assert provenance.training_command("run", config) == ""


def test_labels_given_as_arrays_leave_no_command(clips, tmp_path):
    labels = window_labels({(0, 0): (1, 0, 0), (2, 0): (0, 1, 0)})
    train(clips, tmp_path / "run", labels=labels, num_steps=1)
    described = provenance.describe_run(
        str(tmp_path / "run"), config_of(tmp_path / "run"), evaluation=(), class_names=("a",), license=""
    )
    assert "command" not in described
    assert "license" not in described


def test_metrics_of_the_log_say_what_they_are_measured_on(tmp_path):
    (tmp_path / "log.csv").write_text(
        "epoch,step,loss,knn_accuracy,log_partition,learning_rate\n0,3,9,0.1,2,0.1\n1,6,0.5,0.25,2,0\n"
    )
    training_loss = {
        "name": "loss", "values": [0.5], "on": "training, mean of the last interval", "held_out": False,
    }  # fmt: skip
    held_out = {
        "name": "knn_accuracy", "values": [0.25], "on": "clips of folds 1, 4, not learned from",
        "held_out": True,
    }  # fmt: skip
    found = provenance.run_metrics(str(tmp_path), {"knn_folds": ["1", "4"]})
    assert found == [training_loss, held_out]
    assert provenance.run_metrics(str(tmp_path / "nowhere"), {}) == []


def test_a_table_of_retrieval_across_modalities_is_read(tmp_path):
    table = evaluation.ScoreTable({"run": {"recall at 1": [0.5, 0.7], "rank": None}, "chance": {"rank": [3]}})
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table.to_dict()))
    rows = provenance.evaluation_metrics(provenance.read_evaluation(str(path)), str(path), ())
    assert [(row["name"], row["values"]) for row in rows] == [
        ("recall at 1, run", [0.5, 0.7]), ("rank, chance", [3.0]),
    ]  # fmt: skip


@pytest.mark.parametrize("license", ["Apache 2.0", "cc by", "-x", "a\nb", "é"])
def test_a_license_must_be_an_identifier(license):
    with pytest.raises(
        ValueError, match=r"license must be an identifier such as 'apache-2.0' or 'other', got"
    ):
        provenance.describe_run("run", {}, evaluation=(), class_names=(), license=license)


BAD_EVALUATIONS = {
    "no JSON": ("{", "expected JSON in UTF-8"),
    "a list": ("[1]", "expected a JSON object"),
    "binary": (b"\xff\x00", "expected JSON in UTF-8"),
    "another file": ('{"phases": 1}', "holds no figures of an evaluation; expected what `tfsound evaluate`"),
    "no scores": ('{"by": "labels", "scores": {}}', "holds no figures of an evaluation"),
    "text for numbers": ('{"rows": [{"name": "a", "scores": {"b": {"values": ["1"]}}}]}', "holds no figures"),
    "a great number": (
        '{"rows": [{"name": "a", "scores": {"b": {"values": [1' + 400 * "0" + "]}}}]}", "holds no figures"
    ),
    "other classes": (
        '{"class_names": ["x"], "folds": [{"fold": "", "num_clips": 2, "mAP": 1, "mean_d_prime": 1, '
        '"chance_mAP": 1}]}', r"is about the classes \['x'\], the run has \['a', 'b'\]; name the evaluation",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_EVALUATIONS)
def test_a_file_that_is_no_evaluation_is_refused_with_its_name(case, tmp_path):
    content, message = BAD_EVALUATIONS[case]
    path = tmp_path / "some.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"some.json.*{message}"):
        provenance.describe_run("run", {}, evaluation=(str(path),), class_names=("a", "b"), license="")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.json"):
        provenance.describe_run(
            "run", {}, evaluation=(str(tmp_path / "missing.json"),), class_names=(), license=""
        )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ("by", "scores", "folds", "num_segments", "chance", "class_names", "rows", "spread")
ROWS = st.lists(
    st.fixed_dictionaries(
        {}, optional={name: JSON for name in ("name", "scores", "fold", "num_clips", "mAP", "mean_d_prime")}
    ),
    max_size=2,
)


@settings(max_examples=300, deadline=None)
@given(fields=st.fixed_dictionaries({}, optional={name: JSON | ROWS for name in FIELDS}))
def test_whatever_an_evaluation_holds_is_read_or_refused_in_words(fields):
    try:
        rows = provenance.evaluation_metrics(fields, "some.json", ())
    except ValueError as error:
        assert "some.json" in str(error)  # noqa: PT017 (either is right)
    else:
        assert rows
        assert all(math.isfinite(value) for row in rows for value in row["values"])
