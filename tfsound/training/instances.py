"""Training by instance discrimination: every clip is told from all others (Hornauer et al. 2021)."""

import os
import sys

from tfsound import examples, mel, models, networks
from tfsound.checkpoints import TrainingError
from tfsound.training import finished, measures, runs

INSTANCE_MODEL_NAME = "instance_model.keras"


def train_instances(
    instances: str,
    output: str,
    *,
    encoder: str = "esresnet_small",
    embedding_dim: int = networks.EMBEDDING_DIM,
    imagenet_weights: str = "",
    num_negatives: int = 64,
    temperature: float = 0.4,
    momentum: float = 0.5,
    flip: bool = True,
    max_time_scale: float = 1.25,
    num_steps: int = 5000,
    batch_size: int = 64,
    learning_rate: float = 2.5e-4,
    learning_rate_decay: str = "cosine",
    knn_folds: tuple[str, ...] = (),
    knn_neighbors: int = 5,
    precision: str = "float32",
    steps_per_checkpoint: int = 100,
    patience_intervals: int = 0,
    seed: int = 0,
    start_from: str = "",
    overwrite: bool = False,
) -> finished.TrainingRun:
    """Trains an encoder to tell every clip from all others, without labels; resumes a run that was cut off.

    Each clip has a row in a memory bank, which follows its embedding; the encoder learns to find it. Clips
    are seen reversed, faster or slower, cut or padded elsewhere each time. The paper takes 200 epochs of
    batches of 64, and ESResNet: `--encoder esresnet`.

    Args:
      instances: what `tfsound instances` made.
      output: the run's folder.
      encoder: `esresnet_small` for CPUs, `esresnet` or `densenet` as in the paper, or another encoder.
      embedding_dim: length of an embedding.
      imagenet_weights: a weight file of keras.applications to start `esresnet` or `densenet` from.
      num_negatives: rows that each clip is told from in a step; 0 for all, the softmax of equation 1, whose
        time grows with their number.
      temperature: tau of the softmax.
      momentum: what the old row counts when a row of the bank is updated.
      flip: let clips be reversed.
      max_time_scale: by which factor clips become longer or shorter at most; 1 for none.
      num_steps: optimizer steps in all.
      batch_size: clips a step, over all devices.
      learning_rate: Adam's, at the start.
      learning_rate_decay: `cosine` to 0 over all steps, or `constant`.
      knn_folds: folds whose clips are classified by their nearest rows after each interval, to see what is
        learned; their clips must be no instances, and they are not learned from.
      knn_neighbors: k, how many rows vote.
      precision: `float32` or `bfloat16`.
      steps_per_checkpoint: steps between checkpoints; a kill loses at most so many.
      patience_intervals: end before `num_steps` when the mean loss between checkpoints has not fallen
        for so many of them in a row (by 1 % of what it had fallen until then); 0 never does. For
        `--learning-rate-decay constant`: a cosine's rate would be cut off before it is low.
      seed: of initial weights, of the bank, of the order of the data, of augmentations and negatives.
      start_from: a finished run of this kind whose encoder to start from, and whose rows: of instances that
        these extend. New instances start at random.
      overwrite: remove an earlier run in the output folder.

    Returns:
      The run's summary. The run holds the encoder as a run on triplets does, and the model with its bank.

    Raises:
      DatasetError: instances or clips that are missing, damaged or changed; ValueError: a parameter is out of
      range, or not that of the run to start from; for ImageNet's weights also FileNotFoundError, see
      `networks.load_imagenet_weights`; TrainingError: the folder holds another run, there is no finished run
      to start from, its rows are those of other clips, or the loss is no longer a number.

    Source: Hornauer et al. 2021, sections 3 and 4.
    """
    found = examples.read_instances(instances)
    config = {
        "instances": instances, "num_instances": found.num_instances,
        "shards": [[path, count] for path, count in zip(found.paths, found.counts, strict=True)],
        "encoder": encoder, "embedding_dim": embedding_dim, "unit_norm": True,
        "imagenet_weights": imagenet_weights, "num_negatives": num_negatives, "temperature": temperature,
        "momentum": momentum, "flip": flip, "max_time_scale": max_time_scale, "num_steps": num_steps,
        "batch_size": batch_size, "learning_rate": learning_rate,
        "learning_rate_decay": learning_rate_decay, "knn_folds": list(knn_folds),
        "knn_neighbors": knn_neighbors, "precision": precision,
        "steps_per_checkpoint": steps_per_checkpoint, "patience_intervals": patience_intervals,
        "seed": seed, "start_from": start_from,
    }  # fmt: skip
    runs.require_valid(config, {"instances": found.num_instances})
    augmentation = examples.Augmentation(flip=flip, max_time_scale=max_time_scale)
    if imagenet_weights and start_from:
        raise ValueError("imagenet_weights and start_from name two starts; leave one out.")
    is_resumed = bool(runs.resumed_config(output, overwrite=overwrite))
    if start_from and not is_resumed:
        _require_extended(start_from, config)
    measured = [_nearest_rows(instances, found, config)] if knn_folds else []
    epochs = num_steps * batch_size / found.num_instances
    print(f"{found.num_instances:,} instances, {epochs:.1f} epochs", file=sys.stderr)
    model = runs.train_model(
        lambda: _compiled_model(config, found.mel_params, is_resumed=is_resumed),
        lambda first_batch: examples.instance_dataset(
            found, batch_size=batch_size, augmentation=augmentation, seed=seed, first_batch=first_batch
        ),
        lambda: _require_undamaged(found),
        config, output, overwrite=overwrite, measures=measured,
    )  # fmt: skip
    finished.save_model(model, os.path.join(output, INSTANCE_MODEL_NAME))
    finished.save_encoder(model.audio_encoder, found.mel_params, output, config)
    return finished.finished_run(output)


