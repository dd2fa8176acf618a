"""The job `embed`: what the export itself gives, the same bytes from any workers, one record a clip."""

import dataclasses
import json
import os

import apache_beam as beam
import exported_models
import numpy as np
import pytest
import tensorflow as tf
from apache_beam.metrics import MetricsFilter
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_pipeline
from pyarrow import parquet as pq
from test_beam_examples import RATE, ROW, ElsewhereFileSystem, failures_of, shard_bytes, write_noise

from tfsound import datasets, examples, exported, media, mel
from tfsound.beam import embed as job
from tfsound.beam import embedded_shards, manifests
from tfsound.beam import output as job_output
from tfsound.beam.clips import ClipWindows

PARAMS = exported_models.PARAMS
DIM = exported_models.DIM
CLASSES = ("dog, barking", "cat", "Käuzchen")


@pytest.fixture(scope="module")
def encoder_path(tmp_path_factory):
    return exported_models.export(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def classifier_path(tmp_path_factory):
    return exported_models.export_classifier(tmp_path_factory.mktemp("classifier"), CLASSES)


def make(model, tmp_path, rows, *, output="set", **options) -> examples.DatasetInfo:
    datasets.write_manifest(str(tmp_path / "manifest.csv"), rows)
    options = {"num_workers": 1, "max_failure_fraction": 0.99} | options
    return job.embed(model, str(tmp_path / "manifest.csv"), str(tmp_path / output), **options)


def embeddings_of(path) -> dict[str, examples.ClipEmbedding]:
    return {clip.clip_id: clip for clip in examples.iter_embeddings(str(path))}


def served(model, path, *, channels=1, rate=RATE, **segment) -> dict[str, np.ndarray]:
    """What the export's `serving_default` gives for the whole clip."""
    waveform = media.read_audio(path, sample_rate=rate, num_channels=channels, **segment)
    loaded = tf.saved_model.load(model)
    outputs = loaded.signatures["serving_default"](waveform=tf.constant(waveform.T[None]))
    return {name: values.numpy()[0] for name, values in outputs.items()}


def assert_is_served(clip: examples.ClipEmbedding, expected: dict[str, np.ndarray]) -> None:
    found = {"embedding": clip.embedding, "window_embeddings": clip.window_embeddings}
    if len(clip.scores):
        found |= {"scores": clip.scores, "window_scores": clip.window_scores}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)


def test_records_hold_what_the_export_gives_for_whole_clips(classifier_path, tmp_path):
    mono = write_noise(tmp_path / "mono.wav", 1.2)
    stereo = write_noise(tmp_path / "stereo.flac", 3.5, rate=44_100, channels=2, seed=1)
    short = write_noise(tmp_path / "short.wav", 0.3, seed=2)
    info = make(
        classifier_path,
        tmp_path,
        [
            ROW("b", "mono", "mono.wav", labels=("dog", "cat"), fold="2", split="train"),
            ROW("a", "stereo", stereo),
            ROW("cut", "stereo", stereo, 0.5, 2.75, labels=("cat",), fold="1"),
            ROW("short", "short", short),
        ],
        num_shards=1,
        batch_size=3,
    )
    clips = embeddings_of(tmp_path / "set")
    assert list(clips) == ["a", "b", "cut", "short"]
    assert_is_served(clips["b"], served(classifier_path, mono))
    assert_is_served(clips["a"], served(classifier_path, stereo))
    assert_is_served(clips["cut"], served(classifier_path, stereo, start_seconds=0.5, end_seconds=2.75))
    assert_is_served(clips["short"], served(classifier_path, short))
    found = {
        name: (c.recording_id, c.uri, c.start_seconds, c.labels, c.fold, c.split, c.num_windows)
        for name, c in clips.items()
    }
    assert found == {
        "a": ("stereo", stereo, 0.0, (), "", "", 3),
        "b": ("mono", mono, 0.0, ("dog", "cat"), "2", "train", 1),
        "cut": ("stereo", stereo, 0.5, ("cat",), "1", "", 2),
        "short": ("short", short, 0.0, (), "", "", 1),
    }
    ends = [clips[name].end_seconds for name in ("a", "b", "cut", "short")]
    np.testing.assert_allclose(ends, [3.5, 1.2, 2.75, 0.3], atol=1e-6)
    np.testing.assert_allclose(clips["a"].window_start_seconds, [0.0, 0.96, 1.92], atol=1e-6)
    np.testing.assert_allclose(clips["cut"].window_start_seconds, [0.5, 1.46], atol=1e-6)
    assert info == examples.read_dataset_info(str(tmp_path / "set"), kind=examples.EMBEDDINGS)
    assert (info.mel_params, info.num_examples, info.num_clips, info.num_windows) == (PARAMS, 4, 4, 7)
    assert (info.label_names, info.folds) == (("cat", "dog"), ("", "1", "2"))
    assert info.parameters == {
        "model": classifier_path,
        "weights": exported.read_export(classifier_path).weights,
        "embedding_dim": DIM,
        "class_names": list(CLASSES),
        "window_embeddings": True,
        "batch_size": 3,
        "windows_per_block": 60,
    }
    assert info.command.startswith("tfsound embed ")
    assert str(info) == ("4 embedded clips (7 windows) in 1 files; 2 labels, 2 folds, 0 clips rejected")


