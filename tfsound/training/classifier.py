"""Training a classifier of windows, on labels that were spread over clusters or on those of the clips."""

import dataclasses
import os
import sys
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfsound import examples, mel, models, networks
from tfsound.training import finished, measures, optimizers, runs
from tfsound.window_labels import WindowLabels, read_propagated_labels

CLASSIFIER_NAME = "classifier.keras"
# From here on a soft label is a label.
_HARD_FROM = 0.5
_DEFAULT_ENCODER = "resnet_small"


def train_classifier(
    clips: str,
    output: str,
    *,
    labels: str | WindowLabels = "",
    folds: tuple[str, ...] = (),
    exclude_folds: tuple[str, ...] = (),
    start_from: str = "",
    imagenet_weights: str = "",
    freeze: bool = False,
    encoder: str = "",
    embedding_dim: int = 0,
    multi_label: bool = True,
    hard: bool = False,
    class_balance: str = "natural",
    replace_last_layer: bool = False,
    augment: bool = False,
    measure_folds: tuple[str, ...] = (),
    num_steps: int = 1000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    learning_rate_decay: str = "cosine",
    cold_epochs: int = 5,
    warm_up_epochs: int = 10,
    decay_per_epoch: float = 0.985,
    weight_decay: float = 0.0,
    precision: str = "float32",
    steps_per_checkpoint: int = 100,
    patience_intervals: int = 0,
    seed: int = 0,
    overwrite: bool = False,
) -> finished.TrainingRun:
    """Trains a classifier of windows, on all devices of this machine; resumes a run that was cut off.

    The paper starts from the encoder that was learned without labels, and fine-tunes the whole of it on
    labels that were spread over clusters (section 3.4): `start_from` names that run, `labels` what `tfsound
    answers` wrote. A baseline is the same from scratch, or on the clips' own labels.

    Args:
      clips: the folder of clip examples.
      output: the run's folder.
      labels: the folder of labels that `tfsound answers` wrote; other windows are not trained on, nor are
        uncertain ones. Without, every window has the labels of its clip, and clips without one are left out.
      folds: the folds to train on; all without.
      exclude_folds: folds to leave out, because they are for testing.
      start_from: a finished run on triplets, on pairs or on labels whose audio encoder to start from;
        without, the encoder is trained from scratch.
      imagenet_weights: a weight file of keras.applications to start `esresnet` or `densenet` from.
      freeze: keep the encoder as it is, and train the layer on its embeddings alone.
      encoder: `resnet_small` (the default) for CPUs, `resnet50` as in the paper; that of the run to start
        from where there is one.
      embedding_dim: length of an embedding, 128 by default, or that of the run to start from.
      multi_label: whether a window may have any number of the classes, or has exactly one.
      hard: make labels out of confidences: the classes with at least one half, or, where a window has exactly
        one, the first of the highest confidence.
      class_balance: `natural`, every window equally often; or `uniform`, every class equally often.
      replace_last_layer: put the layer of classes in the place of the one that makes the embedding, and not
        behind it, as in Hornauer et al. 2021, section 5: what lies below becomes the run's embedding.
      augment: see every clip in another view each time, reversed, slower or faster, cut or padded elsewhere
        (`examples.Augmentation`), and not window by window; on the clips' own labels.
      measure_folds: folds whose clips are classified after each interval: `accuracy` in the log. They are not
        learned from.
      num_steps: optimizer steps in all.
      batch_size: windows a step, over all devices; of fewer labelled windows some come twice.
      learning_rate: Adam's, at its highest.
      learning_rate_decay: `cosine` to 0 over all steps, `constant`, or `exponential`: a tenth of the rate at
        first, then up to it, then less by a factor an epoch (Guzhov et al. 2020).
      cold_epochs: of `exponential`: how many times through the data at a tenth of the rate.
      warm_up_epochs: of `exponential`: how many times from there to the full rate.
      decay_per_epoch: of `exponential`: the factor of each time after those.
      weight_decay: of the penalty on all weights that the loss gets, half their squares; 0 for none.
      precision: `float32` or `bfloat16`.
      steps_per_checkpoint: steps between checkpoints; a kill loses at most so many.
      patience_intervals: end before `num_steps` when the mean loss between checkpoints has not fallen
        for so many of them in a row (by 1 % of what it had fallen until then); 0 never does. For
        `--learning-rate-decay constant`: a cosine's rate would be cut off before it is low.
      seed: of initial weights and of the order of the data.
      overwrite: remove an earlier run in the output folder.

    Returns:
      The run's summary. The run holds the encoder as one on triplets does, and the whole classifier.

    Raises:
      DatasetError: clips that are missing or damaged, labels of other clips, nothing labelled;
      ActiveLearningError: no finished folder of labels, or an edited one; ValueError: a parameter is out of
      range or not that of the run to start from, labels that leave nothing to tell apart; TrainingError: the
      folder holds another run, there is no finished run to start from, or the loss is no longer a number;
      for ImageNet's weights also FileNotFoundError, see `networks.load_imagenet_weights`.

    Source: Jansen et al. 2020, sections 3.3 and 3.4; Hornauer et al. 2021, section 5.
    """
    window_labels = read_propagated_labels(labels) if labels and isinstance(labels, str) else labels or None
    resumed = runs.resumed_config(output, overwrite=overwrite)
    config = {
        "clips": clips, "labels": labels if isinstance(labels, str) else "(arrays)",
        "folds": list(folds), "exclude_folds": list(exclude_folds), "start_from": start_from,
        "imagenet_weights": imagenet_weights, "freeze": freeze,
        **_encoder_settings(start_from, encoder, embedding_dim, resumed),
        "multi_label": multi_label, "hard": hard, "class_balance": class_balance,
        "replace_last_layer": replace_last_layer, "augment": augment,
        "measure_folds": list(measure_folds), "num_steps": num_steps, "batch_size": batch_size,
        "learning_rate": learning_rate, "learning_rate_decay": learning_rate_decay,
        "cold_epochs": cold_epochs, "warm_up_epochs": warm_up_epochs, "decay_per_epoch": decay_per_epoch,
        "weight_decay": weight_decay, "precision": precision, "steps_per_checkpoint": steps_per_checkpoint,
        "patience_intervals": patience_intervals, "seed": seed,
    }  # fmt: skip
    _require_valid(config)
    exclude_folds = (*exclude_folds, *(fold for fold in measure_folds if fold not in exclude_folds))
    windows = examples.index_labelled_windows(clips, window_labels, folds=folds, exclude_folds=exclude_folds)
    windows = _usable(windows, multi_label=multi_label, hard=hard)
    num_examples, make_data = _data(config, windows, exclude_folds)
    config |= {
        "class_names": list(windows.class_names), "num_windows": windows.num_windows,
        "windows_digest": windows.digest,
        "steps_per_epoch": optimizers.steps_per_epoch(num_examples, batch_size),
    }  # fmt: skip
    print(windows, file=sys.stderr)
    held_out = measures.HeldOutClips([clips], measure_folds, windows.class_names) if measure_folds else None
    model = runs.train_model(
        lambda: _compiled_model(config, windows.mel_params, is_resumed=bool(resumed)),
        make_data,
        lambda: examples.require_undamaged(clips, examples.read_dataset_info(clips, kind=examples.CLIPS)),
        config, output, overwrite=overwrite, measures=[measures.Accuracy(held_out)] if held_out else [],
    )  # fmt: skip
    finished.save_model(model, os.path.join(output, CLASSIFIER_NAME))
    model.audio_encoder.trainable = True  # whoever loads the encoder alone has frozen nothing
    finished.save_encoder(model.audio_encoder, windows.mel_params, output, config)
    return finished.finished_run(output)


