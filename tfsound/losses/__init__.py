"""Losses, one pure function an equation.

`triplets`: Jansen et al. 2018; `coincidence`, `clusters` and `classification`: Jansen et al. 2020;
`instances`: Hornauer et al. 2021.
"""

from tfsound.losses.classification import classification_loss, known_labels
from tfsound.losses.clusters import cluster_entropy_loss
from tfsound.losses.coincidence import (
    all_pairs_coincidence_loss,
    all_pairs_logits,
    coincidence_loss,
    pairwise_accuracy,
    random_negatives_coincidence_loss,
    random_partners,
)
from tfsound.losses.instances import (
    instance_logits,
    instance_softmax_loss,
    log_partition_estimate,
    noise_contrastive_loss,
)
from tfsound.losses.triplets import (
    allowed_negatives,
    row_squared_distances,
    semi_hard_negatives,
    semi_hard_triplet_loss,
    squared_distances,
    triplet_hinges,
    triplet_loss,
)

__all__ = [
    "all_pairs_coincidence_loss",
    "all_pairs_logits",
    "allowed_negatives",
    "classification_loss",
    "cluster_entropy_loss",
    "coincidence_loss",
    "instance_logits",
    "instance_softmax_loss",
    "known_labels",
    "log_partition_estimate",
    "noise_contrastive_loss",
    "pairwise_accuracy",
    "random_negatives_coincidence_loss",
    "random_partners",
    "row_squared_distances",
    "semi_hard_negatives",
    "semi_hard_triplet_loss",
    "squared_distances",
    "triplet_hinges",
    "triplet_loss",
]
