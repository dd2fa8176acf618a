"""Training on pairs that coincide (Jansen et al. 2020)."""

import dataclasses
import os

from tfsound import examples, mel, models, networks
from tfsound.checkpoints import TrainingError
from tfsound.examples.pairs import IMAGE_SHAPE
from tfsound.training import finished, runs

MODEL_NAME = "model.keras"
_MODALITIES = (examples.AUDIO_AUDIO, examples.AUDIO_IMAGE)


@dataclasses.dataclass(frozen=True)
class CoincidenceRecipe:
    """How an embedding of the paper is learned.

    Attributes:
      encoder, negatives: as `train_coincidence` takes them.
      max_time_gap_seconds: Delta T, as the job that samples the pairs takes it.
    """

    encoder: str
    negatives: str
    max_time_gap_seconds: float

    @property
    def training_options(self) -> dict[str, str]:
        """Keyword arguments of `train_coincidence`."""
        return {"encoder": self.encoder, "negatives": self.negatives}


# Row d of table 1, the audio-visual correspondence of Arandjelovic and Zisserman 2017 as section 4.1 of the
# 2020 paper describes it: on audio-image pairs alone.
AV_CORRESPONDENCE = CoincidenceRecipe(encoder="vgg", negatives="random", max_time_gap_seconds=1.0)


def train_coincidence(
    output: str,
    *,
    audio_audio: tuple[str, ...] = (),
    audio_image: tuple[str, ...] = (),
    encoder: str = "resnet_small",
    image_encoder: str = "",
    embedding_dim: int = networks.EMBEDDING_DIM,
    unit_norm: bool = False,
    num_steps: int = 1000,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    learning_rate_decay: str = "cosine",
    audio_audio_weight: float = 0.1,
    num_clusters: int = 0,
    cluster_weight: float = 0.1,
    diversity_weight: float = 1.1,
    negatives: str = "all_pairs",
    precision: str = "float32",
    steps_per_checkpoint: int = 100,
    patience_intervals: int = 0,
    seed: int = 0,
    start_from: str = "",
    overwrite: bool = False,
) -> finished.TrainingRun:
    """Trains encoders on pairs that coincide, on all devices of this machine; resumes a run that was cut off.

    The paper trains ResNet-50 on pairs of at most 10 s apart, first on audio and image, goes on from there
    with both kinds of pairs, and then with clusters (sections 3.4 and 4): `start_from` names the run before.
    As there, two pairs of one recording that meet in a batch are negatives of each other: of n recordings,
    about one negative in n is false.

    Args:
      output: the run's folder.
      audio_audio: folders of pairs of two windows; several are merged.
      audio_image: folders of pairs of a window and an image, alike; of the two, one at least.
      encoder: `resnet_small` for CPUs, `resnet50` as in the paper, `vgg` as in its rows d and g of table 1.
      image_encoder: that of images; the same by default.
      embedding_dim: length of an embedding.
      unit_norm: scale embeddings to length 1.
      num_steps: optimizer steps in all.
      batch_size: pairs a step, of each kind, over all devices; at least 2.
      learning_rate: Adam's, at the start.
      learning_rate_decay: `cosine` to 0 over all steps, or `constant`.
      audio_audio_weight: what the loss of two windows counts beside that of window and image, in [0, 1].
      num_clusters: how many categories of sounds to learn as well; 0 for none. The paper has up to a million.
      cluster_weight: what the loss of clusters counts beside that of pairs, in [0, 1].
      diversity_weight: the higher, the more clusters are in use; above 1, for at 1 they may collapse.
      negatives: `all_pairs` of a batch but those that coincide, or one at `random` for each.
      precision: `float32` or `bfloat16`.
      steps_per_checkpoint: steps between checkpoints; a kill loses at most so many.
      patience_intervals: end before `num_steps` when the mean loss between checkpoints has not fallen
        for so many of them in a row (by 1 % of what it had fallen until then); 0 never does. For
        `--learning-rate-decay constant`: a cosine's rate would be cut off before it is low.
      seed: of initial weights, of the order of the data and of random negatives.
      start_from: a finished run whose weights to start from: on pairs, with or without clusters, or on
        triplets, which has an audio encoder of unit_norm and nothing else.
      overwrite: remove an earlier run in the output folder.

    Returns:
      The run's summary. The run holds the audio encoder as a run on triplets does, and the whole model, with
      the heads of those kinds of pairs that it learned from and no other: a run that goes on from it with
      another kind starts that head anew. See `load_cluster_head` for the clusters.

    Raises:
      DatasetError: pairs that are missing, damaged or do not fit together; ValueError: a parameter is out of
      range, or not that of the run to start from; TrainingError: the folder holds another run, there is no
      finished run to start from, or the loss is no longer a number.

    Source: Jansen et al. 2020, sections 3.1, 3.2, 3.4 and 4.
    """
    directories = dict(zip(_MODALITIES, (list(audio_audio), list(audio_image)), strict=True))
    mel_params, num_pairs = _read_infos(directories)
    config = {
        **directories, **{f"num_{name}": count for name, count in num_pairs.items()},
        "encoder": encoder, "image_encoder": (image_encoder or encoder) if audio_image else "",
        "embedding_dim": embedding_dim, "unit_norm": unit_norm, "num_steps": num_steps,
        "batch_size": batch_size, "learning_rate": learning_rate,
        "learning_rate_decay": learning_rate_decay, "audio_audio_weight": audio_audio_weight,
        "num_clusters": num_clusters, "cluster_weight": cluster_weight, "diversity_weight": diversity_weight,
        "negatives": negatives, "precision": precision, "steps_per_checkpoint": steps_per_checkpoint,
        "patience_intervals": patience_intervals, "seed": seed, "start_from": start_from,
    }  # fmt: skip
    runs.require_valid(config, {f"{name} pairs": count for name, count in num_pairs.items()})
    if batch_size < 2:
        raise ValueError(
            f"batch_size must be at least 2, for a pair alone has no negative, got {batch_size}."
        )
    num_sounds = 2 * num_pairs.get(examples.AUDIO_AUDIO, 0) + num_pairs.get(examples.AUDIO_IMAGE, 0)
    if num_clusters > num_sounds:
        raise ValueError(
            f"num_clusters {num_clusters} exceeds the {num_sounds} sounds of the pairs; lower it, or sample "
            "more pairs."
        )
    if image_encoder and not audio_image:
        raise ValueError(
            f"image_encoder {image_encoder!r} was given, and no pairs of sound and image; name some with "
            "audio_image, or leave it out."
        )
    is_resumed = bool(runs.resumed_config(output, overwrite=overwrite))
    model = runs.train_model(
        lambda: _compiled_model(config, mel_params, is_resumed=is_resumed),
        lambda first_batch: examples.coincidence_dataset(
            audio_audio, audio_image, batch_size=batch_size, mel_params=mel_params, seed=seed,
            first_batch=first_batch,
        ),
        lambda: _require_undamaged(directories),
        config, output, overwrite=overwrite,
    )  # fmt: skip
    finished.save_model(model, os.path.join(output, MODEL_NAME))
    finished.save_encoder(model.audio_encoder, mel_params, output, config)
    return finished.finished_run(output)


