"""Dataflow up to its edge: every job's graph is translated and staged, its request is small and asks for what
was asked for; `gs://` is read as a stream. Nothing is sent."""

import configparser
import contextlib
import io
import json
import os
import pathlib
import re
import shutil
import tarfile

import object_store
import pytest
import small_exports
from apache_beam.io.gcp import gcsio
from dataflow_stand_in import FLAGS, RUNNER, StandInRunner
from test_beam_examples import ROW, write_noise
from test_beam_window_index import PARAMS, make_clip, many_shards, window_bytes, write_clip_set
from test_packaging import copy_of_checkout

from tfsound import datasets, examples
from tfsound.beam import embed, instances, manifests, pairs, triplets, window_index
from tfsound.beam import examples as examples_job
from tfsound.beam.clips import local_copy

ROOT = pathlib.Path(__file__).parent.parent
# A graph holds pickled code, some kB a step; Dataflow takes requests of 10 MB at most.
MAX_REQUEST_BYTES, MAX_GRAPH_BYTES = 50_000, 100_000


@pytest.fixture
def store(monkeypatch):
    with object_store.running(monkeypatch) as store:
        monkeypatch.setattr(StandInRunner, "store", store)
        monkeypatch.setattr(StandInRunner, "requests", [])
        monkeypatch.setattr(StandInRunner, "graphs", [])
        yield store


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A manifest, clip examples and an export."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = [ROW(f"c{n}", f"r{n}", write_noise(folder / f"{n}.wav", 0.4, seed=n)) for n in range(3)]
    datasets.write_manifest(str(folder / "m.csv"), [*rows, ROW("gone", "r", "gone.wav")])
    write_clip_set(folder / "clips", *many_shards())
    small_exports.export(folder / "model", small_exports.TINY)
    return folder


JOBS = {
    "examples": lambda folder, output, **options: examples_job.make_examples(
        str(folder / "m.csv"), output, max_failure_fraction=0.9, **options
    ),
    "triplets": lambda folder, output, **options: triplets.sample_triplets(
        str(folder / "clips"), output, constraints=("proximity:2,mixing",), count=20, **options
    ),
    "pairs": lambda folder, output, **options: pairs.sample_pairs(
        str(folder / "clips"), output, max_time_gap_seconds=2.5, count=20, **options
    ),
    "instances": lambda folder, output, **options: instances.assign_instances(
        (str(folder / "clips"),), output, **options
    ),
    "embed": lambda folder, output, **options: embed.embed(
        str(folder / "model"), str(folder / "m.csv"), output, max_failure_fraction=0.9, **options
    ),
}  # fmt: skip
NUM_PIPELINES = {"triplets": 2, "pairs": 2}  # the index, then what is drawn from it


def contents(folder):
    """All that a job leaves, but for the sidecar's own command."""
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    info = json.loads(files.pop(examples.INFO_NAME))
    return files, {name: value for name, value in info.items() if name != "command"}


@pytest.mark.parametrize("name", JOBS)
def test_what_dataflow_would_run_makes_the_same_set(inputs, store, tmp_path, name):
    JOBS[name](inputs, str(tmp_path / "here"), num_workers=1)
    JOBS[name](inputs, str(tmp_path / "there"), runner=RUNNER, beam_flags=FLAGS)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert len(StandInRunner.requests) == NUM_PIPELINES.get(name, 1)
    for request, graph in zip(StandInRunner.requests, StandInRunner.graphs, strict=True):
        assert request["type"] == "JOB_TYPE_BATCH"
        (pool,) = request["environment"]["workerPools"]
        assert pool["kind"] == "harness"
        assert "beam_python3." in pool["sdkHarnessContainerImages"][0]["containerImage"]
        assert len(json.dumps(request)) < MAX_REQUEST_BYTES
        assert graph.ByteSize() < MAX_GRAPH_BYTES


def clip_set_of(folder, num_shards):
    """A set as the job `examples` leaves it of so many clips or more: a shard each here."""
    clips = [[make_clip(f"c{number:05d}", f"r{number:05d}", 2)] for number in range(num_shards)]
    write_clip_set(folder / "clips", *clips)


