"""Workers on other machines: what they cannot reach is refused, and another tfsound at their start."""

import os
import sys

import object_store
import pytest
from apache_beam.options import pipeline_options
from test_beam_examples import ROW, make, write_noise

from tfsound import datasets
from tfsound.beam import embed, instances, manifests, pairs, running, triplets, worker_checks
from tfsound.beam import examples as examples_job
from tfsound.beam.output import JobError
from tfsound.version import __version__

DATAFLOW = ("DataflowRunner", "--project=p", "--region=r", "--temp_location=gs://b/t")


def options_of(runner, *flags):
    """Beam's options, whatever of the runner is installed."""
    if runner == "local":
        return running.beam_options(runner=runner, num_workers=0, worker_mode="threads", beam_flags=flags)
    return pipeline_options.PipelineOptions([f"--runner={runner}", *flags])


@pytest.mark.parametrize(
    ("runner", "reaches"),
    [
        (("local",), True),
        (("FnApiRunner",), True),
        (("PrismRunner",), True),
        (DATAFLOW, False),
        (("FlinkRunner",), True),  # it starts a cluster here
        (("FlinkRunner", "--flink_master=cluster:8081"), False),
        (("FlinkRunner", "--flink_master=cluster:8081", "--environment_type=LOOPBACK"), True),
        (("FlinkRunner", "--flink_master=cluster:8081", "--environment_type=DOCKER"), False),
        (("FlinkRunner", "--environment_type=DOCKER"), False),
        # Somebody else starts these: only they know what they reach, and say so.
        (("FlinkRunner", "--environment_type=EXTERNAL"), True),
        (("SparkRunner",), True),
        (("SparkRunner", "--spark_master_url=spark://cluster:7077"), False),
        (("PortableRunner", "--job_endpoint=cluster:8099"), False),
        (("PortableRunner", "--job_endpoint=localhost:8099", "--environment_type=LOOPBACK"), True),
        (("apache_beam.runners.dataflow.DataflowRunner", *DATAFLOW[1:]), False),
    ],
)
def test_who_reaches_the_files_of_this_machine(runner, reaches):
    options = options_of(*runner)
    worker_checks.require_reachable(options, inputs=("gs://b/m.csv", ""), output="gs://b/set")
    for where in ({"inputs": ("gs://b/m.csv", "m.csv")}, {"output": "out/set"}, {"output": "file:///set"}):
        if reaches:
            worker_checks.require_reachable(options, **where)
            continue
        with pytest.raises(
            JobError, match=r"is a path of this machine, which the workers of .* cannot reach"
        ):
            worker_checks.require_reachable(options, **where)


JOBS = {
    "examples": lambda options: examples_job.make_examples("m.csv", "set", **options),
    "embed": lambda options: embed.embed("model", "m.csv", "set", **options),
    "output": lambda options: examples_job.make_examples("gs://b/m.csv", "set", **options),
    "triplets": lambda options: triplets.sample_triplets("clips", "set", **options),
    "pairs": lambda options: pairs.sample_pairs("clips", "set", **options),
    "instances": lambda options: instances.assign_instances(("clips",), "set", **options),
}


@pytest.mark.parametrize("name", JOBS)
def test_jobs_refuse_before_any_work(tmp_path, monkeypatch, name):
    """Nothing that is named exists: it is not even looked for."""
    monkeypatch.chdir(tmp_path)
    message = (
        r"the (in|out)put .* is a path of this machine.*DataflowRunner cannot reach; name one that they "
    )
    with pytest.raises(JobError, match=message + r"can, such as gs://BUCKET/\w+"):
        JOBS[name]({"runner": "DataflowRunner", "beam_flags": DATAFLOW[1:]})
    assert os.listdir(tmp_path) == []


def test_rows_of_files_of_this_machine_are_refused(tmp_path, monkeypatch):
    row = ROW("b", "b", str(tmp_path / "b.wav"))
    datasets.write_manifest(str(tmp_path / "m.csv"), [ROW("a", "a", "gs://bucket/a.wav"), row])
    assert manifests.summarize([str(tmp_path / "m.csv")]).local_uri == row.uri
    with object_store.running(monkeypatch) as store:
        store.put_folder(tmp_path, "gs://bucket")
        with pytest.raises(JobError, match=r"the input .*b\.wav is a path of this machine"):
            examples_job.make_examples(
                "gs://bucket/m.csv", "gs://bucket/set", dry_run=True, runner="DataflowRunner",
                beam_flags=DATAFLOW[1:],
            )  # fmt: skip


def test_without_the_parts_of_google_cloud_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.cloud.dataflow_v1beta3", None)
    with pytest.raises(JobError, match=r"DataflowRunner is not installed .*: pip install 'tfsound\[gcp\]'"):
        worker_checks.require_reachable(options_of(*DATAFLOW))


@pytest.mark.parametrize(
    ("package", "found"),
    [
        ({"version.py": "__version__ = '0.0.9'"}, "tfsound 0.0.9"),
        ({"version.py": "raise ImportError"}, "no tfsound"),
    ],
)
def test_workers_with_another_tfsound_or_none_say_so(tmp_path, monkeypatch, package, found):
    """They are processes whose path begins with another package of this name."""
    other = tmp_path / "other" / "tfsound"
    other.mkdir(parents=True)
    for name, text in ({"__init__.py": ""} | package).items():
        (other / name).write_text(text)
    command = running._WORKER_COMMAND.replace("exec env", f"exec env PYTHONPATH={other.parent}", 1)
    monkeypatch.setattr(running, "_WORKER_COMMAND", command)
    monkeypatch.chdir(tmp_path)  # the folder that they are started in comes before any path
    write_noise(tmp_path / "a.wav", 0.5)
    with pytest.raises(JobError) as raised:
        make(tmp_path, [ROW("a", "a", "a.wav")], worker_mode="processes")
    assert str(raised.value).startswith(
        f"the workers have {found}, this process has {__version__}; give them this one: --sdk_container_image"
    )
    assert not (tmp_path / "set").exists()
    assert not (tmp_path / "set.partial").exists()


def test_a_worker_that_never_checked_says_it_in_the_same_words():
    text = "Traceback ...\nModuleNotFoundError: No module named 'tfsound' [while running 'ReadManifest']"
    assert running._cause(RuntimeError(text)) == worker_checks.NO_PACKAGE


def test_a_worker_that_does_not_reach_the_output_says_so(tmp_path):
    worker_checks.require_pending(str(tmp_path))
    with pytest.raises(JobError, match=r"the worker on .* does not find .*gone: it cannot reach this file"):
        worker_checks.require_pending(str(tmp_path / "gone"))
