"""Tests of tfsound.export.serving: what it writes is read by TensorFlow Serving's own messages."""

import os
import re
import shlex

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_serving.config import model_server_config_pb2

from tfsound import exported
from tfsound.export import serving


def make_model(folder, *versions):
    for version in versions:
        os.makedirs(folder / version)
        (folder / version / "saved_model.pb").write_bytes(b"")
    return str(folder)


def read_models(path):
    with open(path) as file:
        return text_format.Parse(
            file.read(), model_server_config_pb2.ModelServerConfig()
        ).model_config_list.config


def test_what_is_written_says_what_docker_mounts(tmp_path):
    birds = make_model(tmp_path / "birds", "1", "3")
    pumps = make_model(tmp_path / "with space", "7")
    found = serving.serve_config((birds, f"pumps={pumps}"), str(tmp_path / "config"), versions=2)
    first, second = read_models(found.models_config)
    assert (first.name, first.base_path, first.model_platform) == ("birds", "/models/birds", "tensorflow")
    assert (second.name, second.base_path) == ("pumps", "/models/pumps")
    assert second.model_version_policy.latest.num_versions == 2
    words = shlex.split(found.command)
    assert words[:3] == ["docker", "run", "--rm"]
    mounts = [words[place + 1] for place, word in enumerate(words) if word == "-v"]
    assert mounts == [
        f"{tmp_path}/config:/config:ro",
        f"{birds}:/models/birds:ro",
        f"{pumps}:/models/pumps:ro",
    ]
    assert "--model_config_file=/config/models.config" in words
    assert "--batching_parameters_file=/config/batching.config" in words


def test_batching_never_pads(tmp_path):
    model = make_model(tmp_path / "model", "1")
    found = serving.serve_config(
        (model,), str(tmp_path), max_batch_size=64, batch_timeout_ms=2.5, num_batch_threads=3
    )
    with open(found.batching_config) as file:
        lines = file.read().splitlines()
    assert lines == [
        "max_batch_size { value: 64 }",
        "batch_timeout_micros { value: 2500 }",
        "num_batch_threads { value: 3 }",
        "max_enqueued_batches { value: 12 }",
        "pad_variable_length_inputs: false",
    ]


def test_a_model_in_the_cloud_is_not_mounted(tmp_path):
    found = serving.serve_config(('cloud=gs://bucket/a "b"',), str(tmp_path))
    assert read_models(found.models_config)[0].base_path == 'gs://bucket/a "b"'
    assert "gs://" not in found.command


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20))
def test_any_name_is_served_or_refused_in_words(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("models")
    named = f"{name}=gs://bucket/{name}"
    if re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        (model,) = read_models(serving.serve_config((named,), str(folder)).models_config)
        assert (model.name, model.base_path) == (name, f"gs://bucket/{name}")
    else:
        with pytest.raises(ValueError, match="cannot be the name of a model"):
            serving.serve_config((named,), str(folder))


@pytest.mark.parametrize(
    ("models", "options", "error", "message"),
    [
        ((), {}, ValueError, "models is empty"),
        (("absent",), {}, exported.ModelError, "absent is no folder; expected"),
        (("a=m", "a=n"), {}, ValueError, r"two models are named 'a' \(m, n\)"),
        (("a b=m",), {}, ValueError, "'a b' cannot be the name of a model"),
        (("gs://x/m",), {"versions": 0}, ValueError, "versions must be 1 or more, got 0"),
        (("gs://x/m",), {"max_batch_size": -1}, ValueError, "max_batch_size must be 1 or more, got -1"),
        (("gs://x/m",), {"batch_timeout_ms": float("nan")}, ValueError, "0 or more, got 0 and nan"),
        (("gs://x/m",), {"num_batch_threads": -2}, ValueError, "0 or more, got -2"),
    ],
)
def test_bad_input_writes_nothing(tmp_path, models, options, error, message):
    output = tmp_path / "config"
    with pytest.raises(error, match=message):
        serving.serve_config(models, str(output), **options)
    assert not output.exists()
