"""Checkpoints of a training run: saved atomically, restored from the last that can be read."""

import os
import shutil
import sys

import keras

_WEIGHTS_NAME = "model.weights.h5"
_KEPT_CHECKPOINTS = 2


class TrainingError(RuntimeError):
    """A run that cannot start or go on; the message says why and what to do."""


def steps_done(model: keras.Model) -> int:
    """The optimizer steps that a compiled model has taken."""
    # A mirrored variable converts to an array, and not to an int.
    return int(keras.ops.convert_to_numpy(model.optimizer.iterations))


class Checkpoints(keras.callbacks.Callback):
    """Saves model and optimizer at the end of each epoch, atomically; keeps the last two.

    Args:
      directory: where checkpoints lie, `step-<number>` each.
    """

    def __init__(self, directory: str):
        super().__init__()
        self._directory = directory
        os.makedirs(directory, exist_ok=True)

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, ascending."""
        names = [name.removeprefix("step-") for name in os.listdir(self._directory)]
        return sorted(int(name) for name in names if name.isdigit())

    def _path(self, step: int) -> str:
        return os.path.join(self._directory, f"step-{step:08d}")

    def restore(self, model: keras.Model) -> int:
        """Loads the last readable checkpoint into a built model and optimizer; returns its step, 0 for none.

        Where one cannot be read (the machine lost power, say), the one before it serves.

        Raises:
          TrainingError: there are checkpoints, and none can be read.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                model.load_weights(os.path.join(self._path(step), _WEIGHTS_NAME))
                return step
            except OSError as error:
                print(f"{self._path(step)} cannot be read ({error}); trying an older one.", file=sys.stderr)
        if steps:
            raise TrainingError(f"no checkpoint in {self._directory} can be read; pass --overwrite.")
        return 0

    def save(self) -> None:
        step = steps_done(self.model)
        temporary = self._path(step) + ".tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        os.makedirs(temporary)
        self.model.save_weights(os.path.join(temporary, _WEIGHTS_NAME))
        shutil.rmtree(self._path(step), ignore_errors=True)  # one that could not be read
        os.rename(temporary, self._path(step))
        for old in self.steps()[:-_KEPT_CHECKPOINTS]:
            shutil.rmtree(self._path(old))

    def on_epoch_end(self, epoch: int, logs: dict | None = None):
        self.save()
