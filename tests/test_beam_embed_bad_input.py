"""The job `embed` on bad input: models refused before any work, clips rejected while the others go on."""

import json
import os
import pathlib
import shutil

import exported_models
import numpy as np
import pytest
import soundfile
import tensorflow as tf
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_beam_embed import CLASSES, embeddings_of, make
from test_beam_examples import RATE, ROW, failures_of, write_noise

from tfsound import examples, exported
from tfsound.beam import embed as job
from tfsound.beam import output as job_output

FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return exported_models.export(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return exported_models.export_classifier(tmp_path_factory.mktemp("classifier"), CLASSES)


def test_what_an_export_says_of_itself(model, classifier):
    encoder = exported.read_export(os.path.dirname(model))
    assert (encoder.path, encoder.mel_params) == (model, exported_models.PARAMS)
    assert (encoder.embedding_dim, encoder.class_names) == (exported_models.DIM, ())
    assert exported.read_export(classifier).class_names == CLASSES
    assert encoder.weights
    assert encoder.weights != exported.read_export(classifier).weights
    assert exported.read_export(model + "/") == encoder


def test_versions_are_numbers_and_the_newest_has_a_graph(model, tmp_path):
    for name in ("9", "10"):
        shutil.copytree(model, tmp_path / name)
    for name in ("11", "notes", "tmp-12"):
        (tmp_path / name).mkdir()
    assert exported.find_version(str(tmp_path)) == str(tmp_path / "10")


def other_signature(folder, shape, names):
    """A SavedModel of another shape of windows, or of other outputs, in the folder of an export."""

    class Other(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, "log_mel")])
        def log_mel(self, log_mel):
            return {name: tf.reduce_mean(log_mel, axis=1) for name in names}

    other = Other()
    signatures = {"log_mel": other.log_mel, "serving_default": other.log_mel}
    tf.saved_model.save(other, str(folder / "other"), signatures=signatures)
    shutil.copytree(folder / "model" / "assets", folder / "other" / "assets", dirs_exist_ok=True)
    return str(folder / "other")


def missing(folder):
    return str(folder / "nothing here")


def empty(folder):
    (folder / "empty").mkdir()
    return str(folder / "empty")


def run_folder(folder):
    (folder / "run").mkdir()
    (folder / "run" / "encoder.json").write_text("{}")
    return str(folder / "run")


def without(name):
    def damage(folder):
        path = folder / "model" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return str(folder / "model")

    return damage


def holding(name, content):
    def damage(folder):
        (folder / "model" / name).write_bytes(content)
        return str(folder / "model")

    return damage


def no_signature(folder):
    module = tf.Module()
    tf.saved_model.save(module, str(folder / "plain"))
    shutil.copytree(folder / "model" / "assets", folder / "plain" / "assets", dirs_exist_ok=True)
    return str(folder / "plain")


