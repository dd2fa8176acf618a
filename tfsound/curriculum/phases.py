"""Phases as data: which losses, with which weights, until when; and the curriculum of the paper.

Source: Jansen et al. 2020, section 3.4.
"""

import dataclasses
import re
from collections.abc import Sequence

from tfsound.examples import AUDIO_AUDIO, AUDIO_IMAGE, CLASS_BALANCES

COINCIDENCE, CLASSIFIER, TRIPLETS = "coincidence", "classifier", "triplets"
KINDS = (COINCIDENCE, CLASSIFIER, TRIPLETS)
_DECAYS = ("constant", "cosine")
_WORDS = {"kind": KINDS, "learning_rate_decay": _DECAYS, "class_balance": CLASS_BALANCES}
_FLAGS = ("multi_label", "hard", "freeze")
_NAME = re.compile(r"[a-z0-9][a-z0-9+_-]{0,39}")  # a folder is named after it
_MOST = 10**9
# field: type, least, most
_NUMBERS = {
    "num_steps": (int, 1, _MOST),
    "patience_intervals": (int, 0, _MOST),
    "steps_per_checkpoint": (int, 1, _MOST),
    "batch_size": (int, 1, _MOST),
    "learning_rate": (float, 1e-12, 1e3),
    "num_examples": (int, 1, _MOST),
    "max_time_gap_seconds": (float, 1e-3, 1e9),
    "audio_audio_weight": (float, 0, 1),
    "num_clusters": (int, 0, _MOST),
    "cluster_weight": (float, 0, 1),
    "diversity_weight": (float, 0, 100),
}
_OF_ALL = (
    "name", "kind", "num_steps", "patience_intervals", "steps_per_checkpoint", "batch_size", "learning_rate",
    "learning_rate_decay",
)  # fmt: skip
FIELDS = {
    COINCIDENCE: (
        *_OF_ALL, "modalities", "audio_audio_weight", "num_clusters", "cluster_weight", "diversity_weight",
        "max_time_gap_seconds", "num_examples",
    ),
    CLASSIFIER: (*_OF_ALL, *_FLAGS, "class_balance"),
    TRIPLETS: (*_OF_ALL, "constraints", "num_examples"),
}  # fmt: skip