def staged_by(name, folder):
    """The bytes of each request and graph of a job."""
    StandInRunner.requests.clear()
    StandInRunner.graphs.clear()
    stopped = (
        contextlib.nullcontext() if StandInRunner.runs else pytest.raises(Exception, match="NotRunError")
    )
    with stopped:
        JOBS[name](folder, str(folder / "set"), runner=RUNNER, beam_flags=(*FLAGS, "--job_name=job"))
    sizes = [len(json.dumps(request)) for request in StandInRunner.requests]
    return sizes, [graph.ByteSize() for graph in StandInRunner.graphs]


@pytest.mark.parametrize("name", JOBS)
def test_the_request_is_as_small_for_a_hundred_thousand_rows_as_for_ten(
    inputs, store, tmp_path, monkeypatch, name
):
    """A manifest of 100,000 rows becomes 1024 shards of clips."""
    # Only of two pipelines must the first have run before there is a second.
    monkeypatch.setattr(StandInRunner, "runs", name in NUM_PIPELINES)
    found = []
    for num_rows in (10, 100_000):
        folder = tmp_path / f"{num_rows:06d}"
        folder.mkdir()
        if name in ("examples", "embed"):
            with open(folder / "m.csv", "w") as file:
                file.write("clip_id,uri\n")
                file.writelines(f"clip-{number},sounds/{number:08d}.wav\n" for number in range(num_rows))
            shutil.copytree(inputs / "model", folder / "model")
        else:
            clip_set_of(folder, manifests.default_num_shards(num_rows))
        found.append(staged_by(name, folder))
    (few_requests, few_graphs), (many_requests, many_graphs) = found
    assert len(few_requests) == NUM_PIPELINES.get(name, 1)
    # Numbers such as that of the shards are as many digits longer.
    assert many_requests == pytest.approx(few_requests, abs=50)
    assert many_graphs == pytest.approx(few_graphs, abs=50)


def test_machines_disks_scaling_and_images_are_those_of_the_flags(inputs, store, tmp_path, monkeypatch):
    monkeypatch.setattr(StandInRunner, "runs", False)
    flags = (
        *FLAGS, "--machine_type=n2-standard-16", "--disk_size_gb=200", "--num_workers=4",
        "--max_num_workers=64", "--autoscaling_algorithm=THROUGHPUT_BASED",
        "--sdk_container_image=registry.example/tfsound:1", "--number_of_worker_harness_threads=2",
        "--no_use_public_ips",
    )  # fmt: skip
    with pytest.raises(Exception, match="NotRunError"):
        JOBS["examples"](inputs, str(tmp_path / "set"), runner=RUNNER, beam_flags=flags)
    (pool,) = StandInRunner.requests[0]["environment"]["workerPools"]
    assert (pool["machineType"], pool["diskSizeGb"], pool["numWorkers"]) == ("n2-standard-16", 200, 4)
    assert pool["autoscalingSettings"] == {
        "maxNumWorkers": 64, "algorithm": "AUTOSCALING_ALGORITHM_BASIC"
    }  # fmt: skip
    (image,) = pool["sdkHarnessContainerImages"]
    assert image["containerImage"] == "registry.example/tfsound:1"
    assert pool["numThreadsPerWorker"] == 2
    assert pool["ipConfiguration"] == "WORKER_IP_PRIVATE"


def test_the_package_goes_along(inputs, store, tmp_path, monkeypatch):
    """`--setup_file` of a checkout is built and staged whole; `--extra_package` as it is."""
    checkout = copy_of_checkout(tmp_path / "checkout")
    extra = tmp_path / "tfsound-0.1.0.tar.gz"
    extra.write_bytes(b"a package")
    monkeypatch.setattr(StandInRunner, "runs", False)
    flags = (*FLAGS, f"--setup_file={checkout}/setup.py", f"--extra_package={extra}")
    with pytest.raises(Exception, match="NotRunError"):
        JOBS["examples"](inputs, str(tmp_path / "set"), runner=RUNNER, beam_flags=flags)
    staged = {os.path.basename(name): data for name, data in store.objects.items()}
    assert staged["tfsound-0.1.0.tar.gz"] == b"a package"
    with tarfile.open(fileobj=io.BytesIO(staged["workflow.tar.gz"])) as archive:
        packed = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"setup.cfg", "setup.py", "pyproject.toml", "beam/examples.py", "tfsound/mel.py"} <= packed