BAD_MODELS = {
    "missing": (missing, "nothing here is no folder; expected a SavedModel that `tfsound export` made"),
    "empty": (empty, r"empty holds neither saved_model\.pb nor numbered versions with one"),
    "run": (run_folder, "run is a training run, not a SavedModel; export it first: tfsound export"),
    "no mel_params": (without("assets/mel_params.json"), r"lacks assets/mel_params\.json"),
    "other mel_params": (
        holding("assets/mel_params.json", b'{"a": 1}'),
        "mel parameters must have the fields",
    ),
    "garbled mel_params": (
        holding("assets/mel_params.json", b"\xff{"),
        "is damaged or no SavedModel of this schema",
    ),
    "no graph": (holding("saved_model.pb", b"\x00 no graph"), "is damaged or no SavedModel of this schema"),
    "empty graph": (holding("saved_model.pb", b""), "holds 0 graphs, expected 1"),
    "no variables": (without("variables"), "holds no variables; copy the whole folder"),
    "no signature": (no_signature, "has no signature 'log_mel'"),
    "other windows": (
        lambda folder: other_signature(folder, [None, 96, 32], ["embedding"]),
        r"log_mel takes \{'log_mel': \[-1, 96, 32\]\}, expected \[-1, 96, 64\]",
    ),
    "other outputs": (
        lambda folder: other_signature(folder, [None, 96, 64], ["vector"]),
        r"log_mel gives \{'vector': \[-1, 64\]\}, expected an embedding and 0 scores",
    ),
    "classes without scores": (
        holding("assets/labels.csv", b"index,name\n0,cat\n"),
        "expected an embedding and 1 scores",
    ),
    "garbled classes": (holding("assets/labels.csv", b"index,name\n1,cat\n"), "are not 0, 1, 2"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_wrong_model_is_refused_before_any_work(model, tmp_path, case):
    make_bad, message = BAD_MODELS[case]
    shutil.copytree(model, tmp_path / "model")
    bad = make_bad(tmp_path)
    with pytest.raises(exported.ModelError, match=message):
        make(bad, tmp_path, [ROW("a", "r", "a.wav")])
    assert not list(tmp_path.glob("set*"))


@pytest.mark.parametrize(
    "damage", [lambda path: os.truncate(path, 10), lambda path: tiny.flip_byte(path, 99)]
)
def test_damaged_weights_are_refused_before_any_work(model, tmp_path, damage):
    shutil.copytree(model, tmp_path / "model")
    (data,) = (tmp_path / "model" / "variables").glob("variables.data*")
    damage(data)
    with pytest.raises(exported.ModelError, match="is damaged or no SavedModel of this schema"):
        make(str(tmp_path / "model"), tmp_path, [ROW("a", "r", "a.wav")])
    assert not list(tmp_path.glob("set*"))


def test_a_model_that_vanishes_is_named_by_the_worker_that_loads_it(model, tmp_path, monkeypatch):
    shutil.copytree(model, tmp_path / "model")
    path = write_noise(tmp_path / "a.wav", 1.0)

    def read_export(path, original=exported.read_export):
        export = original(path)
        shutil.rmtree(path)
        return export

    monkeypatch.setattr(exported, "read_export", read_export)
    with pytest.raises(
        job_output.JobError, match=r"model cannot be loaded \(.*copy the export again"
    ) as raised:
        make(str(tmp_path / "model"), tmp_path, [ROW("a", "r", path)])
    assert "ModelError" not in str(raised.value)
    assert not list(tmp_path.glob("set*"))


@FEW
@given(data=st.data())
def test_a_mutated_export_is_read_or_refused(model, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(model, folder / "model")
    name = data.draw(st.sampled_from(["saved_model.pb", "assets/mel_params.json"]))
    path = pathlib.Path(folder, "model", name)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        export = exported.read_export(str(folder / "model"))
    except exported.ModelError:
        return
    assert export.embedding_dim > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size at least 1"),
        ({"block_seconds": 0.0}, "block_seconds must be positive and finite"),
        ({"block_seconds": float("nan")}, "block_seconds must be positive and finite"),
        ({"max_failure_fraction": 1.5}, r"max_failure_fraction in \[0, 1\]"),
        ({"num_shards": -1}, "num_shards at least 0"),
        ({"worker_mode": "fibres"}, "worker_mode must be one of"),
        ({"beam_flags": ("--no-such-flag",)}, "is no option of this job or of Apache Beam"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_done(model, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make(model, tmp_path, [ROW("a", "r", "a.wav")], **options)
    assert not list(tmp_path.glob("set*"))


def test_clips_that_cannot_be_used_are_listed_and_the_others_go_on(model, tmp_path):
    good = write_noise(tmp_path / "good.wav", 3.0)
    for name, value in (("nan", np.nan), ("inf", np.inf)):
        samples = np.random.default_rng(0).normal(0, 0.1, 3 * RATE)
        samples[2 * RATE] = value
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("this is no sound " * 100)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:9000])
    # Its frames are damaged half-way, when windows of it are in batches already.
    soundfile.write(tmp_path / "damaged.flac", np.random.default_rng(1).normal(0, 0.1, 20 * RATE), RATE)
    content = bytearray((tmp_path / "damaged.flac").read_bytes())
    half = len(content) // 2
    content[half : half + 4000] = bytes(4000)
    (tmp_path / "damaged.flac").write_bytes(content)
    rows = [ROW(name, name, f"{name}.wav") for name in ("good", "nan", "inf", "text", "cut", "gone")]
    rows += [ROW("damaged", "damaged", "damaged.flac"), ROW("zz", "good", good, 1.0, 2.0)]
    rows += [ROW("past", "good", good, 5.0, 6.0)]
    info = make(model, tmp_path, rows, num_shards=1, block_seconds=2.0, batch_size=4)
    assert sorted(embeddings_of(tmp_path / "set")) == ["good", "zz"]
    reasons = failures_of(tmp_path / "set")
    assert set(reasons) == {"nan", "inf", "text", "cut", "gone", "damaged", "past"}
    for name in ("nan", "inf"):
        assert "NaN, infinite or far beyond [-1, 1]" in reasons[name] or "finite" in reasons[name]
    assert "past the end" in reasons["past"]
    assert "no such file" in reasons["gone"]
    assert (info.num_clips, info.num_failures, info.num_windows) == (2, 7, 4)
    alone = make(model, tmp_path, [rows[0]], output="alone")
    assert alone.num_clips == 1
    found = [embeddings_of(tmp_path / name)["good"].window_embeddings for name in ("set", "alone")]
    np.testing.assert_allclose(*found, atol=1e-6)


def test_bad_rows_and_ids_that_occur_twice_are_listed(model, tmp_path):
    write_noise(tmp_path / "a.wav", 1.0)
    (tmp_path / "m.csv").write_text("clip_id,uri,end_seconds\na,a.wav,\na,a.wav,\nb,a.wav,-1\n")
    job.embed(model, str(tmp_path / "m.csv"), str(tmp_path / "set"), num_workers=1, max_failure_fraction=0.9)
    assert list(embeddings_of(tmp_path / "set")) == ["a"]
    with open(tmp_path / "set" / "failures.jsonl") as file:
        rows = {failure["row"]: failure["reason"] for failure in map(json.loads, file)}
    assert "stands in" in rows[3]
    assert "end_seconds" in rows[4]


def test_a_set_of_bad_clips_only_is_none(model, tmp_path):
    with pytest.raises(job_output.JobError, match="2 of 2 clips were rejected"):
        make(model, tmp_path, [ROW("a", "r", "a.wav"), ROW("b", "r", "b.wav")], max_failure_fraction=1.0)
    assert not (tmp_path / "set").exists()


# Records from elsewhere.


def clip_embedding(num_windows=2, num_classes=3):
    rng = np.random.default_rng(num_windows)

    def floats(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return examples.ClipEmbedding(
        "naïve\n", "r", "gs://b/日本.wav", 0.5, 2.5, ("x",), "1", "", num_windows, floats(4),
        floats(num_classes), np.arange(num_windows) * 0.5, floats(num_windows, 4),
        floats(num_windows, num_classes),
    )  # fmt: skip


def spec_of(num_classes=3):
    return examples.EmbeddingSpec(4, CLASSES[:num_classes])


@pytest.mark.parametrize("num_classes", [0, 3])
def test_a_record_comes_back_as_it_was(num_classes):
    clip = clip_embedding(num_classes=num_classes)
    found = examples.decode_embedding(examples.encode_embedding(clip), spec_of(num_classes))
    for name, value in vars(clip).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
    assert examples.encode_embedding(found) == examples.encode_embedding(clip)


def test_a_record_is_parsed_by_tensorflow_as_documented():
    clip = clip_embedding()
    parsed = tf.io.parse_single_example(
        examples.encode_embedding(clip),
        {
            "clip_id": tf.io.FixedLenFeature([], tf.string),
            "embedding": tf.io.FixedLenFeature([4], tf.float32),
            "scores": tf.io.FixedLenFeature([3], tf.float32),
            "window_embeddings": tf.io.FixedLenFeature([], tf.string),
        },
    )
    np.testing.assert_array_equal(parsed["embedding"], clip.embedding)
    windows = tf.reshape(tf.io.decode_raw(parsed["window_embeddings"], tf.float32), [-1, 4])
    np.testing.assert_array_equal(windows, clip.window_embeddings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedding": np.ones(3, np.float32)}, "found 3 numbers, expected 4"),
        ({"scores": np.ones(1, np.float32)}, "found 1 numbers, expected 3"),
        ({"num_windows": 3}, "found 2 numbers, expected 3"),
        ({"embedding": np.full(4, np.nan, np.float32)}, "numbers that are not finite"),
        ({"end_seconds": 0.1}, r"reaches from 0\.5 to 0\.1"),
        ({"window_embeddings": np.ones((2, 3), np.float32)}, "is no embedding of schema"),
    ],
)
def test_a_wrong_record_is_refused(change, message):
    fields = vars(clip_embedding()) | change
    with pytest.raises(examples.DatasetError, match=message):
        examples.decode_embedding(examples.encode_embedding(examples.ClipEmbedding(**fields)), spec_of())


@FEW
@given(data=st.data())
def test_a_mutated_record_is_read_or_refused(data):
    content = bytearray(examples.encode_embedding(clip_embedding()))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        clip = examples.decode_embedding(content, spec_of())
    except examples.DatasetError:
        return
    assert clip.embedding.shape == (4,)
    assert clip.window_embeddings.shape == (clip.num_windows, 4)


@pytest.mark.parametrize(
    "parameters", [{}, {"embedding_dim": "4", "class_names": [], "window_embeddings": True}]
)
def test_a_sidecar_without_its_parameters_is_refused(parameters):
    info = examples.DatasetInfo(examples.EMBEDDINGS, exported_models.PARAMS, (), 0, parameters=parameters)
    with pytest.raises(examples.DatasetError, match="lacks or garbles a parameter of embeddings"):
        examples.embedding_spec(info, "here")
