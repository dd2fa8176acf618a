"""What the coincidence paper reports in table 1, row by row. The figures are the paper's, on AudioSet.

Source: Jansen et al. 2020 (ICASSP), table 1.
"""

import dataclasses

from tfsound import evaluation, training
from tfsound.examples import AUDIO_AUDIO, AUDIO_IMAGE
from tfsound.reproduction.encoders import Coincidence

TITLE = "Jansen et al. 2020, Coincidence, categorization, and consolidation"
MEASURES = (evaluation.QUERY_BY_EXAMPLE, evaluation.ONE_LAYER)


@dataclasses.dataclass(frozen=True)
class Row:
    """How a row is learned, from triplets under a constraint or from pairs, and the paper's `MEASURES`.

    A row of neither is the log-mel baseline.
    """

    name: str
    paper: tuple[float, float]
    constraint: str = ""
    coincidence: Coincidence | None = None

    @property
    def needs_images(self) -> bool:
        return self.coincidence is not None and AUDIO_IMAGE in self.coincidence.modalities


TOPLINE = Row("a. Explicit label triplet (topline)", (0.784, 0.288), constraint="labels")
BASELINE = Row("b. Log mel (baseline)", (0.421, 0.065))
_AUDIO_IMAGE = Coincidence((AUDIO_IMAGE,))
_AV_CORRESPONDENCE = Coincidence(
    (AUDIO_IMAGE,),
    uses_vgg=True,
    negatives=training.AV_CORRESPONDENCE.negatives,
    max_time_gap_seconds=training.AV_CORRESPONDENCE.max_time_gap_seconds,
)

TABLE_1 = (
    TOPLINE,
    BASELINE,
    Row("c. Temporal proximity triplet", (0.549, 0.226), constraint="proximity:10"),
    Row("d. AV correspondence (VGG)", (0.625, 0.249), coincidence=_AV_CORRESPONDENCE),
    Row("e. AA coincidence", (0.552, 0.206), coincidence=Coincidence((AUDIO_AUDIO,))),
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
    # Section 3.4: first AV alone, then AV and AA.
    Row(
        "j. AA+AV coincidence", (0.677, 0.282),
        coincidence=Coincidence((AUDIO_AUDIO, AUDIO_IMAGE), starts_from=_AUDIO_IMAGE),
    ),
)  # fmt: skip