def load_instance_model(run: str) -> tuple[models.InstanceDiscriminationModel, mel.MelParams]:
    """The model of a finished run, with its bank, and the front end that it was trained with.

    Raises:
      TrainingError: no such run, one that is not finished, or one on something else than instances.
    """
    model, mel_params, _ = finished.load_model(run, INSTANCE_MODEL_NAME, trained_on="instances")
    return model, mel_params


def _nearest_rows(instances: str, found: examples.Instances, config: dict) -> measures.NearestRows:
    """Raises: DatasetError for folds that are not there, or whose clips are instances; ValueError."""
    directories = examples.read_dataset_info(instances, kind=examples.INSTANCES).parameters["clips"]
    clips = measures.HeldOutClips(directories, tuple(config["knn_folds"]), found.class_names)
    for fold in config["knn_folds"]:
        if examples.admits(fold, found.folds, found.exclude_folds):
            raise examples.DatasetError(
                f"the clips of fold {fold!r} are among the instances of {instances}, so that classifying "
                "them tells nothing; make instances without it, or name another fold."
            )
    return measures.NearestRows(
        clips,
        examples.instance_labels(instances, found.class_names),
        num_neighbors=config["knn_neighbors"],
        temperature=config["temperature"],
    )


def _require_extended(start_from: str, config: dict) -> None:
    """Checks that the rows of a run are those of the first instances here.

    Raises:
      TrainingError: see `load_instance_model`; instances of other clips; ValueError: another encoder.
    """
    _, begun = finished.read_finished(start_from)
    if "num_negatives" not in begun:
        raise TrainingError(f"{start_from} was not trained on instances; name a run that was.")
    for name in ("encoder", "embedding_dim"):
        if begun[name] != config[name]:
            raise ValueError(
                f"{start_from} has {name} {begun[name]!r}, here it is {config[name]!r}; use the same."
            )
    shards = config["shards"][: len(begun["shards"])]
    different = [old for old, new in zip(begun["shards"], shards, strict=False) if old != new]
    missing = begun["shards"][len(shards) :]
    if different or missing:
        path, count = (different or missing)[0]
        raise TrainingError(
            f"{start_from} has rows for {begun['num_instances']} instances, {count} of them in {path}, which "
            f"{config['instances']} does not have in that place; make instances that extend "
            f"{begun['instances']}."
        )


def _compiled_model(
    config: dict, mel_params: mel.MelParams, *, is_resumed: bool
) -> models.InstanceDiscriminationModel:
    audio_encoder = runs.build_audio_encoder(config, mel_params)
    if config["imagenet_weights"] and not is_resumed:
        print(networks.load_imagenet_weights(audio_encoder, config["imagenet_weights"]), file=sys.stderr)
    model = models.InstanceDiscriminationModel(
        audio_encoder,
        config["num_instances"],
        num_negatives=config["num_negatives"],
        temperature=config["temperature"],
        momentum=config["momentum"],
        seed=config["seed"],
    )
    if config["start_from"] and not is_resumed:
        started, started_mel_params = load_instance_model(config["start_from"])
        mel_params.require_equal(started_mel_params, config["start_from"])
        audio_encoder.set_weights(started.audio_encoder.get_weights())
        model.memory_bank.take_rows(started.memory_bank)
    runs.compile_model(model, config)
    return model


def _require_undamaged(found: examples.Instances) -> None:
    for path in found.paths:
        for _ in examples.read_records(path):
            pass