def test_parquet_holds_the_same_records_unrounded(classifier_path, tmp_path):
    path = write_noise(tmp_path / "a.wav", 3.0)
    rows = [ROW("a", "r", path, 0.1, 2.9, labels=("x", "y")), ROW("b", "r", path)]
    info = make(classifier_path, tmp_path, rows, num_shards=1)
    (table,) = info.tables
    assert (table.name, table.num_examples) == ("embeddings-00000-of-00001.parquet", 2)
    assert table.num_bytes == os.path.getsize(tmp_path / "set" / table.name)
    found = pq.read_table(tmp_path / "set" / table.name)
    for row, clip in zip(found.to_pylist(), embeddings_of(tmp_path / "set").values(), strict=True):
        expected = dataclasses.asdict(clip) | {"labels": list(clip.labels)}
        assert list(row) == list(expected)
        for name, value in expected.items():
            if isinstance(value, (str, list, int)):
                assert row[name] == value
            else:
                np.testing.assert_allclose(row[name], value, rtol=1e-6)
                assert np.shape(row[name]) == np.shape(value)
    assert found["start_seconds"].to_pylist() == [0.1, 0.0]
    assert found["window_start_seconds"][0].as_py() == [0.1, 1.06]


@pytest.mark.parametrize("parquet", [True, False])
def test_windows_can_be_left_out(encoder_path, tmp_path, parquet):
    path = write_noise(tmp_path / "a.wav", 3.0)
    info = make(encoder_path, tmp_path, [ROW("a", "r", path)], window_embeddings=False, parquet=parquet)
    clip = embeddings_of(tmp_path / "set")["a"]
    np.testing.assert_allclose(clip.embedding, served(encoder_path, path)["embedding"], atol=1e-5)
    assert (clip.num_windows, clip.window_embeddings, clip.window_start_seconds) == (3, None, None)
    assert clip.scores.shape == (0,)
    assert len(info.tables) == parquet
    names = {"dataset_info.json", "failures.jsonl", info.shards[0].name} | {t.name for t in info.tables}
    assert set(os.listdir(tmp_path / "set")) == names
    for table in info.tables:
        columns = pq.read_schema(tmp_path / "set" / table.name).names
        assert columns[-2:] == ["num_windows", "embedding"]


