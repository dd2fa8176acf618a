"""Active learning: clusters -> questions -> answers -> propagated labels.

One randomly chosen member of each cluster is asked about, and its answer goes to all members, with where it
came from. Everything here runs without TensorFlow but the job `questions`, which embeds clips.

Source: Jansen et al. 2020, sections 3.3 and 4.2.
"""

from tfsound.active_learning.annotated import AnnotatedWindows, annotated_windows
from tfsound.active_learning.answer_job import LabelSummary, answers
from tfsound.active_learning.answer_log import (
    LABELS,
    NONE,
    UNSURE,
    WITHDRAWN,
    Answer,
    AnswerLog,
    read_answers,
)
from tfsound.active_learning.classes import (
    SoundClass,
    ancestors,
    audioset_classes,
    read_classes,
    write_classes,
)
from tfsound.active_learning.clustering import Assign, Clustering, clustering_of, k_means, unit_rows
from tfsound.active_learning.exchange import (
    read_annotations,
    write_label_studio_tasks,
    write_question_csv,
)
from tfsound.active_learning.gathering import GatheredAnswers, gather_answers
from tfsound.active_learning.propagation import (
    Propagation,
    WindowLabel,
    label_arrays,
    propagate,
)
from tfsound.active_learning.question_job import (
    embed_clips,
    questions,
    questions_from_embeddings,
    read_rows,
)
from tfsound.active_learning.question_options import QuestionOptions
from tfsound.active_learning.question_set import (
    Neighbour,
    Question,
    QuestionSet,
    WindowClusters,
    read_questions,
    read_windows,
    write_questions,
)
from tfsound.active_learning.selection import EarlierQuestion, make_questions
from tfsound.active_learning.simulation import Simulation, label_at_random, simulate, simulated_answers
from tfsound.records import ActiveLearningError
from tfsound.window_labels import (
    NEGATIVE,
    POSITIVE,
    UNCERTAIN,
    PropagatedLabels,
    read_propagated_labels,
    window_starts,
)

__all__ = [
    "LABELS",
    "NEGATIVE",
    "NONE",
    "POSITIVE",
    "UNCERTAIN",
    "UNSURE",
    "WITHDRAWN",
    "ActiveLearningError",
    "AnnotatedWindows",
    "Answer",
    "AnswerLog",
    "Assign",
    "Clustering",
    "EarlierQuestion",
    "GatheredAnswers",
    "LabelSummary",
    "Neighbour",
    "PropagatedLabels",
    "Propagation",
    "Question",
    "QuestionOptions",
    "QuestionSet",
    "Simulation",
    "SoundClass",
    "WindowClusters",
    "WindowLabel",
    "ancestors",
    "annotated_windows",
    "answers",
    "audioset_classes",
    "clustering_of",
    "embed_clips",
    "gather_answers",
    "k_means",
    "label_arrays",
    "label_at_random",
    "make_questions",
    "propagate",
    "questions",
    "questions_from_embeddings",
    "read_annotations",
    "read_answers",
    "read_classes",
    "read_propagated_labels",
    "read_questions",
    "read_rows",
    "read_windows",
    "simulate",
    "simulated_answers",
    "unit_rows",
    "window_starts",
    "write_classes",
    "write_label_studio_tasks",
    "write_question_csv",
    "write_questions",
]
