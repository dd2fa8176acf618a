"""What the triplet papers report, row by row. The figures are the papers', on AudioSet.

Sources: Jansen et al. 2018 (ICASSP), tables 1 to 3; its workshop version of 2017, tables 1 and 2.
"""

import dataclasses

from tfsound import evaluation

MEASURES = (evaluation.QUERY_BY_EXAMPLE, evaluation.ONE_LAYER, evaluation.TWO_LAYERS)


@dataclasses.dataclass(frozen=True)
class Representation:
    """A row of table 2: how it is learned, and what the paper measured in the order of `MEASURES`.

    Without constraints it is the log-mel baseline.
    """

    name: str
    constraints: tuple[str, ...]
    paper: tuple[float, float, float]


TOPLINE = Representation("Explicit labels (topline)", ("labels",), (0.790, 0.288, 0.289))
BASELINE = Representation("Log mel (baseline)", (), (0.423, 0.065, 0.102))
_NOISE = Representation("Gaussian noise (0.5)", ("noise:0.5",), (0.478, 0.096, 0.114))
_TRANSLATION = Representation("T/F translation (10)", ("translation:10",), (0.508, 0.108, 0.125))
_MIXING = Representation("Mixed example (0.25)", ("mixing:0.25",), (0.489, 0.103, 0.122))
_UNSUPERVISED = (*_NOISE.constraints, *_TRANSLATION.constraints, *_MIXING.constraints)


@dataclasses.dataclass(frozen=True)
class LightModel:
    """A row of table 3: the classifier, what it learns from, and what the paper measured."""

    name: str
    on_embedding: bool
    num_layers: int | None
    paper: float


@dataclasses.dataclass(frozen=True)
class Paper:
    """`sweeps` is table 1: the name of a parameter to (constraint, the paper's mAP), value by value."""

    title: str
    representations: tuple[Representation, ...]
    light_models: tuple[LightModel, ...]
    sweeps: dict[str, tuple[tuple[str, float], ...]]
    table_numbers: tuple[str, str, str]

    @property
    def numbers(self) -> tuple[str, ...]:
        """The tables that there are."""
        return tuple(number for number in self.table_numbers if number)

    @property
    def joint(self) -> Representation:
        return self.representations[-1]


_LIGHT_MODELS = (
    LightModel("Log mel, fully connected (4 x 512)", False, 4, 0.032),
    LightModel("Log mel, encoder from scratch", False, None, 0.072),
    LightModel("Joint unsupervised triplet, fully connected (1 x 512)", True, 1, 0.143),
)


def _representations(proximity: str, shown: str) -> tuple[Representation, ...]:
    return (
        TOPLINE,
        BASELINE,
        _NOISE,
        _TRANSLATION,
        _MIXING,
        Representation(f"Temporal proximity ({shown})", (proximity,), (0.562, 0.226, 0.241)),
        Representation("Joint unsupervised", (*_UNSUPERVISED, proximity), (0.575, 0.244, 0.259)),
    )


PAPERS = {
    "triplets-2018": Paper(
        title="Jansen et al. 2018, Unsupervised learning of semantic audio representations",
        representations=_representations("proximity:10", "10 s"),
        light_models=_LIGHT_MODELS,
        sweeps={
            "noise_stddev": (
                ("noise:0.1", 0.453), ("noise:0.25", 0.466), ("noise:0.5", 0.478), ("noise:1", 0.478),
            ),
            "max_frequency_shift_bins": (
                ("translation:0", 0.461), ("translation:2", 0.492), ("translation:5", 0.493),
                ("translation:10", 0.508),
            ),
            "mixing_weight": (
                ("mixing:0.1", 0.483), ("mixing:0.25", 0.489), ("mixing:0.5", 0.487), ("mixing:1", 0.476),
            ),
        },
        table_numbers=("1", "2", "3"),
    ),
    "triplets-2017": Paper(
        title="Jansen et al. 2017, Towards learning semantic audio representations from unlabeled data",
        representations=_representations("proximity:inf", "the whole recording"),
        light_models=_LIGHT_MODELS,
        sweeps={},
        table_numbers=("", "1", "2"),
    ),
}  # fmt: skip