def load_coincidence_model(run: str) -> tuple[models.CoincidenceModel, mel.MelParams]:
    """The model of a finished run on pairs, and the front end that it was trained with.

    Its heads are of the kinds of pairs that the run learned from; the others are None.

    Raises:
      TrainingError: no such run, one that is not finished, or one on something else than pairs.
    """
    model, mel_params, _ = finished.load_model(run, MODEL_NAME, trained_on="pairs")
    return model, mel_params


def load_cluster_head(run: str) -> networks.ClusterHead:
    """The cluster head of a finished run on pairs, for its `assign`.

    Raises:
      TrainingError: as `load_coincidence_model`, or a run that was trained without clusters.
    """
    head = load_coincidence_model(run)[0].cluster_head
    if head is None:
        raise TrainingError(f"{run} was trained without clusters; name a run that was given num_clusters.")
    return head


def _read_infos(directories: dict[str, list[str]]) -> tuple[mel.MelParams, dict[str, int]]:
    """The mel parameters of all sets of pairs, and how many pairs there are of each kind that is given."""
    mel_params, num_pairs = None, {}
    for modality, paths in directories.items():
        if paths:
            mel_params, num_pairs[modality] = examples.read_pair_infos(paths, modality, mel_params)
    if not num_pairs:
        raise examples.DatasetError("no set of pairs was given; name at least one folder of either modality.")
    return mel_params, num_pairs


def _require_undamaged(directories: dict[str, list[str]]) -> None:
    for paths in directories.values():
        for path in paths:
            examples.require_undamaged(path, examples.read_dataset_info(path, kind=examples.PAIRS))


def _compiled_model(config: dict, mel_params: mel.MelParams, *, is_resumed: bool) -> models.CoincidenceModel:
    image_encoder = None
    if config["image_encoder"]:
        image_encoder = networks.build_encoder(
            config["image_encoder"], input_shape=IMAGE_SHAPE, embedding_dim=config["embedding_dim"],
            unit_norm=config["unit_norm"], dtype_policy=runs.PRECISIONS[config["precision"]],
        )  # fmt: skip
    model = models.CoincidenceModel(
        runs.build_audio_encoder(config, mel_params),
        image_encoder,
        has_audio_audio=bool(config["audio_audio"]),
        audio_audio_weight=config["audio_audio_weight"],
        num_clusters=config["num_clusters"],
        cluster_weight=config["cluster_weight"],
        diversity_weight=config["diversity_weight"],
        negatives=config["negatives"],
        head_dtype=runs.PRECISIONS[config["precision"]],
        seed=config["seed"],
    )
    if config["start_from"] and not is_resumed:
        _start_from(model, config, mel_params)
    runs.compile_model(model, config)
    return model


def _start_from(model: models.CoincidenceModel, config: dict, mel_params: mel.MelParams) -> None:
    """Takes the weights of those networks that the run to start from has, too."""
    run = config["start_from"]
    started_mel_params, begun = finished.read_finished(run)
    # A run on triplets has no word for it: its embeddings are of length 1.
    begun = {"unit_norm": True} | begun
    if "triplets" in begun:
        parts = {"audio_encoder": finished.load_encoder(run)[0]}
    else:
        parts = load_coincidence_model(run)[0].parts
    mel_params.require_equal(started_mel_params, run)
    names = ["encoder", "embedding_dim", "unit_norm"]
    names += ["image_encoder"] if {"image_encoder"} <= set(parts) & set(model.parts) else []
    names += ["num_clusters"] if {"cluster_head"} <= set(parts) & set(model.parts) else []
    different = [name for name in names if begun[name] != config[name]]
    if different:
        shown = ", ".join(f"{name}: {begun[name]!r} there, {config[name]!r} here" for name in different)
        raise ValueError(f"{run} has other networks than this run ({shown}); use the same to start from it.")
    for name, part in parts.items():
        if name in model.parts:
            model.parts[name].set_weights(part.get_weights())
