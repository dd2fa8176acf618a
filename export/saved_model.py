"""A trained encoder or classifier as a SavedModel, which plain TensorFlow runs: waveforms in, vectors out.

Signatures of a model of sound, all of any batch size:

  serving_default  `waveform` float32 [batch, samples], in [-1, 1], at the model's rate; of a model of stereo
                   [batch, 2, samples]
  wav_bytes        `wav_bytes` string [batch], 16-bit PCM WAV files at the model's rate, any lengths
  log_mel          `log_mel` float32 [batch, frames, columns], context windows, such as [batch, 96, 64]

The first two give `embedding` [batch, d], the mean over the clip's context windows, and `window_embeddings`
[batch, windows, d] (rows of 0 after the last window of a shorter clip); `log_mel` gives the `embedding`
[batch, d] of each window. A classifier gives, likewise, `scores` [batch, classes], the mean over the clip's
windows, and `window_scores` [batch, windows, classes]; `log_mel` the `scores` of each window. Averages of
unit-norm embeddings are not normalised again, as in the papers. A clip shorter than a window is zero-padded
to one; what holds NaN or infinity gives NaN, see `graphs`.

Of a model of images:

  serving_default  `image` float32 [batch, 128, 128, 3], RGB in [0, 1]
  jpeg_bytes       `jpeg_bytes` string [batch], JPEG files of 128 x 128 pixels

Both give the `embedding` [batch, d] of each.

Beside the graph lie `README.md`, the model card, `assets/provenance.json`, of sound `assets/mel_params.json`,
for a classifier `assets/labels.csv` (index, name), and, where tensorflow-serving-api is installed, a warm-up
request for each signature. Versions are numbered folders, published whole.
"""

import dataclasses
import os

import keras
import numpy as np
import tensorflow as tf

from tfsound import mel, models, resumption, training
from tfsound.export import model_card, publication, warm_up
from tfsound.export.graphs import SERVING_DEFAULT, Classifier, Embedder, ImageEmbedder
from tfsound.export.provenance import describe_run
from tfsound.export.publication import ExportError

MODALITIES = ("audio", "image")
# Graph and eager kernels differ by 1e-7 to 1e-6 of the largest component.
_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Export:
    """Where a version was written, and how far at most it is from the live model."""

    path: str
    largest_difference: float

    def __str__(self) -> str:
        return f"exported {self.path} (largest difference to the live model: {self.largest_difference:.1e})"


def save(
    model: keras.Model,
    mel_params: mel.MelParams | None,
    output: str,
    *,
    provenance: dict,
    class_names: tuple[str, ...] = (),
) -> Export:
    """Writes the next version of a SavedModel, checked against the live model.

    The version appears under its number only when it is complete and checked.

    Args:
      model: an encoder, log-mel (batch, frames, mel_bins) or images (batch, height, width, 3) -> embeddings
        (batch, d); or a `models.ClassifierModel`.
      mel_params: the front end that it was trained with; None for an encoder of images.
      output: the model's folder, on this machine.
      provenance: what to keep beside the graph, as JSON: where the model comes from. The card tells the
        fields of `tfsound.export.provenance` from others, which it shows as they are.
      class_names: (classes,), of a classifier.

    Returns:
      Where it is, and the largest difference of an embedding or score, on noise: of three lengths, or images.

    Raises:
      ValueError: as many names as a classifier has classes, or none for an encoder, were not given;
      ExportError: the reloaded model differs from the live one, or the files cannot be written; nothing was
      published; InUseError: another process exports there; NotADirectoryError: the output is a file.
    """
    num_classes = model.num_classes if isinstance(model, models.ClassifierModel) else 0
    if len(class_names) != num_classes:
        raise ValueError(f"class_names must be {num_classes}, one a class, got {len(class_names)}.")
    if num_classes:
        served = Classifier(model, mel_params, provenance, class_names)
    elif mel_params is None:
        served = ImageEmbedder(model, provenance)
    else:
        served = Embedder(model, mel_params, provenance)
    signatures = served.signatures()
    with publication.new_version(output) as (unpublished, final):
        with publication.named_failures(output):
            tf.saved_model.save(served, unpublished, signatures=signatures)
            num_requests = warm_up.write(unpublished, warm_up.requests(signatures, mel_params))
        difference = largest_difference(unpublished, model, mel_params)
        if not difference < _TOLERANCE:  # so that NaN fails, too
            raise ExportError(
                f"the reloaded model differs from the live one by {difference}, expected less than "
                f"{_TOLERANCE}; nothing was published in {output}."
            )
        card = model_card.render(
            signatures, provenance, mel_params,
            class_names=class_names, largest_difference=difference, num_warm_up_requests=num_requests,
        )  # fmt: skip
        with publication.named_failures(output):
            resumption.write_text(os.path.join(unpublished, model_card.NAME), card)
    return Export(final, difference)