def _data(
    config: dict, windows: examples.LabelledWindowIndex, exclude_folds: tuple[str, ...]
) -> tuple[int, Callable[[int], tf.data.Dataset]]:
    """How many examples there are to learn from, and what makes the stream of them from a batch number on.

    They are windows, or clips, each in another view every time.
    """
    batch_size, seed = config["batch_size"], config["seed"]
    if not config["augment"]:
        return windows.num_windows, lambda first_batch: examples.labelled_window_dataset(
            windows, batch_size=batch_size, class_balance=config["class_balance"], seed=seed,
            first_batch=first_batch,
        )  # fmt: skip
    clips = examples.find_instances(
        [config["clips"]], folds=tuple(config["folds"]), exclude_folds=exclude_folds, labelled=True
    )
    if batch_size > clips.num_instances:
        raise ValueError(
            f"batch_size {batch_size} exceeds the {clips.num_instances} labelled clips; lower it."
        )
    return clips.num_instances, lambda first_batch: examples.instance_dataset(
        clips, batch_size=batch_size, augmentation=examples.Augmentation(), seed=seed, first_batch=first_batch
    )


def load_classifier(run: str) -> tuple[models.ClassifierModel, mel.MelParams, tuple[str, ...]]:
    """The classifier of a finished run on labels, the front end that it was trained with, its classes.

    The classifier gives scores, float32, (windows, classes), for log-mel windows.

    Raises:
      TrainingError: no such run, one that is not finished, or one on something else than labels.
    """
    model, mel_params, config = finished.load_model(run, CLASSIFIER_NAME, trained_on="labels")
    return model, mel_params, tuple(config["class_names"])