def test_recordings_and_manifests_are_read_from_the_store(inputs, store, tmp_path):
    """As they are on disk: the manifest as a stream, a recording through a temporary file."""
    store.put_folder(inputs, "gs://bucket/in")
    manifest = (inputs / "m.csv").read_text().replace(str(inputs), "gs://bucket/in")
    store.objects["bucket/in/m.csv"] = manifest.encode()
    examples_job.make_examples(
        "gs://bucket/in/m.csv", str(tmp_path / "set"), max_failure_fraction=0.9, num_workers=1
    )
    JOBS["examples"](inputs, str(tmp_path / "here"), num_workers=1)
    files, info = contents(tmp_path / "set")
    expected, expected_info = contents(tmp_path / "here")
    assert info == expected_info
    assert files.keys() == expected.keys()
    assert all(files[name] == expected[name] for name in files if name.endswith(".tfrecord"))
    (failure,) = map(json.loads, files["failures.jsonl"].splitlines())
    assert re.match(
        r"gs://bucket/in/gone\.wav cannot be read \(.*\); check that it exists", failure["reason"]
    )


def test_a_manifest_that_the_store_does_not_have_is_named(store, tmp_path):
    with pytest.raises(
        datasets.ManifestError, match=r"gs://bucket/m\.csv: cannot be read \(.*404.*check the path"
    ):
        examples_job.make_examples("gs://bucket/m.csv", str(tmp_path / "set"))


def test_a_long_recording_is_never_in_memory_as_a_whole(store, monkeypatch):
    reader = gcsio.BeamBlobReader
    monkeypatch.setattr(gcsio, "BeamBlobReader", lambda blob, **options: reader(blob, chunk_size=1 << 16))
    store.objects["bucket/long.wav"] = os.urandom(5_000_000)
    with local_copy("gs://bucket/long.wav") as path:
        assert pathlib.Path(path).read_bytes() == store.objects["bucket/long.wav"]
        assert path.endswith(".wav")
    assert not os.path.exists(path)
    assert max(size for _, size in store.downloads) <= (1 << 20) + 1


def test_a_window_costs_what_a_window_holds(store, tmp_path):
    """Beam's own reader would fetch 16 MB for each."""
    clips = [make_clip(f"c{number}", "r", 8) for number in range(8)]
    info = write_clip_set(tmp_path / "clips", clips)
    store.put_folder(tmp_path / "clips", "gs://bucket/clips")
    data = (tmp_path / "clips" / info.shards[0].name).read_bytes()
    reader = window_index.WindowReader([f"gs://bucket/clips/{info.shards[0].name}"], PARAMS)
    wanted = [(clips[5], 3), (clips[0], 7), (clips[6], 1)]
    for clip, window in wanted:
        expected = window_bytes(clip, window)
        assert reader._read(0, data.index(expected), len(expected)) == expected
    assert len(store.downloads) == len(wanted)
    assert sum(size for _, size in store.downloads) < 2 * sum(len(window_bytes(*one)) for one in wanted)


def test_the_containers_pins_are_within_what_the_package_asks_for():
    """And of every package that a worker imports there is one."""
    from packaging import requirements, version

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].split("\n") + setup["options.extras_require"]["gcp"].split(
        "\n"
    )
    required = [requirements.Requirement(line) for line in lines if line.strip()]
    text = (ROOT / "beam" / "worker.Dockerfile").read_text()
    pins = dict(re.findall(r"^\s+'?([\w-]+)(?:\[[\w,]+\])?==([\w.]+)'? \\$", text, re.MULTILINE))
    for requirement in required:
        assert version.Version(pins[requirement.name]) in requirement.specifier, requirement
    beam_of_image = re.search(r"^FROM apache/beam_python\$\{PYTHON\}_sdk:([\d.]+)$", text, re.MULTILINE)[1]
    assert beam_of_image == pins["apache-beam"]
