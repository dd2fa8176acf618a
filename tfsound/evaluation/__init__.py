"""The papers' protocols: how good a representation of sounds is, by retrieval and by classification.

`segments` and `labelled_windows` hold what is scored; `retrieval` (Jansen et al. 2018, section 4.3),
`classification` and `lightly_supervised` (section 4.4, with the networks of `classifiers`) score it;
`clip_scores` measures a trained classifier (Jansen et al. 2020, section 4.2); `cross_modal` finds pictures by
sound and sounds by picture; `tables` puts the scores side by side (2018, tables 2 and 3).
"""

from tfsound.evaluation.classification import Classification, classify
from tfsound.evaluation.classifiers import (
    Architecture,
    TrainedClassifier,
    TrainingOptions,
    encoder_classifier,
    fit_classifier,
    fully_connected,
    segment_scores,
)
from tfsound.evaluation.clip_scores import (
    ClassifierEvaluation,
    ClipScores,
    evaluate_classifier,
    load_score,
    score_clips,
)
from tfsound.evaluation.cross_modal import (
    CHANCE,
    PICTURE_TO_SOUND,
    SOUND_TO_PICTURE,
    CrossModalRetrieval,
    PairScore,
    WindowsAndFrames,
    cross_modal_retrieval,
    evaluate_cross_modal,
    retrieval_table,
    score_columns,
    score_matrix,
    windows_and_frames,
)
from tfsound.evaluation.fine_tuning import (
    FROM_SCRATCH,
    FineTuning,
    FineTuningOptions,
    accuracy_by_epoch,
    fine_tune,
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
    embed_baseline,
    embed_segments,
    halve,
    label_matrix,
    load_embed,
)
from tfsound.evaluation.tables import ONE_LAYER, QUERY_BY_EXAMPLE, TWO_LAYERS, ScoreTable

__all__ = [
    "BASELINE",
    "CHANCE",
    "FROM_SCRATCH",
    "LEARNED",
    "ONE_LAYER",
    "PICTURE_TO_SOUND",
    "QUERY_BY_EXAMPLE",
    "SOUND_TO_PICTURE",
    "TWO_LAYERS",
    "Architecture",
    "Classification",
    "ClassifierEvaluation",
    "ClipScores",
    "CrossModalRetrieval",
    "Embed",
    "Evaluation",
    "EvaluationError",
    "FineTuning",
    "FineTuningOptions",
    "LabelledWindows",
    "LightSupervision",
    "PairScore",
    "ScoreTable",
    "Segments",
    "TrainedClassifier",
    "TrainingOptions",
    "WindowsAndFrames",
    "accuracy_by_epoch",
    "classify",
    "cross_modal_retrieval",
    "draw_segments",
    "embed_baseline",
    "embed_segments",
    "embed_windows",
    "encoder_classifier",
    "evaluate",
    "evaluate_classifier",
    "evaluate_cross_modal",
    "fine_tune",
    "fit_classifier",
    "fully_connected",
    "halve",
    "label_matrix",
    "light_supervision",
    "load_embed",
    "load_score",
    "merge",
    "query_by_example",
    "retrieval_table",
    "score_clips",
    "score_columns",
    "score_matrix",
    "segment_scores",
    "windows_and_frames",
    "write_evaluation",
]