def test_a_long_file_is_one_record_whatever_the_blocks_and_batches(encoder_path, tmp_path):
    path = write_noise(tmp_path / "long.wav", 20.3)
    rows = [ROW("long", "r", path), ROW("after", "r", path, 1.0, 3.0)]
    expected = served(encoder_path, path)
    sets = []
    for number, options in enumerate(
        [{"block_seconds": 1.0, "batch_size": 4}, {"block_seconds": 7.0, "batch_size": 64}]
    ):
        info = make(encoder_path, tmp_path, rows, output=f"set{number}", num_shards=1, **options)
        assert (info.num_examples, info.num_windows) == (2, 23)
        sets.append(embeddings_of(tmp_path / f"set{number}"))
        assert_is_served(sets[-1]["long"], expected)
        assert sets[-1]["long"].end_seconds == pytest.approx(20.3)
    np.testing.assert_allclose(sets[0]["after"].embedding, sets[1]["after"].embedding, atol=1e-6)


def test_a_block_is_all_that_is_held_of_a_file(tmp_path):
    path = write_noise(tmp_path / "long.wav", 12.0)
    windows = ClipWindows(ROW("long", "r", path, 1.0, 11.5), PARAMS, windows_per_block=4)
    blocks = list(windows)
    assert [len(block) for block in blocks] == [4, 4, 2]
    assert windows.end_seconds == pytest.approx(11.5)
    whole = mel.log_mel_windows(media.read_audio(path, start_seconds=1.0, end_seconds=11.5), PARAMS)
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-5)


def test_stereo_goes_to_a_model_of_stereo(tmp_path):
    params = mel.preset("audioset", num_channels=2)
    model = exported_models.export(tmp_path / "model", params)
    path = write_noise(tmp_path / "a.wav", 2.2, channels=2)
    info = make(str(tmp_path / "model"), tmp_path, [ROW("a", "r", path)])
    assert info.mel_params == params
    assert_is_served(embeddings_of(tmp_path / "set")["a"], served(model, path, channels=2))


def test_the_newest_version_of_a_folder_is_taken(tmp_path):
    exported_models.export(tmp_path / "model")
    newer = exported_models.export(tmp_path / "model", seed=7)
    path = write_noise(tmp_path / "a.wav", 1.0)
    info = make(f"{tmp_path}/model/", tmp_path, [ROW("a", "r", path)])
    assert info.parameters["model"] == newer == str(tmp_path / "model" / "2")
    assert_is_served(embeddings_of(tmp_path / "set")["a"], served(newer, path))


def test_manifest_and_files_may_be_on_any_beam_file_system(encoder_path, tmp_path):
    write_noise(tmp_path / "a.wav", 1.5)
    datasets.write_manifest(str(tmp_path / "m.csv"), [ROW("a", "a", "a.wav"), ROW("b", "b", "gone.wav")])
    job.embed(
        encoder_path, f"{ElsewhereFileSystem.scheme()}://{tmp_path}/m.csv", str(tmp_path / "set"),
        num_workers=1, max_failure_fraction=0.5,
    )  # fmt: skip
    clip = embeddings_of(tmp_path / "set")["a"]
    assert clip.uri == f"elsewhere://{tmp_path}/a.wav"
    assert_is_served(clip, served(encoder_path, tmp_path / "a.wav"))
    assert "gone.wav cannot be read" in failures_of(tmp_path / "set")["b"]


def test_model_and_output_may_be_on_any_file_system_of_tensorflow(encoder_path, tmp_path):
    """`file://` takes the way of every path with a scheme: file by file."""
    path = write_noise(tmp_path / "a.wav", 1.5)
    for folder, _, names in tf.io.gfile.walk(encoder_path):
        for name in names:
            source = os.path.join(folder, name)
            target = "ram://model/1" + source.removeprefix(encoder_path)
            tf.io.gfile.makedirs(os.path.dirname(target))
            tf.io.gfile.copy(source, target)
    rows = [ROW("a", "r", path), ROW("b", "r", path, 0.5)]
    datasets.write_manifest(str(tmp_path / "m.csv"), rows)
    output = f"file://{tmp_path}/set"
    info = job.embed("ram://model", str(tmp_path / "m.csv"), output, num_workers=1)
    assert info.parameters["model"] == "ram://model/1"
    found = embeddings_of(output)
    assert sorted(found) == ["a", "b"]
    assert_is_served(found["a"], served(encoder_path, path))
    assert not (tmp_path / "set.partial").exists()


