"""How fast an encoder becomes a classifier: accuracy epoch by epoch, from several starts, fold by fold.

Source: Hornauer et al. 2021 (DLS), section 5 and figure 4.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from tfsound import examples, mel, metrics, networks, plots, resumption, training
from tfsound.evaluation.segments import EvaluationError

FROM_SCRATCH = "from scratch"
# Of figure 4, the epochs that the table shows.
_SHOWN_EPOCHS = (1, 3, 5, 10, 15)
_FOLD = "{fold}"
_WEIGHT_FILES = (".h5", ".hdf5")


@dataclasses.dataclass(frozen=True)
class FineTuningOptions:
    """How an encoder is fine-tuned; the rate and the penalty are those that ESResNet is trained with.

    What a rate is after some epochs does not depend on how many come after them, so that an accuracy does
    not, either.

    Attributes:
      num_epochs: how often the clips are gone through, on the average.
      batch_size: clips a step.
      learning_rate, cold_epochs, warm_up_epochs, decay_per_epoch: see `training.WarmUp`.
      weight_decay: see `training.AdamWithPenalty`.
      freeze: train the last layer alone.
      precision: `float32` or `bfloat16`.
      seed: of initial weights, of the order of clips and of their views.

    Source: Guzhov et al. 2020 (ESResNet), as its authors run it, which Hornauer et al. 2021 follow; they take
    300 epochs.
    """

    num_epochs: int = 15
    batch_size: int = 16
    learning_rate: float = 2.5e-4
    cold_epochs: int = 5
    warm_up_epochs: int = 10
    decay_per_epoch: float = 0.985
    weight_decay: float = 5e-4
    freeze: bool = False
    precision: str = "float32"
    seed: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class FineTuning:
    """Accuracy after each epoch, from each start.

    Attributes:
      folds: those that were held out, each in a training of its own.
      accuracies: name of a start -> its accuracies, float64, (folds, epochs), in [0, 1].
      num_classes, num_clips: what was told apart, and on how many clips, over all folds.
    """

    folds: tuple[str, ...]
    accuracies: dict[str, np.ndarray]
    num_classes: int
    num_clips: int

    @property
    def num_epochs(self) -> int:
        return next(iter(self.accuracies.values())).shape[1]

    def epochs_to(self, accuracy: float) -> dict[str, int | None]:
        """After how many epochs the mean of each start over folds reaches an accuracy; None for never."""
        reached = {name: values.mean(axis=0) >= accuracy for name, values in self.accuracies.items()}
        return {name: int(np.argmax(at)) + 1 if at.any() else None for name, at in reached.items()}

    def epochs_to_scratch(self) -> dict[int, dict[str, int | None]]:
        """Epoch -> `epochs_to` what training from scratch has reached after it; none without that start."""
        if FROM_SCRATCH not in self.accuracies:
            return {}
        means = self.accuracies[FROM_SCRATCH].mean(axis=0)
        return {epoch: self.epochs_to(means[epoch - 1]) for epoch in self.shown_epochs()}

    def shown_epochs(self) -> list[int]:
        """The epochs that tables show, the last one among them."""
        shown = [epoch for epoch in _SHOWN_EPOCHS if epoch < self.num_epochs]
        return [*shown, self.num_epochs]

    def plot(self) -> Figure:
        """Figure 4: a curve a start, mean and spread over folds."""
        epochs = range(1, self.num_epochs + 1)
        curves = {name: (epochs, values.T) for name, values in self.accuracies.items()}
        return plots.plot_curves(curves, parameter_name="epochs", score_name="accuracy")

    def to_dict(self) -> dict:
        """All figures in plain types that JSON has."""
        return {
            "folds": list(self.folds),
            "num_classes": self.num_classes,
            "num_clips": self.num_clips,
            "accuracy": {name: values.tolist() for name, values in self.accuracies.items()},
            "epochs_to_what_scratch_has_reached": {
                str(epoch): needed for epoch, needed in self.epochs_to_scratch().items()
            },
        }

    def __str__(self) -> str:
        shown = self.shown_epochs()
        width = max(len(name) for name in (*self.accuracies, "epochs"))
        lines = [
            f"Accuracy of {self.num_classes} classes on {self.num_clips} held-out clips of {len(self.folds)} "
            f"fold(s), mean ± standard deviation over folds (chance about {1 / self.num_classes:.2f})",
            f"{'epochs':<{width}}" + "".join(f"{epoch:>16}" for epoch in shown),
        ]
        for name, values in self.accuracies.items():
            spreads = [metrics.mean_and_spread(values[:, epoch - 1]) for epoch in shown]
            shown_spreads = [
                f"{spread.mean:.3f}" + (f" ± {spread.standard_deviation:.3f}" if len(values) > 1 else "")
                for spread in spreads
            ]
            cells = "".join(f"{text:>16}" for text in shown_spreads)
            lines.append(f"{name:<{width}}{cells}")
        for epoch, needed in self.epochs_to_scratch().items():
            others = ", ".join(
                f"{name}: {epochs or f'more than {self.num_epochs}'}"
                for name, epochs in needed.items()
                if name != FROM_SCRATCH
            )
            if others:
                lines.append(f"epochs to what scratch has after {epoch}: {others}")
        return "\n".join(lines)


def fine_tune(
    clips: str,
    output: str,
    *,
    starts: tuple[str, ...] = (),
    folds: tuple[str, ...] = (),
    encoder: str = "",
    freeze: bool = False,
    num_epochs: int = 15,
    batch_size: int = 16,
    learning_rate: float = 2.5e-4,
    cold_epochs: int = 5,
    warm_up_epochs: int = 10,
    decay_per_epoch: float = 0.985,
    weight_decay: float = 5e-4,
    precision: str = "float32",
    seed: int = 0,
    overwrite: bool = False,
) -> FineTuning:
    """Fine-tunes encoders to classes, and says how accurate each is after each epoch; resumes.

    Each fold is held out once: a new last layer, in the place of the one that made the embedding, and all
    layers below it are trained on the clips of the others, each clip in another view every time, and the
    held-out clips are classified after each epoch. Training from scratch stands beside the starts. A start
    must not have learned from a fold that it is measured on: a run whose path holds `{fold}` is another one
    for each, such as `runs/without_{fold}`. The defaults are those that ESResNet is trained with (Guzhov et
    al. 2020), less its 300 epochs.

    Args:
      clips: the folder of clip examples, with labels and folds.
      output: the folder for the runs, fine_tuning.json, .txt and .png.
      starts: runs to start from, as `NAME=RUN` or `RUN`; or, as `NAME=FILE.h5`, a weight file of
        keras.applications for ImageNet.
      folds: the folds to hold out; all of the set by default.
      encoder: the one to train from scratch; that of the first run to start from by default, or
        `esresnet_small`.
      freeze: train the last layer alone, of the runs to start from.
      num_epochs: how often the clips are gone through, on the average.
      batch_size: clips a step.
      learning_rate: Adam's, at its highest. What it is after some epochs does not depend on how many come
        after them.
      cold_epochs: how many there are at a tenth of it, first.
      warm_up_epochs: how many from there to all of it.
      decay_per_epoch: the factor by which it falls from one epoch to the next after those; 1 for none.
      weight_decay: of the penalty on all weights, half their squares; 0 for none.
      precision: `float32` or `bfloat16`.
      seed: of initial weights, of the order of clips and of their views.
      overwrite: start anew in an output that another call made.

    Returns:
      The accuracies.

    Raises:
      DatasetError: the clips are missing or damaged, or have no such fold; EvaluationError: fewer than two
      folds, or a start that is named twice; TrainingError: a start is missing or not finished; ValueError: a
      parameter is out of range, one class only, front ends that differ, weights of another network;
      FileNotFoundError: no such weight file.

    Source: Hornauer et al. 2021, section 5.
    """
    options = FineTuningOptions(
        num_epochs=num_epochs, batch_size=batch_size, learning_rate=learning_rate, cold_epochs=cold_epochs,
        warm_up_epochs=warm_up_epochs, decay_per_epoch=decay_per_epoch, weight_decay=weight_decay,
        freeze=freeze, precision=precision, seed=seed,
    )  # fmt: skip
    named = _named(starts)
    info = examples.read_dataset_info(clips, kind=examples.CLIPS)
    all_folds = tuple(fold for fold in info.folds if fold)
    examples.require_folds(info, folds, clips)
    if len(all_folds) < 2:
        raise EvaluationError(
            f"{clips} has folds {list(all_folds)}, expected at least two: one to hold out and one to learn "
            "from; give the clips folds in the manifest."
        )
    if num_epochs < 1:
        raise ValueError(f"num_epochs must be at least 1, got {num_epochs}.")
    if freeze and (not named or any(map(is_weight_file, named.values()))):
        raise ValueError(
            "freeze keeps an encoder that has learned nothing, or of which ImageNet's weights are a part; "
            "name runs with starts."
        )
    folds = folds or all_folds
    encoder = _require_starts(named, folds, encoder, info.mel_params) or "esresnet_small"
    settings = {
        "clips": clips, "starts": list(starts), "folds": list(folds), "encoder": encoder
    } | dataclasses.asdict(options)  # fmt: skip
    ways = ({} if freeze else {FROM_SCRATCH: ""}) | named
    with resumption.taken_up(output, settings, overwrite=overwrite, job="finetune"):
        accuracies = {
            name: np.array(
                [
                    accuracy_by_epoch(
                        clips, os.path.join(output, "runs", _slug(name), f"without_{fold}"), fold,
                        start=start.replace(_FOLD, fold), encoder=encoder, options=options,
                    )
                    for fold in folds
                ]
            )
            for name, start in ways.items()
        }  # fmt: skip
        num_clips = sum(
            examples.find_instances([clips], folds=(fold,), labelled=True).num_instances for fold in folds
        )
        result = FineTuning(tuple(folds), accuracies, len(info.label_names), num_clips)
        resumption.write_json(os.path.join(output, "fine_tuning.json"), result.to_dict())
        resumption.write_text(os.path.join(output, "fine_tuning.txt"), f"{result}\n")
        plots.save_figure(result.plot(), os.path.join(output, "fine_tuning.png"))
    return result


def accuracy_by_epoch(
    clips: str,
    run: str,
    fold: str,
    *,
    start: str,
    encoder: str,
    options: FineTuningOptions,
) -> list[float]:
    """Fine-tunes an encoder without a fold, and says after each epoch how accurate it is on it; resumes.

    Args:
      clips: the folder of clip examples.
      run: the folder of the training.
      start: a finished run or a weight file to start from; "" for none.
      encoder: the one to train where that is not a run's.

    Raises:
      As `fine_tune`.
    """
    if not os.path.exists(os.path.join(run, training.ENCODER_INFO_NAME)):
        is_run = bool(start) and not is_weight_file(start)
        learned = examples.find_instances([clips], exclude_folds=(fold,), labelled=True)
        steps = training.steps_per_epoch(learned.num_instances, options.batch_size)
        training.train_classifier(
            clips, run, start_from=start if is_run else "", imagenet_weights="" if is_run else start,
            encoder="" if is_run else encoder, freeze=options.freeze, multi_label=False, hard=True,
            replace_last_layer=True, augment=True, measure_folds=(fold,),
            num_steps=options.num_epochs * steps, batch_size=options.batch_size,
            learning_rate=options.learning_rate, learning_rate_decay="exponential",
            cold_epochs=options.cold_epochs, warm_up_epochs=options.warm_up_epochs,
            decay_per_epoch=options.decay_per_epoch, weight_decay=options.weight_decay,
            precision=options.precision, steps_per_checkpoint=steps, seed=options.seed,
        )  # fmt: skip
    return [row["accuracy"] for row in training.read_log(os.path.join(run, training.LOG_NAME))]


def is_weight_file(start: str) -> bool:
    """Whether a start is a weight file, and not a run."""
    return start.endswith(_WEIGHT_FILES)


def _require_starts(
    named: dict[str, str], folds: Sequence[str], encoder: str, mel_params: mel.MelParams
) -> str:
    """Checks all starts before any work; the encoder to train from scratch, "" where nothing says which.

    Raises:
      TrainingError: a run that is missing or not finished; ValueError: one of another front end; and as
      `networks.load_imagenet_weights`.
    """
    runs = [start for start in named.values() if not is_weight_file(start)]
    for run in (run.replace(_FOLD, fold) for run in runs for fold in folds):
        found, config = training.read_finished(run)
        mel_params.require_equal(found, run)
        encoder = encoder or config["encoder"]
    for path in filter(is_weight_file, named.values()):
        untrained = networks.build_encoder(
            encoder or "esresnet_small", input_shape=mel_params.window_shape, num_bands=mel_params.num_bands,
            num_channels=mel_params.num_channels,
        )  # fmt: skip
        networks.load_imagenet_weights(untrained, path)
    return encoder


def _named(starts: Sequence[str]) -> dict[str, str]:
    """`NAME=RUN` or `RUN` by name."""
    named: dict[str, str] = {}
    for text in starts:
        name, separator, run = text.partition("=")
        name, run = (name, run) if separator else (os.path.basename(os.path.normpath(text)), text)
        if not name or not run or name in named or name == FROM_SCRATCH:
            raise EvaluationError(
                f"starts must be NAME=RUN or RUN, of a name each that is not {FROM_SCRATCH!r}, got {text!r}."
            )
        named[name] = run
    return named


def _slug(name: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in name)
