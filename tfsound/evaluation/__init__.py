"""The papers' protocols: how good a representation of sounds is, by retrieval and by classification.

`segments` and `labelled_windows` hold what is scored; `retrieval` (Jansen et al. 2018, section 4.3),
`classification` and `lightly_supervised` (section 4.4, with the networks of `classifiers`) score it; `tables`
puts the scores side by side (tables 2 and 3).
"""

from tfsound.evaluation.classification import Classification, classify
from tfsound.evaluation.classifiers import (
    Architecture,
    TrainedClassifier,
    TrainingOptions,
    encoder_classifier,
    fully_connected,
    segment_scores,
    train_classifier,
)
from tfsound.evaluation.labelled_windows import LabelledWindows, embed_windows
from tfsound.evaluation.lightly_supervised import LightSupervision, draw_segments, light_supervision
from tfsound.evaluation.retrieval import (
    BASELINE,
    LEARNED,
    Evaluation,
    evaluate,
    merge,
    query_by_example,
    write_evaluation,
)
from tfsound.evaluation.segments import (
    Embed,
    EvaluationError,
    Segments,
    clip_windows,
    embed_baseline,
    embed_segments,
    halve,
    label_matrix,
    load_embed,
)
from tfsound.evaluation.tables import ONE_LAYER, QUERY_BY_EXAMPLE, TWO_LAYERS, ScoreTable

__all__ = [
    "BASELINE",
    "LEARNED",
    "ONE_LAYER",
    "QUERY_BY_EXAMPLE",
    "TWO_LAYERS",
    "Architecture",
    "Classification",
    "Embed",
    "Evaluation",
    "EvaluationError",
    "LabelledWindows",
    "LightSupervision",
    "ScoreTable",
    "Segments",
    "TrainedClassifier",
    "TrainingOptions",
    "classify",
    "clip_windows",
    "draw_segments",
    "embed_baseline",
    "embed_segments",
    "embed_windows",
    "encoder_classifier",
    "evaluate",
    "fully_connected",
    "halve",
    "label_matrix",
    "light_supervision",
    "load_embed",
    "merge",
    "query_by_example",
    "segment_scores",
    "train_classifier",
    "write_evaluation",
]