class CurriculumError(ValueError):
    """Phases that are none, or that do not go with the data; the message names the phase and the field."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """One training run of a curriculum.

    Attributes:
      name: of its folder: small letters, digits, `+`, `-` and `_`.
      kind: `COINCIDENCE` trains on pairs, `TRIPLETS` on triplets, `CLASSIFIER` on propagated labels.
      num_steps: optimizer steps at most.
      patience_intervals: end earlier where the loss no longer falls (`training.has_converged`); 0: do not.
      steps_per_checkpoint: steps of such an interval.
      batch_size: pairs of each kind, triplets or windows a step.
      learning_rate, learning_rate_decay: Adam's; `constant` or `cosine`.
      modalities: coincidence: the kinds of pairs, `examples.AUDIO_AUDIO`, `AUDIO_IMAGE` or both.
      audio_audio_weight: coincidence: alpha, where there are both.
      num_clusters: coincidence: K; 0: no clusters.
      cluster_weight, diversity_weight: coincidence: beta and gamma, where there are clusters.
      max_time_gap_seconds: coincidence: Delta T.
      num_examples: coincidence, triplets: how many pairs of each kind, or triplets, to sample.
      constraints: triplets: as the job `triplets` takes them.
      multi_label, hard, class_balance, freeze: classifier: as `training.train_classifier` takes them.

    Raises:
      CurriculumError: a field out of range, or one that is not of this kind of phase.
    """

    name: str
    kind: str
    num_steps: int = 5000
    patience_intervals: int = 5
    steps_per_checkpoint: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-3
    learning_rate_decay: str = "constant"
    modalities: tuple[str, ...] = ()
    audio_audio_weight: float = 0.1
    num_clusters: int = 0
    cluster_weight: float = 0.1
    diversity_weight: float = 1.1
    max_time_gap_seconds: float = 10.0
    num_examples: int = 20000
    constraints: tuple[str, ...] = ()
    multi_label: bool = True
    hard: bool = False
    class_balance: str = "natural"
    freeze: bool = False

    def __post_init__(self):
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            expected = "a name of at most 40 small letters, digits, `+`, `-` and `_`"
            raise CurriculumError(f"name must be {expected}, got {_shown(self.name)}.")
        for field, words in _WORDS.items():
            if getattr(self, field) not in words:
                raise _problem(field, f"one of {', '.join(words)}", getattr(self, field))
        for field in dataclasses.fields(self):
            if field.name not in FIELDS[self.kind] and getattr(self, field.name) != field.default:
                raise CurriculumError(f"{field.name} is no field of a phase of kind {self.kind}; remove it.")
        for field, (kind, least, most) in _NUMBERS.items():
            value = getattr(self, field)
            is_number = isinstance(value, int | kind) and not isinstance(value, bool)
            if not is_number or not least <= value <= most:
                expected = "a whole number" if kind is int else "a number"
                raise _problem(field, f"{expected} from {least:g} to {most:g}", value)
        for field in _FLAGS:
            if not isinstance(getattr(self, field), bool):
                raise _problem(field, "true or false", getattr(self, field))
        for field, of_kind in (("modalities", COINCIDENCE), ("constraints", TRIPLETS)):
            self._require_words(field, is_used=self.kind == of_kind)
        if not set(self.modalities) <= {AUDIO_AUDIO, AUDIO_IMAGE}:
            raise _problem("modalities", f"{AUDIO_AUDIO}, {AUDIO_IMAGE} or both", self.modalities)
        if self.num_clusters == 1:
            raise _problem("num_clusters", "0 or at least 2", 1)
        if self.kind == COINCIDENCE:
            self._require_enough_pairs()

    def _require_words(self, field: str, *, is_used: bool) -> None:
        values = getattr(self, field)
        is_words = isinstance(values, tuple) and all(isinstance(value, str) for value in values)
        if not is_words or len(set(values)) != len(values) or bool(values) != is_used:
            raise _problem(field, "one word or several, none twice", values)

    def _require_enough_pairs(self) -> None:
        if not 2 <= self.batch_size <= self.num_examples:
            expected = f"from 2, for a pair alone has no negative, to num_examples, {self.num_examples}"
            raise _problem("batch_size", expected, self.batch_size)
        num_windows = self.num_examples * sum(2 if one == AUDIO_AUDIO else 1 for one in self.modalities)
        if self.num_clusters > num_windows:
            expected = f"at most the windows of num_examples pairs, {num_windows}"
            raise _problem("num_clusters", expected, self.num_clusters)

    @property
    def needs_images(self) -> bool:
        return AUDIO_IMAGE in self.modalities


def loss_weights(phase: Phase) -> dict[str, float]:
    """What each loss counts in that of a phase; they add up to 1.

    `(1 - beta) ((1 - alpha) L_AV + alpha L_AA) + beta L_clust` of the paper, or the parts that there are.

    Returns:
      Name of the loss with `_weight` behind it -> its weight, in [0, 1].

    Source: Jansen et al. 2020, section 3.4.
    """
    if phase.kind != COINCIDENCE:
        return {f"{'triplet' if phase.kind == TRIPLETS else 'classification'}_weight": 1.0}
    shares = {AUDIO_IMAGE: 1.0 - phase.audio_audio_weight, AUDIO_AUDIO: phase.audio_audio_weight}
    cluster_weight = phase.cluster_weight if phase.num_clusters else 0.0
    weights = {
        f"{modality}_weight": (1.0 - cluster_weight)
        * (shares[modality] if len(phase.modalities) > 1 else 1.0)
        for modality in phase.modalities
    }
    return weights | ({"cluster_weight": cluster_weight} if phase.num_clusters else {})


def require_order(phases: Sequence[Phase]) -> None:
    """Raises: CurriculumError where phases cannot follow each other as they do."""
    if not phases:
        raise CurriculumError("there are no phases; expected at least one.")
    names = [phase.name for phase in phases]
    for number, (phase, name) in enumerate(zip(phases, names, strict=True)):
        where = f"phase {number + 1} ({name})"
        if name in names[:number]:
            raise CurriculumError(f"{where}: name is that of an earlier phase; give it another.")
        if phase.kind == TRIPLETS and number:
            raise CurriculumError(f"{where}: kind triplets starts from no other run; put it first.")
        if phase.kind == CLASSIFIER and number < len(phases) - 1:
            raise CurriculumError(f"{where}: kind classifier leaves nothing to go on from; put it last.")
        before = phases[number - 1].num_clusters if number else 0
        if before and phase.num_clusters and before != phase.num_clusters:
            raise CurriculumError(
                f"{where}: num_clusters is {phase.num_clusters}, that of the phase before is {before}; use "
                "the same, for clusters go on from each other."
            )


def audio_only(phases: Sequence[Phase]) -> tuple[Phase, ...]:
    """The same phases without images: AV goes, and with it each phase that has nothing else."""
    kept = []
    for phase in phases:
        modalities = tuple(modality for modality in phase.modalities if modality != AUDIO_IMAGE)
        if modalities or phase.kind != COINCIDENCE:
            # The paper's AV+AA is then AA.
            name = phase.name.removeprefix("av+")
            kept.append(dataclasses.replace(phase, name=name, modalities=modalities))
    return tuple(kept)


def _problem(field: str, expected: str, value: object) -> CurriculumError:
    return CurriculumError(f"{field} must be {expected}, got {_shown(value)}.")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


_AV = Phase("av", COINCIDENCE, modalities=(AUDIO_IMAGE,))
_AV_AND_AA = dataclasses.replace(_AV, name="av+aa", modalities=(AUDIO_IMAGE, AUDIO_AUDIO))
# The paper gives neither steps nor a rule of convergence, and has a million clusters, of two million clips.
PAPER_CURRICULUM = (
    _AV,
    _AV_AND_AA,
    dataclasses.replace(_AV_AND_AA, name="clusters", num_clusters=1000),
    Phase("classifier", CLASSIFIER, num_steps=1000, patience_intervals=0, learning_rate_decay="cosine"),
)
