"""Training runs: data, devices, checkpoints, logs, resumption.

A run's folder holds `config.json` (what it was asked for), `checkpoints/`, `log.csv`, `tensorboard/`, and
at the end `encoder.keras` with `encoder.json`; a run on pairs also `model.keras`, the encoders with their
heads, a run on labels `classifier.keras`, the encoder with its last layer. Each file or folder appears under
its name only when it is complete, so a run killed at any moment resumes from its last checkpoint when it is
started again.

An epoch is the stretch between two checkpoints: it ends with a row of `log.csv` and a checkpoint.

`triplets` trains on triplets, `coincidence` on pairs, `instances` on clips, `classifier` on labels; `runs` is
what they share, with the `optimizers`, and `finished` what they leave.
"""

from tfsound.checkpoints import Checkpoints, TrainingError, steps_done
from tfsound.training.classifier import CLASSIFIER_NAME, load_classifier, train_classifier
from tfsound.training.coincidence import (
    AV_CORRESPONDENCE,
    MODEL_NAME,
    CoincidenceRecipe,
    load_cluster_head,
    load_coincidence_model,
    train_coincidence,
)
from tfsound.training.finished import (
    ENCODER_INFO_NAME,
    ENCODER_NAME,
    LOG_NAME,
    TrainingRun,
    finished_config,
    finished_run,
    load_encoder,
    read_finished,
    read_log,
    save_encoder,
)
from tfsound.training.instances import INSTANCE_MODEL_NAME, load_instance_model, train_instances
from tfsound.training.optimizers import (
    AdamWithPenalty,
    WarmUp,
    learning_rate_schedule,
    make_optimizer,
    steps_per_epoch,
)
from tfsound.training.runs import PRECISIONS, has_converged, progress_seconds, strategy
from tfsound.training.triplets import decide_mining, train

__all__ = [
    "AV_CORRESPONDENCE",
    "CLASSIFIER_NAME",
    "ENCODER_INFO_NAME",
    "ENCODER_NAME",
    "INSTANCE_MODEL_NAME",
    "LOG_NAME",
    "MODEL_NAME",
    "PRECISIONS",
    "AdamWithPenalty",
    "Checkpoints",
    "CoincidenceRecipe",
    "TrainingError",
    "TrainingRun",
    "WarmUp",
    "decide_mining",
    "finished_config",
    "finished_run",
    "has_converged",
    "learning_rate_schedule",
    "load_classifier",
    "load_cluster_head",
    "load_coincidence_model",
    "load_encoder",
    "load_instance_model",
    "make_optimizer",
    "progress_seconds",
    "read_finished",
    "read_log",
    "save_encoder",
    "steps_done",
    "steps_per_epoch",
    "strategy",
    "train",
    "train_classifier",
    "train_coincidence",
    "train_instances",
]
