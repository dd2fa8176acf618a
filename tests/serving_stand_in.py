"""Stands in for TensorFlow Serving, whose program is not to be had from PyPI: its protocols over an export.

The messages are its own (tensorflow-serving-api), the servers gRPC's and Python's, the model is run by
TensorFlow. As there: the newest numbered folder with a `saved_model.pb` is served, and polled for; an
unknown model, version or signature is NOT_FOUND or INVALID_ARGUMENT; what TensorFlow refuses reaches the
client with its message; warm-up requests are replayed before a version is served; over REST a single output
loses its name. Not as there: requests are not put together to batches, one version is served at a time, and
the text of errors of the server itself is not word for word the same.
"""

import base64
import concurrent.futures
import contextlib
import http.server
import json
import os
import re
import threading

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)

_HTTP_CODES = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404, "UNAVAILABLE": 503, "INTERNAL": 500}


class RefusalError(Exception):
    """A gRPC status code by its name, and a message."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code, self.message = code, message


class ServedModel:
    """The newest version in a model's folder, as TF Serving looks for it.

    `busy` is how many of the next requests are refused as those are for which the queue has no room.
    """

    def __init__(self, name, folder):
        self.name, self._folder = name, folder
        self.version, self._loaded = None, None
        self.busy = 0
        self._lock = threading.Lock()
        self.poll()

    def poll(self):
        """Loads a version that is newer than the served one, and replays its warm-up requests."""
        found = [
            int(name)
            for name in os.listdir(self._folder)
            if name.isdigit() and os.path.exists(os.path.join(self._folder, name, "saved_model.pb"))
        ]
        if found and max(found) != self.version:
            path = os.path.join(self._folder, str(max(found)))
            loaded = tf.saved_model.load(path)
            for request in warm_up_requests(path):
                _run(loaded, request)
            self.version, self._loaded = max(found), loaded

    def predict(self, request):
        """PredictRequest -> PredictResponse. Raises RefusalError."""
        self._check(request.model_spec)
        answer = predict_pb2.PredictResponse()
        for name, value in _run(self._loaded, request).items():
            answer.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        answer.model_spec.CopyFrom(request.model_spec)
        answer.model_spec.version.value = self.version
        return answer

    def metadata(self, request):
        """GetModelMetadataRequest -> GetModelMetadataResponse. Raises RefusalError."""
        self._check(request.model_spec)
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, function in self._loaded.signatures.items():
            for output in function.structured_outputs:
                signatures.signature_def[name].outputs[output].name = output
        answer.metadata["signature_def"].Pack(signatures)
        return answer

    def dtypes(self, signature):
        """The types of a signature's inputs, which TF Serving makes of JSON's numbers."""
        specs = self._signature(signature).structured_input_signature[1]
        return {name: spec.dtype.as_numpy_dtype for name, spec in specs.items()}

    def _signature(self, name):
        return _signature(self._loaded, name)

    def _check(self, spec):
        with self._lock:
            if self.busy:
                self.busy -= 1
                raise RefusalError(
                    "UNAVAILABLE", "The batch scheduling queue to which this task was submitted is full"
                )
        if spec.name != self.name:
            raise RefusalError("NOT_FOUND", f"Servable not found for request: Latest({spec.name})")
        if spec.HasField("version") and spec.version.value != self.version:
            raise RefusalError(
                "NOT_FOUND", f"Servable not found for request: Specific({spec.name}, {spec.version.value})"
            )


def warm_up_requests(path):
    """The requests that a version brings along for the server to run when it loads it."""
    file = os.path.join(path, "assets.extra", "tf_serving_warmup_requests")
    if not os.path.exists(file):
        return []
    logs = [prediction_log_pb2.PredictionLog.FromString(raw.numpy()) for raw in tf.data.TFRecordDataset(file)]
    return [log.predict_log.request for log in logs]


def _signature(loaded, name):
    if name not in loaded.signatures:
        raise RefusalError("INVALID_ARGUMENT", f'Serving signature name: "{name}" not found in signature def')
    return loaded.signatures[name]


def _run(loaded, request):
    signature = _signature(loaded, request.model_spec.signature_name or "serving_default")
    specs = signature.structured_input_signature[1]
    if set(request.inputs) != set(specs):
        raise RefusalError(
            "INVALID_ARGUMENT",
            f"input size does not match signature: {sorted(request.inputs)} sent, {sorted(specs)} required",
        )
    inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
    for name, value in inputs.items():
        if value.dtype != specs[name].dtype or not specs[name].shape.is_compatible_with(value.shape):
            raise RefusalError(
                "INVALID_ARGUMENT",
                f"input {name} must be {specs[name].dtype.name} {specs[name].shape}, "
                f"got {value.dtype.name} {value.shape}",
            )
    try:
        return {name: value.numpy() for name, value in signature(**inputs).items()}
    except tf.errors.OpError as error:
        raise RefusalError("INVALID_ARGUMENT", error.message) from error


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, served):
        self._served = served

    def Predict(self, request, context):  # noqa: N802  (the protocol's name)
        return self._answer(self._served.predict, request, context)

    def GetModelMetadata(self, request, context):  # noqa: N802
        return self._answer(self._served.metadata, request, context)

    def _answer(self, function, request, context):
        try:
            return function(request)
        except RefusalError as refusal:
            context.abort(grpc.StatusCode[refusal.code], refusal.message)


@contextlib.contextmanager
def grpc_server(served, port=0):
    """Serves over gRPC on this machine; gives the address."""
    server = grpc.server(
        concurrent.futures.ThreadPoolExecutor(4),
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_PredictionService(served), server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@contextlib.contextmanager
def rest_server(served, port=0):
    """Serves over REST on this machine; gives the address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self._respond(lambda: _rest_metadata(served, self.path))

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._respond(lambda: _rest_predict(served, self.path, body))

        def _respond(self, make):
            try:
                code, answer = 200, make()
            except RefusalError as refusal:
                code, answer = _HTTP_CODES[refusal.code], {"error": refusal.message}
            data = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format, *values):
            """Tests print what matters."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def _set_model(spec, path, ending):
    found = re.fullmatch(rf"/v1/models/([^/:]+)(?:/versions/(\d+))?{ending}", path)
    if not found:
        raise RefusalError("NOT_FOUND", f"Malformed request: {path}")
    spec.name = found[1]
    if found[2]:
        spec.version.value = int(found[2])


def _rest_metadata(served, path):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    _set_model(request.model_spec, path, "/metadata")
    answer = served.metadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    answer.metadata["signature_def"].Unpack(signatures)
    fields = json_format.MessageToDict(signatures, preserving_proto_field_name=True)
    return {"model_spec": {"name": served.name}, "metadata": {"signature_def": fields}}


def _rest_predict(served, path, body):
    request = predict_pb2.PredictRequest()
    _set_model(request.model_spec, path, ":predict")
    try:
        fields = json.loads(body)
    except json.JSONDecodeError as error:
        raise RefusalError("INVALID_ARGUMENT", f"JSON Parse error: {error}") from error
    request.model_spec.signature_name = fields.get("signature_name", "serving_default")
    dtypes = served.dtypes(request.model_spec.signature_name)
    for name, value in fields["inputs"].items():
        if name not in dtypes:
            raise RefusalError("INVALID_ARGUMENT", f"JSON object: does not have named input: {name}")
        try:
            array = np.asarray(_decoded(value), dtypes[name])
        except (ValueError, TypeError) as error:
            raise RefusalError("INVALID_ARGUMENT", f"JSON Value of input {name}: {error}") from error
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    answer = served.predict(request)
    outputs = {name: tf.make_ndarray(value).tolist() for name, value in answer.outputs.items()}
    return {"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))}


def _decoded(value):
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return [_decoded(item) for item in value] if isinstance(value, list) else value