def export(
    run: str,
    output: str,
    *,
    modality: str = "audio",
    evaluation: tuple[str, ...] = (),
    license: str = "",
) -> Export:
    """Exports what a finished run has trained as a SavedModel, checked against the live model.

    Of a run on labels that is the classifier, whose scores come beside the embeddings; of others the encoder.
    A model card, README.md, says what the model is, how to call it, what it learned from, and what the run
    and evaluations measured.

    Args:
      run: the folder of the finished run.
      output: the model's folder; the export becomes its next numbered version.
      modality: `audio`, or `image` for the encoder of images of a run on pairs of sound and image.
      evaluation: what `tfsound evaluate`, `evaluate-classifier` or `evaluate-cross-modal` has written of the
        model as JSON; several files may be given.
      license: the identifier of its license for the card, such as `apache-2.0`; none is named without.

    Returns:
      See `save`.

    Raises:
      TrainingError: the run is missing, not finished, damaged, of another version, or without images;
      ValueError: another word for modality, a file that holds no evaluation, or that of other classes, a
      license that is no identifier; ExportError, InUseError, NotADirectoryError: see `save`.
    """
    if modality not in MODALITIES:
        raise ValueError(f"modality must be one of {list(MODALITIES)}, got {modality!r}.")
    if modality == "image":
        model, mel_params, class_names = _image_encoder(run), None, ()
    else:
        model, mel_params, class_names = load_trained(run)
    provenance = describe_run(
        run, training.finished_config(run), evaluation=evaluation, class_names=class_names, license=license
    )
    return save(model, mel_params, output, provenance=provenance, class_names=class_names)


def load_trained(run: str) -> tuple[keras.Model, mel.MelParams, tuple[str, ...]]:
    """What a finished run has trained of sound: the classifier, or else the encoder; front end; classes.

    Raises:
      TrainingError: see `training.load_encoder`.
    """
    if os.path.exists(os.path.join(run, training.CLASSIFIER_NAME)):
        return training.load_classifier(run)
    return *training.load_encoder(run), ()


def _image_encoder(run: str) -> keras.Model:
    """Raises: TrainingError for a run that has none."""
    model, _ = training.load_coincidence_model(run)
    if model.image_encoder is None:
        raise training.TrainingError(
            f"{run} was trained on sound alone; name a run on sound and image, or leave out modality."
        )
    return model.image_encoder


def largest_difference(path: str, model: keras.Model, mel_params: mel.MelParams | None) -> float:
    """The largest difference of a component of an embedding, or of a score, between export and live model.

    Embeddings of no set length may be long: where the largest component is above 1, it is the unit. The
    difference is NaN where either gives NaN.
    """
    loaded = tf.saved_model.load(path)  # a signature alone does not keep its variables alive
    signature = loaded.signatures[SERVING_DEFAULT]
    rng = np.random.default_rng(0)
    if mel_params is None:
        images = rng.uniform(0, 1, (2, *model.input_shape[1:])).astype(np.float32)
        found = signature(image=tf.constant(images))["embedding"]
        return _difference(found, model(images, training=False))
    live = {"embedding": model}
    if isinstance(model, models.ClassifierModel):
        live = {"embedding": model.embed, "scores": model}
    channels = () if mel_params.num_channels == 1 else (mel_params.num_channels,)
    differences = []
    for num_samples in (1, mel_params.context_samples, 3 * mel_params.sample_rate):
        waveform = rng.uniform(-1, 1, (2, *channels, num_samples)).astype(np.float32)
        found = signature(waveform=tf.constant(waveform))
        windows = mel.log_mel_windows(waveform, mel_params)
        for name, function in live.items():
            means = [
                tf.reduce_mean(tf.cast(function(clip, training=False), tf.float32), axis=0)
                for clip in windows
            ]
            differences.append(_difference(found[name], np.stack(means)))
    return float(np.max(differences))


def _difference(found: tf.Tensor, live: np.ndarray | tf.Tensor) -> float:
    return float(np.max(np.abs(found - live)) / max(1.0, np.max(np.abs(live))))
