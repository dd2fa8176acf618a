"""How large a reproduction is."""

import dataclasses

from tfsound import evaluation
from tfsound.reproduction.dls_paper import HYPERPARAMETERS, Hyperparameters


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large everything is.

    `num_examples` (triplets or pairs) and `num_steps` are those of one constraint or kind of pair; a joint
    encoder gets so many for each of its own. `learning_rate` is Adam's; triplets that are not mined have
    `unmined_learning_rate` (Jansen et al. 2018, section 4.2). `vgg` stands in the encoder's place where a
    paper's row is about it. `segments_per_class` are the numbers of labels that light supervision is measured
    with; the papers' is 20, which is a two-hundredth of what they have and most of a small data set.
    Parameters are swept on the first `sweep_folds` of the `max_folds`.

    `budgets` are what simulated annotators are asked in all, as shares of the windows to learn from, one of a
    cluster; `random_budgets` the same, at random. Where n labels may be asked for there are
    `clusters_per_label` n clusters; row k of the coincidence paper's table 1 has those of the largest budget.
    Classifiers are trained for `num_classifier_steps`.
    """

    encoder: str
    vgg: str
    num_examples: int
    num_steps: int
    batch_size: int
    learning_rate: float
    unmined_learning_rate: float
    learning_rate_decay: str
    max_folds: int
    sweep_folds: int
    segments_per_class: tuple[int, ...]
    num_draws: int
    budgets: tuple[float, ...]
    random_budgets: tuple[float, ...]
    clusters_per_label: float
    num_classifier_steps: int
    classifier: evaluation.TrainingOptions


SCALES = {
    # A minute on two cores: shows that everything runs, says nothing of the papers.
    "tiny": Scale(
        encoder="resnet_small", vgg="vgg_small", num_examples=400, num_steps=15, batch_size=32,
        learning_rate=1e-3, unmined_learning_rate=1e-3, learning_rate_decay="cosine",
        max_folds=1, sweep_folds=1, segments_per_class=(3,), num_draws=2,
        budgets=(0.1,), random_budgets=(0.1, 0.5), clusters_per_label=2.0, num_classifier_steps=15,
        classifier=evaluation.TrainingOptions(max_epochs=3, patience=1),
    ),
    # Hours on two cores, on a set of the size of ESC-50.
    "small": Scale(
        encoder="resnet_small", vgg="vgg_small", num_examples=16_000, num_steps=1_000, batch_size=64,
        learning_rate=1e-3, unmined_learning_rate=1e-3, learning_rate_decay="cosine",
        max_folds=5, sweep_folds=2, segments_per_class=(2, 5, 20), num_draws=3,
        budgets=(0.005, 0.01, 0.02, 0.05, 0.1), random_budgets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
        clusters_per_label=2.0, num_classifier_steps=500,
        classifier=evaluation.TrainingOptions(),
    ),
    # The papers': AudioSet, ResNet-50, accelerators. They do not say how many steps; here each triplet serves
    # about eight times.
    "paper": Scale(
        encoder="resnet50", vgg="vgg", num_examples=10_000_000, num_steps=300_000, batch_size=256,
        learning_rate=1e-4, unmined_learning_rate=1e-6, learning_rate_decay="constant",
        max_folds=1, sweep_folds=1, segments_per_class=(20,), num_draws=3,
        # The paper's: 370, 3,700 and 37,000 of 3.7 million, of 1,000, 10,000 and a million clusters.
        budgets=(1e-4, 1e-3, 1e-2), random_budgets=(1e-4, 1e-3, 1e-2, 2e-2, 5e-2, 1e-1),
        clusters_per_label=2.7, num_classifier_steps=300_000,
        # An epoch is 20 million windows.
        classifier=evaluation.TrainingOptions(max_epochs=20, batch_size=1024, patience=3),
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DlsScale:
    """How large everything is that the DLS paper has.

    Clips are heard through `mel_preset`, `context_seconds` at a time, 0 for the preset's. Pre-training takes
    `num_epochs`; among `hyperparameters` its first phase chooses, where there are several data sets.
    """

    encoder: str
    mel_preset: str
    context_seconds: float
    max_folds: int
    num_epochs: int
    batch_size: int
    learning_rate: float
    hyperparameters: tuple[Hyperparameters, ...]
    fine_tuning: evaluation.FineTuningOptions


DLS_SCALES = {
    # A minute on two cores: shows that everything runs, says nothing of the paper.
    "tiny": DlsScale(
        encoder="esresnet_small", mel_preset="audioset", context_seconds=0.96, max_folds=1,
        num_epochs=2, batch_size=32, learning_rate=1e-3,
        hyperparameters=(HYPERPARAMETERS, Hyperparameters(temperature=0.1)),
        fine_tuning=evaluation.FineTuningOptions(
            num_epochs=3, learning_rate=1e-3, cold_epochs=0, warm_up_epochs=0
        ),
    ),
    # Hours on two cores, on a set of the size of ESC-50. At a tenth of ESResNet's rate a small network from
    # scratch would stand still for five epochs of a few steps, and be ahead of nothing.
    "small": DlsScale(
        encoder="esresnet_small", mel_preset="audioset", context_seconds=5.0, max_folds=5,
        num_epochs=50, batch_size=64, learning_rate=1e-3,
        hyperparameters=(
            HYPERPARAMETERS, Hyperparameters(temperature=0.1), Hyperparameters(num_negatives=0),
            Hyperparameters(num_negatives=0, temperature=0.1),
        ),
        fine_tuning=evaluation.FineTuningOptions(learning_rate=1e-3, cold_epochs=0, warm_up_epochs=0),
    ),
    # The paper's: section 4; ESResNet as its authors run it, for as many epochs as figure 4 is told of.
    "paper": DlsScale(
        encoder="esresnet", mel_preset="esresnet", context_seconds=0.0, max_folds=10,
        num_epochs=200, batch_size=64, learning_rate=2.5e-4,
        hyperparameters=(
            HYPERPARAMETERS, Hyperparameters(temperature=0.1), Hyperparameters(num_negatives=0),
            Hyperparameters(embedding_dim=64),
        ),
        fine_tuning=evaluation.FineTuningOptions(num_epochs=30),
    ),
}  # fmt: skip