def _encoder_settings(start_from: str, encoder: str, embedding_dim: int, resumed: dict) -> dict:
    """The settings of the encoder: those asked for, which must be those of the run to start from.

    Where a run is `resumed` from the same start, they are its own.
    """
    if not start_from:
        return {
            "encoder": encoder or _DEFAULT_ENCODER,
            "embedding_dim": embedding_dim or networks.EMBEDDING_DIM,
            "unit_norm": False,
        }
    begun = resumed if resumed.get("start_from") == start_from else finished.read_finished(start_from)[1]
    if not resumed and begun.get("replace_last_layer"):
        raise ValueError(f"{start_from} has classes in the place of its embedding; start from what it did.")
    started = {
        "encoder": begun["encoder"],
        "embedding_dim": begun["embedding_dim"],
        "unit_norm": begun.get("unit_norm", True),  # triplets need it, and their runs do not say so
    }
    asked = {"encoder": encoder, "embedding_dim": embedding_dim}
    different = [name for name, value in asked.items() if value and value != started[name]]
    if different:
        shown = ", ".join(f"{name}: {started[name]!r} there, {asked[name]!r} here" for name in different)
        raise ValueError(
            f"{start_from} has another encoder than was asked for ({shown}); leave that out to start from it."
        )
    return started


def _usable(
    windows: examples.LabelledWindowIndex, *, multi_label: bool, hard: bool
) -> examples.LabelledWindowIndex:
    """The windows that can be learned from, with labels as the loss takes them.

    Raises:
      ValueError: nothing to tell apart.
    """
    labels, row = windows.row_labels, windows.row
    if multi_label:
        labels = (labels >= _HARD_FROM).astype(np.float32) if hard else labels
    else:
        # That a window is none of the classes cannot be said where it has exactly one.
        totals = labels.sum(axis=1, keepdims=True)
        kept = (totals > 0)[row, 0]
        windows = dataclasses.replace(
            windows, shard=windows.shard[kept], offset=windows.offset[kept], row=row[kept]
        )
        if hard:
            labels = (np.arange(labels.shape[1]) == labels.argmax(axis=1)[:, None]).astype(np.float32)
        else:
            labels = np.divide(labels, totals, out=np.zeros_like(labels), where=totals > 0)
    different = np.unique(labels[np.unique(windows.row)], axis=0)
    if len(different) < 2:
        names = [name for name, label in zip(windows.class_names, different.T, strict=True) if label.any()]
        raise ValueError(
            f"all {windows.num_windows} labelled windows have the same labels "
            f"({', '.join(names) or 'none of the classes'}), so that there is nothing to tell apart; label "
            "windows of another class."
        )
    return dataclasses.replace(windows, row_labels=labels)


def _require_valid(config: dict) -> None:
    runs.require_valid(config, {})
    if config["class_balance"] not in examples.CLASS_BALANCES:
        raise ValueError(
            f"class_balance must be one of {list(examples.CLASS_BALANCES)}, got {config['class_balance']!r}."
        )
    if config["augment"] and (config["labels"] or config["class_balance"] != examples.NATURAL):
        raise ValueError(
            "augment shows whole clips with their own labels, each equally often; leave out labels and "
            "class_balance, or augment."
        )
    if config["freeze"] and not config["start_from"]:
        raise ValueError("freeze keeps an encoder that has learned nothing; name a run with start_from.")
    if config["imagenet_weights"] and config["start_from"]:
        raise ValueError("imagenet_weights and start_from name two starts; leave one out.")


def _compiled_model(config: dict, mel_params: mel.MelParams, *, is_resumed: bool) -> models.ClassifierModel:
    audio_encoder = runs.build_audio_encoder(config, mel_params)
    if config["start_from"] and not is_resumed:
        started, started_mel_params = finished.load_encoder(config["start_from"])
        mel_params.require_equal(started_mel_params, config["start_from"])
        audio_encoder.set_weights(started.get_weights())
    if config["imagenet_weights"] and not is_resumed:
        print(networks.load_imagenet_weights(audio_encoder, config["imagenet_weights"]), file=sys.stderr)
    if config["replace_last_layer"]:
        audio_encoder = networks.without_embedding(audio_encoder)
    model = models.ClassifierModel(
        audio_encoder,
        len(config["class_names"]),
        multi_label=config["multi_label"],
        freeze=config["freeze"],
    )
    runs.compile_model(model, config)
    return model
