"""The learning curriculum of the 2020 paper: losses one after another, the strongest learning signal first.

First sound and image that coincide (AV), then sound with sound as well (AV+AA), then clusters beside both,
each phase until its loss no longer falls; and when people have labelled the clusters, a classifier. Each
phase is a training run of its own that starts from the weights of the one before. `phases` says what a phase
is, `phase_file` reads and writes them as JSON, `job` runs them, `combined_log` puts their logs together.

Source: Jansen et al. 2020, section 3.4.
"""

from tfsound.curriculum.combined_log import LOG_NAME, SUMMARY_NAME
from tfsound.curriculum.job import Curriculum, Learned, learn
from tfsound.curriculum.phase_file import format_phases, parse_phases, read_phases
from tfsound.curriculum.phases import (
    CLASSIFIER,
    COINCIDENCE,
    PAPER_CURRICULUM,
    TRIPLETS,
    CurriculumError,
    Phase,
    audio_only,
    loss_weights,
)

__all__ = [
    "CLASSIFIER",
    "COINCIDENCE",
    "LOG_NAME",
    "PAPER_CURRICULUM",
    "SUMMARY_NAME",
    "TRIPLETS",
    "Curriculum",
    "CurriculumError",
    "Learned",
    "Phase",
    "audio_only",
    "format_phases",
    "learn",
    "loss_weights",
    "parse_phases",
    "read_phases",
]