@pytest.fixture(scope="module")
def many_clips(classifier_path, tmp_path_factory):
    """A folder with 12 clips, their manifest in order and reversed, and the set that one worker made."""
    folder = tmp_path_factory.mktemp("many")
    rows = [
        ROW(f"c{n}", f"r{n // 2}", write_noise(folder / f"{n}.wav", 1 + n / 2, seed=n), labels=(f"l{n % 3}",))
        for n in range(12)
    ] + [ROW("gone", "gone", "gone.wav")]
    datasets.write_manifest(str(folder / "reversed.csv"), rows[::-1])
    make(classifier_path, folder, rows, num_shards=5, batch_size=4, output="one")
    return folder


def table_bytes(path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.glob("*.parquet"))}


@pytest.mark.parametrize(
    ("manifest", "options"),
    [
        ("manifest", {"num_workers": 2}),
        ("manifest", {"num_workers": 2, "worker_mode": "processes"}),
        ("reversed", {"num_workers": 1}),
        ("manifest", {"num_workers": 1, "block_seconds": 2.0}),
    ],
)
def test_the_same_bytes_come_from_any_workers(classifier_path, many_clips, tmp_path, manifest, options):
    info = job.embed(
        classifier_path,
        str(many_clips / f"{manifest}.csv"),
        str(tmp_path / "set"),
        num_shards=5,
        batch_size=4,
        max_failure_fraction=0.5,
        **options,
    )
    one = examples.read_dataset_info(str(many_clips / "one"), kind=examples.EMBEDDINGS)
    assert len(one.shards) == len(one.tables) > 2
    assert shard_bytes(tmp_path / "set") == shard_bytes(many_clips / "one")
    assert table_bytes(tmp_path / "set") == table_bytes(many_clips / "one")
    assert (info.shards, info.label_names, info.num_windows) == (one.shards, one.label_names, one.num_windows)
    assert set(failures_of(tmp_path / "set")) == {"gone"}


def test_records_come_in_the_order_of_their_ids(classifier_path, many_clips, tmp_path):
    job.embed(
        classifier_path, str(many_clips / "manifest.csv"), str(tmp_path / "set"), num_shards=1, batch_size=4,
        num_workers=1, max_failure_fraction=0.5,
    )  # fmt: skip
    one, other = embeddings_of(many_clips / "one"), embeddings_of(tmp_path / "set")
    assert list(other) == sorted(other)
    assert sorted(one) == list(other)
    for name, clip in one.items():
        np.testing.assert_allclose(clip.window_embeddings, other[name].window_embeddings, atol=1e-6)


def test_the_model_is_loaded_once_for_all_threads(classifier_path, many_clips, tmp_path, monkeypatch):
    loaded = []

    class Counted(exported.LoadedModel):
        def __init__(self, export):
            loaded.append(export.path)
            super().__init__(export)

    monkeypatch.setattr(exported, "LoadedModel", Counted)
    job.embed(
        classifier_path, str(many_clips / "manifest.csv"), str(tmp_path / "set"), num_workers=2,
        max_failure_fraction=0.5,
    )  # fmt: skip
    assert loaded == [classifier_path]


def test_embed_clips_writes_shards_and_counts_windows(encoder_path, tmp_path):
    write_noise(tmp_path / "a.wav", 3.0)
    manifest = str(tmp_path / "m.csv")
    datasets.write_manifest(manifest, [ROW("a", "r", "a.wav", labels=("x",)), ROW("b", "r", "b.wav")])
    export = exported.read_export(encoder_path)
    with job_output.pending_output(str(tmp_path / "set"), overwrite=False) as pending:
        settings = job._Settings(pending.path, export, batch_size=2, windows_per_block=60, num_shards=1)
        writer = embedded_shards.ShardWriter(
            pending.path, 1, examples.EmbeddingSpec(DIM), PARAMS.context_seconds, False
        )
        pipeline = test_pipeline.TestPipeline(runner=FnApiRunner())
        pipeline | beam.Create([manifest]) | job.EmbedClips(settings, writer)
        result = pipeline.run()
        result.wait_until_finish()
        (summary,) = pending.take_summaries()
    counters = result.metrics().query(MetricsFilter().with_name("num_inferences"))["counters"]
    assert [counter.committed for counter in counters] == [3]
    (failure,) = summary.pop("failures")
    assert (failure["row"], failure["clip_id"]) == (3, "b")
    name = "embeddings-00000-of-00001.tfrecord"
    assert summary == {
        "num_rows": 2,
        "shard": {
            "name": name,
            "num_examples": 1,
            "num_bytes": os.path.getsize(tmp_path / "set.partial" / name),
        },
        "table": None,
        "num_windows": 3,
        "labels": ["x"],
        "folds": [""],
    }


