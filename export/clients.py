"""Clients of TensorFlow Serving, over REST and over gRPC: files or arrays in, embeddings out.

  client = RestClient("localhost:8501", "sounds")
  for answer in client.embed(["a.flac", "b.mp3"]):
      print(answer["embedding"].shape)

Files of any format are decoded and resampled here and sent as 16-bit PCM WAV to the signature `wav_bytes`,
one a request: the server makes batches. What the server refuses is a `ServingError` with its reason; what it
is too busy for, or a server that is being restarted, is tried again.

Source: https://www.tensorflow.org/tfx/serving/api_rest, and
https://github.com/tensorflow/serving/blob/master/tensorflow_serving/apis/prediction_service.proto
"""

import abc
import base64
import concurrent.futures
import http.client
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from tfsound import media

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.1, 5.0
# Too many requests; no answer from behind a proxy; the queue of batches is full.
_BUSY_CODES = (429, 502, 503)


class ServingError(RuntimeError):
    """What the server said, or that none answers; the message says which."""


class _BusyError(Exception):
    """The server could not take the request now; the same request may succeed later."""


class _Client(abc.ABC):
    """What both ways of asking share.

    Args:
      address: `host:port`.
      model: the name under which the model is served.
      version: which of its versions; the newest by default.
      timeout_seconds: so long an answer is waited for.
      num_tries: so often a busy or absent server is asked, at growing intervals.
    """

    def __init__(
        self,
        address: str,
        model: str,
        *,
        version: int | None = None,
        timeout_seconds: float = 60.0,
        num_tries: int = 6,
    ):
        if num_tries < 1 or not timeout_seconds > 0:
            raise ValueError(
                "num_tries must be 1 or more and timeout_seconds more than 0, got "
                f"{num_tries} and {timeout_seconds}."
            )
        self._address, self._model, self._version = address, model, version
        self._timeout_seconds, self._num_tries = timeout_seconds, num_tries

    @abc.abstractmethod
    def _ask(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One request. Raises _BusyError, ServingError."""

    def predict(
        self, inputs: Mapping[str, np.ndarray], *, signature: str = "serving_default"
    ) -> dict[str, np.ndarray]:
        """What a signature of the model gives.

        Args:
          inputs: arrays by the names of the signature's inputs, such as `waveform` float32 [batch, samples];
            strings as arrays of bytes.
          signature: its name.

        Returns:
          Arrays by the names of its outputs, such as `embedding` float32 [batch, d].

        Raises:
          ServingError: the server refused the request, for a reason that the message gives, or none answers.
        """
        arrays = {name: _array(value) for name, value in inputs.items()}
        return self._tried(lambda: self._ask(signature, arrays))

    def embed(
        self, paths: Iterable[str], *, num_parallel: int = 4, sample_rate: int = 16_000, num_channels: int = 1
    ) -> Iterator[dict[str, np.ndarray]]:
        """What the model gives for each file, in the order of the files.

        Args:
          paths: audio or video files, of any length and format.
          num_parallel: so many requests are under way at once, for the server to put together.
          sample_rate, num_channels: the model's.

        Yields:
          For each file `embedding` (d,), `window_embeddings` (windows, d), and of a classifier `scores`
          (classes,) and `window_scores` (windows, classes).

        Raises:
          media.MediaError: a file cannot be read; ServingError: see `predict`.
        """

        def embed_file(path: str) -> dict[str, np.ndarray]:
            sound = media.read_audio(path, sample_rate=sample_rate, num_channels=num_channels)
            inputs = {"wav_bytes": [media.encode_wav(sound, sample_rate)]}
            try:
                answer = self.predict(inputs, signature="wav_bytes")
            except ServingError as error:
                raise ServingError(f"{path}: {error}") from error
            return {name: value[0] for name, value in answer.items()}

        with concurrent.futures.ThreadPoolExecutor(num_parallel) as pool:
            under_way: list[concurrent.futures.Future] = []
            try:
                for path in paths:
                    under_way.append(pool.submit(embed_file, path))
                    # Twice as many as are asked for at once, so that files are read while answers come.
                    if len(under_way) == 2 * num_parallel:
                        yield under_way.pop(0).result()
                while under_way:
                    yield under_way.pop(0).result()
            finally:
                for future in under_way:
                    future.cancel()

    def _tried(self, ask: Callable[[], dict]) -> dict:
        """Asks until there is an answer, as often as is allowed."""
        wait = _FIRST_WAIT_SECONDS
        for last in [False] * (self._num_tries - 1) + [True]:
            try:
                return ask()
            except _BusyError as error:
                if last:
                    raise ServingError(
                        f"{self._address} did not take the request, tried {self._num_tries} times ({error}); "
                        "is TensorFlow Serving running there? `tfsound serve-config` tells how to start it."
                    ) from error
                # Clients that were refused together are not to come back together.
                time.sleep(wait * random.uniform(0.5, 1.0))
                wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    def _late(self) -> ServingError:
        return ServingError(
            f"{self._address} gave no answer within {self._timeout_seconds:g} s; send shorter clips or "
            "fewer at once, or raise timeout_seconds."
        )


class RestClient(_Client):
    """Asks over REST, port 8501; needs nothing beyond tfsound. See `_Client` for the arguments."""

    def _ask(self, signature, inputs):
        request = {
            "signature_name": signature,
            "inputs": {name: _to_json(array) for name, array in inputs.items()},
        }
        outputs = self._json(":predict", json.dumps(request).encode())["outputs"]
        if not isinstance(outputs, dict):  # the server leaves out the name where there is but one
            outputs = {self._output_names(signature)[0]: outputs}
        return {name: _from_json(value) for name, value in outputs.items()}

    def _output_names(self, signature: str) -> list[str]:
        signatures = self._json("/metadata")["metadata"]["signature_def"]["signature_def"]
        return sorted(signatures[signature]["outputs"])

    def _json(self, what: str, body: bytes | None = None) -> dict:
        version = "" if self._version is None else f"/versions/{self._version}"
        url = f"http://{self._address}/v1/models/{self._model}{version}{what}"
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_seconds) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            reason = _rest_reason(error)
            if error.code in _BUSY_CODES:
                raise _BusyError(reason) from error
            raise ServingError(f"{url}: {reason}") from error
        except TimeoutError as error:
            raise self._late() from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise self._late() from error
            raise _BusyError(str(error.reason)) from error
        except (ConnectionError, http.client.HTTPException) as error:  # it went away while it answered
            raise _BusyError(repr(error)) from error
        except json.JSONDecodeError as error:
            raise ServingError(
                f"{url}: the answer is no JSON, so not of TensorFlow Serving ({error})."
            ) from error


class GrpcClient(_Client):
    """Asks over gRPC, port 8500, without the cost of JSON; needs `pip install tfsound[serving]`.

    See `_Client` for the arguments.

    Raises:
      ImportError: tensorflow-serving-api is missing.
    """

    def __init__(self, address: str, model: str, **options):
        super().__init__(address, model, **options)
        try:
            import grpc
            from tensorflow_serving.apis import prediction_service_pb2_grpc
        except ImportError as error:
            raise ImportError(
                "GrpcClient needs tensorflow-serving-api: pip install tfsound[serving]"
            ) from error
        unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(address, options=unlimited)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def _ask(self, signature, inputs):
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name = self._model
        request.model_spec.signature_name = signature
        if self._version is not None:
            request.model_spec.version.value = self._version
        for name, array in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
        try:
            answer = self._stub.Predict(request, timeout=self._timeout_seconds)
        except grpc.RpcError as error:
            code, reason = error.code(), error.details()
            if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED):
                raise _BusyError(reason) from error
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise self._late() from error
            raise ServingError(f"{self._address}, model {self._model}: {code.name}: {reason}") from error
        return {name: tf.make_ndarray(value) for name, value in answer.outputs.items()}


def _array(value) -> np.ndarray:
    """As NumPy has it, but for strings: its own would lose the zeros at their ends."""
    array = np.asarray(value)
    return np.asarray(value, object) if array.dtype.kind == "S" else array


def _to_json(array: np.ndarray) -> list:
    """Nested lists; strings as the server wants them, in Base64."""
    if array.dtype.kind != "O":
        return array.tolist()
    if array.ndim == 0:
        return {"b64": base64.b64encode(array.item()).decode()}
    return [_to_json(np.asarray(item, object)) for item in array]


def _from_json(value) -> np.ndarray:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _rest_reason(error: urllib.error.HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        return f"{error.code}: {json.loads(text)['error']}"
    except (json.JSONDecodeError, KeyError, TypeError):
        return f"{error.code}: {text.strip() or error.reason}"
