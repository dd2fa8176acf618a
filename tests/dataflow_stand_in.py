"""DataflowRunner up to its edge: what Dataflow would get is made and staged, and the graph then runs here.

The job request is staged as a template, so that the runner sends none. What runs is the graph that was
staged, not the pipeline that it was made of; only its environment, a container, becomes this process.
"""

import json

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.dataflow import dataflow_runner
from apache_beam.runners.internal import names
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

FLAGS = ("--project=p", "--region=europe-west1", "--temp_location=gs://bucket/tmp", "--no_auth")
TEMPLATE = "gs://bucket/request"


class NotRunError(Exception):
    """Raised in place of running the graph."""


class StandInRunner(dataflow_runner.DataflowRunner):
    """Keeps the requests that it makes, their graphs, and the names of what was staged beside them."""

    store = None  # an `object_store.Store`
    runs = True
    requests: list[dict] = []  # noqa: RUF012
    graphs: list[beam_runner_api_pb2.Pipeline] = []  # noqa: RUF012

    def run_pipeline(self, pipeline, options, pipeline_proto=None):
        options.view_as(GoogleCloudOptions).template_location = TEMPLATE
        super().run_pipeline(pipeline, options, pipeline_proto)
        request = json.loads(self.store.objects[TEMPLATE.removeprefix("gs://")])
        staged = options.view_as(GoogleCloudOptions).staging_location.removeprefix("gs://")
        graph = beam_runner_api_pb2.Pipeline.FromString(
            self.store.objects[f"{staged}/{names.STAGED_PIPELINE_FILENAME}"]
        )
        self.requests.append(request)
        self.graphs.append(graph)
        if not self.runs:
            raise NotRunError
        runnable = beam_runner_api_pb2.Pipeline()
        runnable.CopyFrom(graph)
        for environment in runnable.components.environments.values():
            assert environment.urn == common_urns.environments.DOCKER.urn
            environment.Clear()
            environment.urn = python_urns.EMBEDDED_PYTHON
        return FnApiRunner().run_via_runner_api(runnable, PipelineOptions())


RUNNER = f"{StandInRunner.__module__}.{StandInRunner.__name__}"