def test_batches_of_a_shard_are_put_in_order():
    """Whatever order a runner gives them in; and rows of a clip that failed half-way are left out."""
    clip = embedded_shards.ClipOfShard(2, ("m", 4), ROW("c", "r", "u", 1.0), 4.0)
    contents = embedded_shards.Contents(2, 2, (clip,), ())
    rows = np.eye(4, dtype=np.float32)
    batches = [
        embedded_shards.EmbeddedBatch(0, 1, np.array([2, 2]), {"embedding": rows[2:]}, contents),
        embedded_shards.EmbeddedBatch(0, 0, np.array([1, 2]), {"embedding": rows[:2]}, None),
    ]
    writer = embedded_shards.ShardWriter("", 1, examples.EmbeddingSpec(4), 0.5, False)
    ((_, embedded),) = writer._embedded_clips(contents, batches)
    np.testing.assert_array_equal(embedded.window_embeddings, rows[1:])
    np.testing.assert_allclose(embedded.embedding, [0, 1 / 3, 1 / 3, 1 / 3])
    np.testing.assert_allclose(embedded.window_start_seconds, [1.0, 1.5, 2.0])


def test_a_runner_that_tears_a_shard_apart_is_found_out():
    settings = job._Settings("", None, batch_size=2, windows_per_block=60, num_shards=1)
    step = job._WriteShards(settings, None)
    step.start_bundle()
    step.process(embedded_shards.EmbeddedBatch(3, 0, np.array([0]), {}, None))
    with pytest.raises(job_output.JobError, match="tore shard 3 apart"):
        step.finish_bundle()


def test_run_is_the_function_from_a_command_line(classifier_path, many_clips, tmp_path):
    info = job.run(
        f"{classifier_path} {many_clips}/manifest.csv {tmp_path}/set --num-shards 5 --batch-size 4 "
        "--max-failure-fraction 0.5 --num-workers 1 --job_name=x".split()
    )
    assert info.num_examples == 12
    assert shard_bytes(tmp_path / "set") == shard_bytes(many_clips / "one")


def test_a_manifest_is_summed_up_with_all_that_it_says(tmp_path):
    path = tmp_path / "m.csv"
    digests = set()
    for label in ("x", "y"):
        datasets.write_manifest(str(path), [ROW("a", "r", "a.wav", labels=(label,))])
        summary = manifests.summarize([str(path)])
        assert summary == manifests.summarize([str(path)])
        assert summary.num_rows == 1
        digests.add(summary.digest)
    assert len(digests) == 2


def test_a_sidecar_of_embeddings_comes_back_as_it_was(encoder_path, tmp_path):
    info = make(encoder_path, tmp_path, [ROW("a", "r", write_noise(tmp_path / "a.wav", 1.0))])
    assert examples.DatasetInfo.from_json(info.to_json(), "here") == info
    fields = json.loads(info.to_json()) | {"tables": [{"name": "x"}]}
    with pytest.raises(examples.DatasetError, match="lacks or garbles a field"):
        examples.DatasetInfo.from_json(json.dumps(fields), "here")
    os.truncate(tmp_path / "set" / info.tables[0].name, 10)
    with pytest.raises(examples.DatasetError, match=r"\.parquet has 10 bytes, expected"):
        embeddings_of(tmp_path / "set")
