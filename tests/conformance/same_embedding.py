"""One trained model in every form it is used in, on the same real clips: how far is each from the live model?

`make same-embedding RUN=... MANIFEST=...`: twenty clips spread over a manifest of labelled files on this
machine, all of one length, which the run has not learned from. Prints the tables of
`notebooks/reports/export.md`.
"""

import os
import pathlib
import sys
import tempfile

import numpy as np

from tests import c_program, served, serving_stand_in
from tests.benchmarks.timing import table
from tfsound import datasets, evaluation, exported, media, mel
from tfsound.beam.embed import embed
from tfsound.examples import iter_embeddings
from tfsound.export import clients, devices, hear, litert, onnx, saved_model
from tfsound.export.streaming import StreamingEmbedder

NUM_CLIPS = 20


def main(run: str, manifest: str) -> None:
    rows = datasets.read_manifest(manifest)
    chosen = [rows[index] for index in np.linspace(0, len(rows) - 1, NUM_CLIPS).round().astype(int)]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        version = saved_model.export(run, str(folder / "sounds")).path
        params = exported.read_export(version).mel_params
        waveforms = np.stack([read(row, params) for row in chosen])
        live = live_embeddings(run, waveforms)
        print(
            f"\n{NUM_CLIPS} clips of {waveforms.shape[1] / params.sample_rate:.3f} s, d = {live.shape[1]}\n"
        )
        found = {
            "SavedModel, a process without tfsound": in_a_fresh_process(version, waveforms, folder),
            "SavedModel, a C program": np.stack(
                [in_a_c_program(version, waveform) for waveform in waveforms]
            ),
            **by_clients(str(folder / "sounds"), waveforms, params),
            "stream, chunks of 0.1 s": np.stack([streamed(version, waveform) for waveform in waveforms]),
            "the job embed": embedded(version, waveforms, folder),
            "HEAR": hear.get_scene_embeddings(waveforms, hear.load_model(version)).numpy(),
        }
        files = device_files(run, manifest, waveforms.shape[1] / params.sample_rate, folder)
        found |= {form: run_file(run_model, waveforms) for form, (run_model, _) in files.items()}
        lines = [[form, *differences(live, values)] for form, values in found.items()]
        print(table(["form", "largest difference", "least cosine"], lines))
        waveforms = np.stack([read(row, params) for row in rows])
        forms = {"live": (live_embeddings(run, waveforms), "-")}
        for form, (run_model, num_bytes) in files.items():
            forms[form] = (run_file(run_model, waveforms), f"{num_bytes / 1e6:.2f} MB")
        lines = [[form, size, f"{retrieval(rows, values):.4f}"] for form, (values, size) in forms.items()]
        print(f"\nRetrieval among all {len(rows)} clips\n")
        print(table(["form", "size", evaluation.QUERY_BY_EXAMPLE], lines))


def read(row: datasets.ManifestRow, params: mel.MelParams) -> np.ndarray:
    """As 16 bits hold it, so that a WAV file is the same sound."""
    waveform = media.read_audio(
        row.uri, sample_rate=params.sample_rate, start_seconds=row.start_seconds or 0.0,
        end_seconds=row.end_seconds,
    )  # fmt: skip
    return np.clip(np.round(waveform * 32768), -32768, 32767).astype(np.float32) / 32768


def live_embeddings(run: str, waveforms: np.ndarray) -> np.ndarray:
    model, params, _ = saved_model.load_trained(run)
    windows = [mel.log_mel_windows(waveform, params) for waveform in waveforms]
    return np.stack([np.mean(model(of_clip, training=False), axis=0) for of_clip in windows])


def in_a_fresh_process(version: str, waveforms: np.ndarray, folder: pathlib.Path) -> np.ndarray:
    answers = served.answers_of(version, {"serving_default": {"clips": waveforms}}, folder)
    return answers["serving_default", "clips"]["embedding"]


