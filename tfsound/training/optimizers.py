"""Optimizers and the rates at which they learn, step by step."""

import math

import keras
import tensorflow as tf

# What the rate of cold epochs is of the full one.
_COLD = 0.1


@keras.saving.register_keras_serializable("tfsound")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A low rate at first, then up to the full one, then less and less; the same throughout an epoch.

    Epochs e count from 0. A tenth of the rate while `e < cold_epochs`; then, in the w-th of `warm_up_epochs`
    from 1 on, `rate (0.1 + 0.9 w / warm_up_epochs)`; and from the next epoch on
    `rate decay_per_epoch ** (e - cold_epochs - warm_up_epochs)`.

    Args:
      learning_rate: the full one.
      steps_per_epoch: at least 1.
      cold_epochs, warm_up_epochs: how many, 0 for none.
      decay_per_epoch: in (0, 1]; 1 for a rate that stays.

    Raises:
      ValueError: a number out of range.

    Source: `WarmUpExponentialLR` in the code that Guzhov et al. 2020 (ESResNet) published.
    """

    def __init__(
        self,
        learning_rate: float,
        steps_per_epoch: int,
        *,
        cold_epochs: int = 5,
        warm_up_epochs: int = 10,
        decay_per_epoch: float = 0.985,
    ):
        if min(cold_epochs, warm_up_epochs) < 0 or not 0 < decay_per_epoch <= 1:
            raise ValueError(
                "cold_epochs and warm_up_epochs must be at least 0 and decay_per_epoch in (0, 1], got "
                f"{cold_epochs}, {warm_up_epochs} and {decay_per_epoch}."
            )
        if steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be at least 1, got {steps_per_epoch}.")
        self._config = {
            "learning_rate": learning_rate, "steps_per_epoch": steps_per_epoch, "cold_epochs": cold_epochs,
            "warm_up_epochs": warm_up_epochs, "decay_per_epoch": decay_per_epoch,
        }  # fmt: skip

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        config = self._config
        epoch = tf.floor(tf.cast(step, tf.float32) / config["steps_per_epoch"])
        num_warm = epoch - config["cold_epochs"] + 1.0
        rising = _COLD + (1 - _COLD) * num_warm / max(config["warm_up_epochs"], 1)
        num_decaying = num_warm - config["warm_up_epochs"] - 1.0
        factor = tf.where(
            num_decaying >= 0,
            config["decay_per_epoch"] ** tf.maximum(num_decaying, 0.0),
            tf.where(num_warm > 0, rising, _COLD),
        )
        return config["learning_rate"] * factor

    def get_config(self) -> dict:
        return self._config


@keras.saving.register_keras_serializable("tfsound")
class AdamWithPenalty(keras.optimizers.Adam):
    """Adam on the loss and a penalty on all weights, `penalty / 2 * sum of weights ** 2`.

    Its gradient passes through Adam's moments, as that of `weight_decay` of PyTorch's Adam does. That of
    Keras's Adam is another one: it shrinks weights beside the moments (AdamW).

    Args:
      penalty: at least 0.
    """

    def __init__(self, learning_rate=1e-3, *, penalty: float = 0.0, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.penalty = penalty

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient + self.penalty * variable, variable, learning_rate)

    def get_config(self) -> dict:
        return super().get_config() | {"penalty": self.penalty}


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """How many batches come nearest to all examples, at least one."""
    return max(1, round(num_examples / batch_size))


def learning_rate_schedule(config: dict):
    """The rate of a run, or its schedule, as the setting `learning_rate_decay` says.

    `constant`; `cosine`, a half cosine from the rate to 0 over `num_steps`; or, for runs with epochs of
    `steps_per_epoch`, `exponential`, which is `WarmUp`.

    Raises:
      ValueError: another word, or a number out of range.
    """
    decay, rate = config["learning_rate_decay"], config["learning_rate"]
    if decay == "constant":
        return rate
    if decay == "cosine":
        return keras.optimizers.schedules.CosineDecay(rate, config["num_steps"])
    if "steps_per_epoch" not in config:
        raise ValueError(f"learning_rate_decay must be 'constant' or 'cosine', got {decay!r}.")
    if decay != "exponential":
        raise ValueError(f"learning_rate_decay must be 'constant', 'cosine' or 'exponential', got {decay!r}.")
    names = ("steps_per_epoch", "cold_epochs", "warm_up_epochs", "decay_per_epoch")
    return WarmUp(rate, **{name: config[name] for name in names})


def make_optimizer(config: dict) -> keras.optimizers.Optimizer:
    """Adam, at the rate of `learning_rate_schedule`, with the penalty of the setting `weight_decay`, if any.

    Raises:
      ValueError: as `learning_rate_schedule`; a penalty below 0 or not finite.
    """
    rate, penalty = learning_rate_schedule(config), config.get("weight_decay", 0.0)
    if not 0 <= penalty < math.inf:
        raise ValueError(f"weight_decay must be at least 0 and finite, got {penalty}.")
    return AdamWithPenalty(rate, penalty=penalty) if penalty else keras.optimizers.Adam(rate)
