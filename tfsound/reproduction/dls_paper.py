"""What the DLS paper reports: its data sets, its hyperparameters, what it says of its curves.

Source: Hornauer et al. 2021.
"""

import dataclasses

from tfsound import evaluation

NAME = "dls-2021"
TITLE = "Hornauer et al. 2021, Unsupervised discriminative learning of sounds"

# The starts of figure 4. The paper's has heard all folds of all sets, without labels; the first one has
# nothing of the fold that it is measured on.
OTHER_FOLDS = "DLS, other folds"
ALL_SETS = "DLS, all sets and folds"
IMAGENET = "ImageNet"


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A column of table 1."""

    name: str
    num_clips: int
    num_classes: int
    longest_seconds: float
    num_folds: int


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """What phase one settles: section 4."""

    embedding_dim: int = 128
    num_negatives: int = 64
    temperature: float = 0.4

    def __str__(self) -> str:
        negatives = f"{self.num_negatives} negatives" if self.num_negatives else "all rows"
        return f"d {self.embedding_dim}, {negatives}, tau {self.temperature:g}"


HYPERPARAMETERS = Hyperparameters()
NUM_NEIGHBORS = 5

# By the names of our adapters.
TABLE_1 = {
    "urbansound8k": DataSet("US8K", 8732, 10, 4, 10),
    "esc50": DataSet("ESC 50", 2000, 50, 5, 5),
    "esc10": DataSet("ESC 10", 400, 10, 5, 5),
    "dcase2013": DataSet("DCASE 2013", 200, 10, 30, 2),
}
# Section 6, of curves without figures: {set: {row: {epochs: about which accuracy}}}.
FIGURE_4 = {
    "esc10": {ALL_SETS: {3: 0.8}, evaluation.FROM_SCRATCH: {3: 0.4}},
    "esc50": {ALL_SETS: {15: 0.6}},
    "dcase2013": {ALL_SETS: {11: 0.5}},
}
