"""How fast an encoder becomes a classifier: accuracy epoch by epoch, from several starts, fold by fold.

Source: Hornauer et al. 2021 (DLS), section 5 and figure 4.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from tfsound import examples, metrics, plots, resumption, training
from tfsound.evaluation.segments import EvaluationError

FROM_SCRATCH = "from scratch"
# Of figure 4, the epochs that the table shows.
_SHOWN_EPOCHS = (1, 3, 5, 10, 15)
_FOLD = "{fold}"


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
        return {epoch: self.epochs_to(means[epoch - 1]) for epoch in self._shown_epochs()}

    def _shown_epochs(self) -> list[int]:
        shown = [epoch for epoch in _SHOWN_EPOCHS if epoch < self.num_epochs]
        return [*shown, self.num_epochs]

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
        shown = self._shown_epochs()
        width = max(len(name) for name in (*self.accuracies, "epochs"))
        lines = [
            f"Accuracy of {self.num_classes} classes on {self.num_clips} held-out clips in {len(self.folds)} "
            f"folds, mean and standard deviation over folds (chance about {1 / self.num_classes:.2f})",
            f"{'epochs':<{width}}" + "".join(f"{epoch:>16}" for epoch in shown),
        ]
        for name, values in self.accuracies.items():
            spreads = [metrics.mean_and_spread(values[:, epoch - 1]) for epoch in shown]
            shown_spreads = [f"{spread.mean:.3f} ± {spread.standard_deviation:.3f}" for spread in spreads]
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
    precision: str = "float32",
    seed: int = 0,
    overwrite: bool = False,
) -> FineTuning:
    """Fine-tunes encoders to classes, and says how accurate each is after each epoch; resumes.

    Each fold is held out once: a new last layer, in the place of the one that made the embedding, and all
    layers below it are trained on the clips of the others, each clip in another view every time, and the
    held-out clips are classified after each epoch. Training from scratch stands beside the starts. A start
    must not have learned from a fold that it is measured on: a run whose path holds `{fold}` is another one
    for each, such as `runs/without_{fold}`.

    Args:
      clips: the folder of clip examples, with labels and folds.
      output: the folder for the runs, fine_tuning.json, .txt and .png.
      starts: runs to start from, as `NAME=RUN` or `RUN`.
      folds: the folds to hold out; all of the set by default.
      encoder: the one to train from scratch; that of the first start by default, or `esresnet_small`.
      freeze: train the last layer alone.
      num_epochs: how often the clips are gone through, on the average.
      batch_size: clips a step.
      learning_rate: Adam's, the same throughout, so that an epoch's accuracy does not depend on how many
        come after it.
      precision: `float32` or `bfloat16`.
      seed: of initial weights, of the order of clips and of their views.
      overwrite: start anew in an output that another call made.

    Returns:
      The accuracies.

    Raises:
      DatasetError: the clips are missing or damaged, or have no such fold; EvaluationError: fewer than two
      folds, or a start that is named twice; TrainingError: a start is missing or not finished; ValueError: a
      parameter is out of range, one class only, front ends that differ.

    Source: Hornauer et al. 2021, section 5.
    """
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
    if freeze and not named:
        raise ValueError("freeze keeps an encoder that has learned nothing; name a run with starts.")
    folds = folds or all_folds
    configs = {
        name: [training.finished_config(run.replace(_FOLD, fold)) for fold in folds]
        for name, run in named.items()
    }
    encoder = encoder or next((configs[name][0]["encoder"] for name in configs), "esresnet_small")
    settings = {
        "clips": clips, "starts": list(starts), "folds": list(folds), "encoder": encoder, "freeze": freeze,
        "num_epochs": num_epochs, "batch_size": batch_size, "learning_rate": learning_rate,
        "precision": precision, "seed": seed,
    }  # fmt: skip
    ways = ({} if freeze else {FROM_SCRATCH: ""}) | named
    accuracies, num_clips = {}, 0
    with resumption.taken_up(output, settings, overwrite=overwrite, job="finetune"):
        for name, run in ways.items():
            rows = []
            for fold in folds:
                learned = examples.find_instances([clips], exclude_folds=(fold,), labelled=True)
                steps = max(1, round(learned.num_instances / batch_size))
                folder = os.path.join(output, "runs", _slug(name), f"without_{fold}")
                if not os.path.exists(os.path.join(folder, training.ENCODER_INFO_NAME)):
                    training.train_classifier(
                        clips, folder, start_from=run.replace(_FOLD, fold), encoder="" if run else encoder,
                        freeze=freeze, multi_label=False, hard=True, replace_last_layer=True, augment=True,
                        measure_folds=(fold,), num_steps=num_epochs * steps, batch_size=batch_size,
                        learning_rate=learning_rate, learning_rate_decay="constant", precision=precision,
                        steps_per_checkpoint=steps, seed=seed,
                    )  # fmt: skip
                log = training.read_log(os.path.join(folder, training.LOG_NAME))
                rows.append([row["accuracy"] for row in log])
            accuracies[name] = np.array(rows)
        for fold in folds:
            num_clips += examples.find_instances([clips], folds=(fold,), labelled=True).num_instances
        result = FineTuning(tuple(folds), accuracies, len(info.label_names), num_clips)
        resumption.write_json(os.path.join(output, "fine_tuning.json"), result.to_dict())
        resumption.write_text(os.path.join(output, "fine_tuning.txt"), f"{result}\n")
        epochs = range(1, num_epochs + 1)
        curves = {name: (epochs, values.T) for name, values in accuracies.items()}
        figure = plots.plot_curves(curves, parameter_name="epochs", score_name="accuracy")
        plots.save_figure(figure, os.path.join(output, "fine_tuning.png"))
    return result


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