def in_a_c_program(version: str, waveform: np.ndarray) -> np.ndarray:
    return c_program.run(version, "serving_default", waveform[None], "embedding")


def by_clients(model: str, waveforms: np.ndarray, params: mel.MelParams) -> dict[str, np.ndarray]:
    """Over REST and gRPC, waveforms as they are and as WAV files, from what stands in for TF Serving."""
    server = serving_stand_in.ServedModel("sounds", model)
    wavs = [media.encode_wav(waveform, params.sample_rate) for waveform in waveforms]
    found = {}
    for kind, serve, client_of in (
        ("gRPC", serving_stand_in.grpc_server, clients.GrpcClient),
        ("REST", serving_stand_in.rest_server, clients.RestClient),
    ):
        with serve(server) as address:
            client = client_of(address, "sounds")
            found[f"{kind}, waveforms"] = client.predict({"waveform": waveforms})["embedding"]
            found[f"{kind}, WAV files"] = client.predict({"wav_bytes": wavs}, signature="wav_bytes")[
                "embedding"
            ]
    return found


def streamed(version: str, waveform: np.ndarray) -> np.ndarray:
    model = exported.load(version)
    stream = StreamingEmbedder(model.embed_waveforms, model.export.mel_params)
    chunk = model.export.mel_params.sample_rate // 10
    windows = [
        window
        for start in range(0, len(waveform), chunk)
        for window in stream.push(waveform[start : start + chunk])
    ]
    return np.mean([window.embedding for window in windows + stream.finish()], axis=0)


def embedded(version: str, waveforms: np.ndarray, folder: pathlib.Path) -> np.ndarray:
    rate, paths = exported.read_export(version).mel_params.sample_rate, []
    (folder / "wavs").mkdir()
    for number, waveform in enumerate(waveforms):
        paths.append(str(folder / "wavs" / f"{number:03d}.wav"))
        media.write_wav(paths[-1], waveform, rate)
    manifest, output = str(folder / "wavs.csv"), str(folder / "embeddings")
    datasets.make_manifest("folder", str(folder / "wavs"), manifest)
    embed(version, manifest, output)
    by_uri = {clip.uri: clip.embedding for clip in iter_embeddings(output)}
    return np.stack([by_uri[path] for path in paths])


def device_files(run: str, manifest: str, clip_seconds: float, folder: pathlib.Path) -> dict:
    """What runs each file for devices, and its size in bytes, by form."""
    options = {"clip_seconds": clip_seconds, "manifest": manifest}
    files = {}
    for quantization, form in (("none", "float32"), ("float16", "float16"), ("int8", "int8")):
        path = str(folder / f"{form}.tflite")
        devices.export_litert(run, path, quantization=quantization, **options)
        files[f"LiteRT {form}"] = (litert.runner(pathlib.Path(path).read_bytes()), os.path.getsize(path))
    path = str(folder / "model.onnx")
    devices.export_onnx(run, path, **options)
    files["ONNX float32"] = (onnx.runner(pathlib.Path(path).read_bytes()), os.path.getsize(path))
    return files


def run_file(run_model, waveforms: np.ndarray) -> np.ndarray:
    return np.concatenate([run_model(waveform[None])["embedding"] for waveform in waveforms])


def differences(live: np.ndarray, found: np.ndarray) -> list[str]:
    cosines = np.sum(live * found, axis=1) / np.linalg.norm(live, axis=1) / np.linalg.norm(found, axis=1)
    return [f"{np.max(np.abs(live - found)):.1e}", f"{np.min(cosines):.6f}"]


def retrieval(rows: list[datasets.ManifestRow], embeddings: np.ndarray) -> float:
    segments = evaluation.Segments(
        embeddings=embeddings.astype(np.float32),
        clip_ids=tuple(row.clip_id for row in rows),
        recording_ids=tuple(row.recording_id for row in rows),
        labels=tuple(row.labels for row in rows),
    )
    return evaluation.query_by_example(segments, seed=0).mean


if __name__ == "__main__":
    main(*sys.argv[1:])
