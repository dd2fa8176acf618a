"""What the coincidence paper reports, row by row. The figures are the paper's, on AudioSet.

Source: Jansen et al. 2020 (ICASSP), tables 1 to 3.
"""

import dataclasses
import math

from tfsound import evaluation, training
from tfsound.examples import AUDIO_AUDIO, AUDIO_IMAGE
from tfsound.reproduction.encoders import PairRecipe

TITLE = "Jansen et al. 2020, Coincidence, categorization, and consolidation"
MEASURES = (evaluation.QUERY_BY_EXAMPLE, evaluation.ONE_LAYER)


@dataclasses.dataclass(frozen=True)
class Row:
    """How a row is learned, from triplets under a constraint or from pairs, and the paper's `MEASURES`.

    A row of neither is the log-mel baseline. `is_clustered` rows go on from their pairs with the cluster loss
    beside it.
    """

    name: str
    paper: tuple[float, float]
    constraint: str = ""
    coincidence: PairRecipe | None = None
    is_clustered: bool = False

    @property
    def letter(self) -> str:
        return self.name[0]

    @property
    def needs_images(self) -> bool:
        return self.coincidence is not None and AUDIO_IMAGE in self.coincidence.modalities


TOPLINE = Row("a. Explicit label triplet (topline)", (0.784, 0.288), constraint="labels")
BASELINE = Row("b. Log mel (baseline)", (0.421, 0.065))
_AUDIO_IMAGE = PairRecipe((AUDIO_IMAGE,))
_AV_CORRESPONDENCE = PairRecipe(
    (AUDIO_IMAGE,),
    uses_vgg=True,
    negatives=training.AV_CORRESPONDENCE.negatives,
    max_time_gap_seconds=training.AV_CORRESPONDENCE.max_time_gap_seconds,
)

# Section 3.4: first AV alone, then AV and AA.
_JOINT = PairRecipe((AUDIO_AUDIO, AUDIO_IMAGE), starts_from=_AUDIO_IMAGE)

TABLE_1 = (
    TOPLINE,
    BASELINE,
    Row("c. Temporal proximity triplet", (0.549, 0.226), constraint="proximity:10"),
    Row("d. AV correspondence (VGG)", (0.625, 0.249), coincidence=_AV_CORRESPONDENCE),
    Row("e. AA coincidence", (0.552, 0.206), coincidence=PairRecipe((AUDIO_AUDIO,))),
    Row("f. AV coincidence", (0.669, 0.269), coincidence=_AUDIO_IMAGE),
    Row(
        "g. AV, ResNet -> VGG", (0.629, 0.265),
        coincidence=dataclasses.replace(_AUDIO_IMAGE, uses_vgg=True),
    ),
    Row(
        "h. AV, all pairs -> random negatives", (0.641, 0.253),
        coincidence=dataclasses.replace(_AUDIO_IMAGE, negatives="random"),
    ),
    Row(
        "i. AV, 10 s -> 1 s", (0.659, 0.270),
        coincidence=dataclasses.replace(_AUDIO_IMAGE, max_time_gap_seconds=1.0),
    ),
    # Not in the paper: what j gains over f by more steps alone.
    Row(
        "f, in the steps of j", (math.nan, math.nan),
        coincidence=dataclasses.replace(_AUDIO_IMAGE, starts_from=_AUDIO_IMAGE),
    ),
    Row("j. AA+AV coincidence", (0.677, 0.282), coincidence=_JOINT),
    Row("k. AA+AV coincidence + cluster", (0.705, 0.285), coincidence=_JOINT, is_clustered=True),
)  # fmt: skip
LETTERS = frozenset(row.letter for row in TABLE_1)


@dataclasses.dataclass(frozen=True)
class Clusters:
    """A row of table 2: K, labels, and the paper's active clusters, V-measure, recall and precision."""

    num_clusters: int
    num_labels: int
    paper: tuple[int, float, float, float]


TABLE_2 = (
    Clusters(1_000, 370, (968, 0.553, 0.269, 0.097)),
    Clusters(10_000, 3_700, (7_575, 0.639, 0.417, 0.118)),
    Clusters(100_000, 35_830, (35_830, 0.668, 0.560, 0.109)),
    Clusters(1_000_000, 37_000, (77_614, 0.674, 0.549, 0.117)),
)
# Table 3: what is labelled, how many are asked for, mAP and d'; of 3.7 million windows.
TABLE_3 = (
    ("Complete (topline)", 3_700_000, (0.566, 2.58)),
    ("Random", 370_000, (0.421, 2.28)),
    ("Random", 185_000, (0.350, 1.96)),
    ("Random", 74_000, (0.246, 1.71)),
    ("Random", 37_000, (0.211, 1.56)),
    ("Random", 3_700, (0.083, 1.00)),
    ("Random", 370, (0.028, 0.44)),
    ("Cluster, K = 1,000,000", 37_000, (0.335, 2.15)),
    ("Cluster, K = 10,000", 3_700, (0.267, 1.80)),
    ("Cluster, K = 1,000", 370, (0.150, 1.10)),
)


def unsupervised(*, has_images: bool) -> PairRecipe:
    """What clusters start from: both losses of section 3.4, or, of sound alone, the one that there is."""
    return _JOINT if has_images else PairRecipe((AUDIO_AUDIO,))


def clustered(start: PairRecipe, num_clusters: int) -> PairRecipe:
    """The next phase of section 3.4: the same with the cluster loss beside it."""
    return dataclasses.replace(start, starts_from=start, num_clusters=num_clusters)
