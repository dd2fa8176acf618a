"""Tests of the model card: its front matter is YAML, its code runs, and it says what is known and no more."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf
import yaml
from classifier_sets import NAMES, clips, train, whole_run
from coincidence_sets import image_run, pairs
from served import read_provenance, small_encoder

from tfsound import evaluation, mel, training
from tfsound.export import saved_model

__all__ = ["clips", "image_run", "pairs", "whole_run"]  # fixtures
pytestmark = pytest.mark.usefixtures("tiny_encoder")


def read_card(path):
    """The front matter of an export's card, and {title of a section: its text}."""
    with open(os.path.join(path, "README.md"), encoding="utf-8") as file:
        _, front_matter, text = file.read().split("---\n", 2)
    head, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    titles = {section.split("\n", 1)[0]: section.split("\n", 1)[1].strip() for section in sections}
    return yaml.safe_load(front_matter), {"": head.strip()} | titles


def table_of(text):
    """The cells of the rows of a Markdown table, without its header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


@pytest.fixture(scope="module")
def classifier_run(clips, tmp_path_factory):
    """A run that measures itself on clips that it does not learn from, and their evaluations."""
    folder = tmp_path_factory.mktemp("runs")
    run = str(folder / "run")
    train(clips, run, measure_folds=("2",), num_steps=40, steps_per_checkpoint=20)
    evaluation.evaluate_classifier(clips, run, str(folder / "of classes"), folds=("2",))
    evaluation.evaluate(clips, run, str(folder / "of sounds"), folds=("1", "2"))
    files = (folder / "of classes" / "classification.json", folder / "of sounds" / "evaluation.json")
    return run, tuple(map(str, files))


@pytest.fixture(scope="module")
def classifier_export(classifier_run, tmp_path_factory):
    run, files = classifier_run
    output = str(tmp_path_factory.mktemp("model"))
    return saved_model.export(run, output, evaluation=files, license="cc-by-4.0")


def test_front_matter_of_a_classifier(classifier_export):
    fields, _ = read_card(classifier_export.path)
    assert fields == {
        "license": "cc-by-4.0",
        "library_name": "tensorflow",
        "pipeline_tag": "audio-classification",
        "tags": ["tfsound", "tensorflow", "saved-model", "audio", "embeddings"],
        "metrics": [
            "accuracy", "mAP", "mean d'", "mAP, chance", "query-by-example mAP, log mel (baseline)",
            "query-by-example mAP, learned embedding", "query-by-example mAP, chance",
        ],
    }  # fmt: skip


def test_signatures_are_those_of_the_graph(classifier_export):
    _, sections = read_card(classifier_export.path)
    found = {}
    for signature, direction, name, shape, meaning in table_of(sections["Signatures"]):
        assert meaning
        dtype, sizes = re.fullmatch(r"(\w+) \[(.*)\]", shape).groups()
        found[signature.strip("`"), direction, name.strip("`")] = (
            dtype, [int(size) if size.isdigit() else None for size in sizes.split(", ")],
        )  # fmt: skip
    expected = {}
    for name, signature in tf.saved_model.load(classifier_export.path).signatures.items():
        sides = {"in": signature.structured_input_signature[1], "out": signature.structured_outputs}
        for side, tensors in sides.items():
            expected |= {
                (name, side, tensor): (spec.dtype.name, spec.shape.as_list())
                for tensor, spec in tensors.items()
            }
    assert found == expected


def test_the_front_end_and_the_data_are_said(classifier_export, classifier_run, clips):
    _, sections = read_card(classifier_export.path)
    assert dict(table_of(sections["Front end"])) == {
        "sample rate": "16000 Hz, mono",
        "analysis window": "25 ms, hann",
        "hop": "10 ms",
        "FFT": "512 samples, magnitudes",
        "bins": "8 mel bands from 125 to 7500 Hz",
        "logarithm": "ln(energy + 0.01)",
        "context window": "8 frames, one every 0.08 s",
    }
    assert f"tfsound train-classifier {clips} {classifier_run[0]} --encoder tiny" in sections["Training"]
    assert f'"clips": "{clips}"' in sections["Training"]
    assert "1520 samples" in sections["Limits"]
    assert "16-bit PCM" in sections["Limits"]
    assert f"tensorflow {tf.__version__}" in sections["Export"]
    assert f"{len(NAMES)} classes; `assets/labels.csv`" in sections[""]
    assert "license" not in sections[""]


def test_metrics_are_those_of_the_run_and_of_the_evaluations(classifier_export, classifier_run, clips):
    run, files = classifier_run
    _, sections = read_card(classifier_export.path)
    found = {name: (value, on) for name, value, on in table_of(sections["Metrics"])}
    last = training.read_log(f"{run}/log.csv")[-1]
    assert found["loss"] == (f"{last['loss']:.3f} (n=1)", "training, mean of the last interval")
    assert found["accuracy"] == (f"{last['accuracy']:.3f} (n=1)", "clips of fold 2, not learned from")
    of_classes = evaluation.evaluate_classifier(clips, run, folds=("2",))
    value = f"{of_classes.mean_average_precisions[0]:.3f} (n=1)"
    assert found["mAP"] == (value, "15 clips, fold 2 (classification.json)")
    of_sounds = evaluation.evaluate(clips, run, folds=("1", "2"))
    value, on = found["query-by-example mAP, learned embedding"]
    assert value.startswith(f"{sum(of_sounds.scores['learned embedding']) / 2:.3f} ± ")
    assert on == "30 segments by labels, folds 1, 2 (evaluation.json)"
    provenance = read_provenance(classifier_export.path)
    assert set(provenance["evaluation"]) == set(map(os.path.basename, files))
    assert {row["name"] for row in provenance["metrics"]} == set(found)


def test_what_is_not_known_is_not_said(tmp_path):
    path = saved_model.save(small_encoder(), mel.MelParams(), str(tmp_path), provenance={}).path
    fields, sections = read_card(path)
    assert set(sections) == {"", "Use", "Signatures", "Front end", "Limits", "Export"}
    assert set(fields) == {"library_name", "pipeline_tag", "tags"}
    assert "named no license" in sections[""]


def test_other_provenance_is_shown_as_it_is(tmp_path):
    provenance = {"notebook": "a | b\n```", "metrics": {"mAP": 0.5}, "training": "by hand", "license": ""}
    path = saved_model.save(small_encoder(), mel.MelParams(), str(tmp_path), provenance=provenance).path
    _, sections = read_card(path)
    assert '"notebook": "a | b\\n```"' in sections["Training"]
    assert '"mAP": 0.5' in sections["Training"]
    assert "Metrics" not in sections


def run_code_of(path):
    """Runs the code of a card, in its folder and without tfsound; what it prints."""
    with open(os.path.join(path, "README.md"), encoding="utf-8") as file:
        (code,) = re.findall(r"^```python\n(.*?)^```", file.read(), re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if "model" in line or "print" in line]) == 3
    code = "import sys\nsys.modules['tfsound'] = None\n" + code
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=path, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["classifier", "image", "stereo"])
def test_the_code_of_the_card_runs(kind, classifier_export, image_run, tmp_path):
    if kind == "classifier":
        # Wherever the folder is copied to.
        path = shutil.copytree(classifier_export.path, tmp_path / "copy")
        shape = (1, 3)
    elif kind == "image":
        path, shape = saved_model.export(image_run, str(tmp_path), modality="image").path, (1, 6)
        fields, sections = read_card(path)
        assert fields["pipeline_tag"] == "image-feature-extraction"
        assert "Front end" not in sections
        assert sections[""].startswith(
            "# Image embedding by tfsound\n\nA TensorFlow SavedModel of the network `tiny`"
        )
    else:
        params = mel.preset("esresnet", context_seconds=0.2, num_channels=2)
        encoder = small_encoder(shape=params.window_shape)
        path, shape = saved_model.save(encoder, params, str(tmp_path), provenance={}).path, (1, 3)
    assert f"shape={shape}" in run_code_of(path)
