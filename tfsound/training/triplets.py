"""Training on triplets (Jansen et al. 2018)."""

import math
import sys

from tfsound import examples, mel, models, networks
from tfsound.training import finished, runs

# The constraints that the paper trains without mining where each is alone (section 4.2).
_UNMINED_ALONE = {"noise", "translation", "mixing"}


def decide_mining(mining: str, constraints: list[str]) -> str:
    """Whether negatives are mined: `on` or `off`.

    Args:
      mining: `on`, `off` or `auto`, as the paper does: off for noise, translation or mixing alone, on for
        labels, for proximity, and for several constraints together. A constraint that is not of the paper
        is mined.
      constraints: those of the triplets, `name` or `name:parameter`.

    Raises:
      ValueError: another word for `mining`.

    Source: Jansen et al. 2018, section 4.2.
    """
    if mining in ("on", "off"):
        return mining
    if mining != "auto":
        raise ValueError(f"mining must be 'auto', 'on' or 'off', got {mining!r}.")
    names = {constraint.partition(":")[0] for constraint in constraints}
    return "off" if len(names) == 1 and names <= _UNMINED_ALONE else "on"


def _constraints(triplets: list[str]) -> list[str]:
    """The constraints that there are triplets of, as the sidecars of triplet sets name them."""
    present = set()
    for directory in triplets:
        parameters = examples.read_dataset_info(directory, kind=examples.TRIPLETS).parameters
        constraints = parameters.get("constraints", ())
        counts = parameters.get("counts", [1] * len(constraints))
        present |= {text for text, count in zip(constraints, counts, strict=True) if count}
    return sorted(present)


def train(
    triplets: list[str],
    output: str,
    *,
    encoder: str = "resnet_small",
    embedding_dim: int = networks.EMBEDDING_DIM,
    num_steps: int = 1000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    learning_rate_decay: str = "cosine",
    margin: float = 0.1,
    mining: str = "auto",
    source_weights: tuple[float, ...] = (),
    precision: str = "float32",
    steps_per_checkpoint: int = 100,
    patience_intervals: int = 0,
    seed: int = 0,
    overwrite: bool = False,
) -> finished.TrainingRun:
    """Trains an encoder on triplets, on all devices of this machine; resumes a run that was cut off.

    The paper trains ResNet-50 with Adam at a constant 1e-4 where it mines, and at 1e-6 where it does not
    (section 4.2): `--encoder resnet50 --learning-rate 1e-4 --learning-rate-decay constant`.

    Args:
      triplets: folders of triplet examples; several are merged.
      output: the run's folder.
      encoder: `resnet_small` for CPUs, `resnet50` as in the 2018 paper.
      embedding_dim: length of an embedding.
      num_steps: optimizer steps in all.
      batch_size: triplets a step, over all devices.
      learning_rate: Adam's, at the start.
      learning_rate_decay: `cosine` to 0 over all steps, or `constant`.
      margin: how much farther a negative must be than the positive, in squared distance.
      mining: `on` reassigns negatives within the batch, over all devices, to the closest that is farther
        than the positive; `off` keeps each triplet's own; `auto` decides by the triplets' constraints as the
        paper does, `off` for noise, translation or mixing alone. Mixed triplets always keep their own.
      source_weights: what a triplet of each folder counts in the loss; 1 each by default.
      precision: `float32` or `bfloat16`.
      steps_per_checkpoint: steps between checkpoints; a kill loses at most so many.
      patience_intervals: end before `num_steps` when the mean loss between checkpoints has not fallen
        for so many of them in a row (by 1 % of what it had fallen until then); 0 never does. For
        `--learning-rate-decay constant`: a cosine's rate would be cut off before it is low.
      seed: of initial weights and of the order of the data.
      overwrite: remove an earlier run in the output folder.

    Returns:
      The run's summary.

    Raises:
      DatasetError: triplets that are missing, damaged or do not fit together; ValueError: a parameter is
      out of range; TrainingError: the folder holds another run, or the loss is no longer a number.
    """
    mel_params, num_triplets = examples.read_triplet_infos(list(triplets))
    constraints = _constraints(list(triplets))
    config = {
        "triplets": list(triplets), "num_triplets": num_triplets, "constraints": constraints,
        "encoder": encoder, "embedding_dim": embedding_dim, "num_steps": num_steps,
        "batch_size": batch_size, "learning_rate": learning_rate,
        "learning_rate_decay": learning_rate_decay, "margin": margin,
        "mining": decide_mining(mining, constraints), "source_weights": list(source_weights),
        "precision": precision, "steps_per_checkpoint": steps_per_checkpoint,
        "patience_intervals": patience_intervals, "seed": seed,
    }  # fmt: skip
    _require_valid(config)
    shown = ", ".join(constraints) or "triplets of unnamed constraints"
    print(f"mining {config['mining']}, for {shown}", file=sys.stderr)
    model = runs.train_model(
        lambda: _compiled_model(config, mel_params),
        lambda first_batch: examples.triplet_dataset(
            config["triplets"], batch_size=batch_size, weights=source_weights, seed=seed,
            mel_params=mel_params, first_batch=first_batch,
        ),
        lambda: _require_undamaged(config["triplets"]),
        config, output, overwrite=overwrite,
    )  # fmt: skip
    finished.save_encoder(model.audio_encoder, mel_params, output, config)
    return finished.finished_run(output)


def _require_valid(config: dict) -> None:
    runs.require_valid(config, {"triplets": config["num_triplets"]})
    weights, num_sets = config["source_weights"], len(config["triplets"])
    if weights and len(weights) != num_sets:
        raise ValueError(f"source_weights must be one for each of {num_sets} folders, got {len(weights)}.")
    if weights and not (all(0 <= weight < math.inf for weight in weights) and any(weights)):
        raise ValueError(f"source_weights must be finite, at least 0 and not all 0, got {weights}.")


def _require_undamaged(directories: list[str]) -> None:
    for directory in directories:
        info = examples.read_dataset_info(directory, kind=examples.TRIPLETS)
        examples.require_undamaged(directory, info)


def _compiled_model(config: dict, mel_params: mel.MelParams) -> models.TripletModel:
    audio_encoder = runs.build_audio_encoder(config, mel_params)
    model = models.TripletModel(audio_encoder, margin=config["margin"], semi_hard=config["mining"] == "on")
    model.build((None, *mel_params.window_shape))
    runs.compile_model(model, config)
    return model
