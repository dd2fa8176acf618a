"""How questions are chosen: the options of the job `questions`, checked."""

import dataclasses

from tfsound.active_learning import exchange
from tfsound.active_learning.selection import STRATEGIES
from tfsound.records import ActiveLearningError

# What may make the clusters.
AUTO, HEAD, K_MEANS = "auto", "head", "k-means"


@dataclasses.dataclass(frozen=True)
class QuestionOptions:
    """How questions are chosen; see the arguments of `questions`.

    Raises:
      ActiveLearningError: a number out of range, an unknown strategy or format.
    """

    num_questions: int = 50
    num_clusters: int = 0
    strategy: str = "largest"
    neighbours: int = 3
    after: tuple[str, ...] = ()
    annotations: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    cluster_by: str = AUTO
    pools_clips: bool = False
    seed: int = 0

    def __post_init__(self):
        for name, least in (("num_questions", 1), ("num_clusters", 0), ("neighbours", 0)):
            if getattr(self, name) < least:
                raise ActiveLearningError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        kinds = (AUTO, HEAD, K_MEANS)
        for name, known in (("strategy", STRATEGIES), ("formats", exchange.FORMATS), ("cluster_by", kinds)):
            value = getattr(self, name)
            for item in (value,) if isinstance(value, str) else value:
                if item not in known:
                    raise ActiveLearningError(f"{name} must be of {', '.join(known)}, got {item!r}.")
        if self.annotations and not self.after:
            raise ActiveLearningError("annotations are answers to earlier rounds; name these with after.")
