"""Scores of sound embeddings: NumPy in, numbers out.

Task: say how well distances between embeddings agree with what people hear in the segments, without training
anything (query by example, nearest neighbours), how well a classifier's scores do, how well scores of pairs
find what belongs to a query (a picture to a sound), or how good clusters and the labels spread over them are,
and put scores between a baseline and a topline.

Conventions
    `embeddings`: real, (segments, dim), one row a segment (the mean of its window embeddings). Lengths do not
    matter: every distance is the cosine distance 1 - cos(a, b), in [0, 2]. A zero row has no direction; its
    distance to every row, itself included, is 1.
    `labels`: bool, (segments, classes), many labels a segment allowed.
    Distances are computed in float64 and rounded to `DISTANCE_DECIMALS`, so that distances which are equal on
    paper are equal here, whatever the order of the rows or the number of threads.
    Randomness is a `numpy.random.Generator` passed in.
    What cannot be scored is nan and is counted; input that makes no sense is a `ValueError`.

Metrics
    `average_precision`: one ranking of targets among non-targets.
    `mean_average_precision`: multi-label classification, mean over classes.
    `d_prime`: how far apart segments with and without a class score, class by class and in the mean.
    `v_measure`, `num_active_clusters`: how well clusters agree with classes, and how many are in use.
    `label_quality`: precision and recall of labels that were spread over clusters.
    `query_by_example_map`: segment retrieval, mean over classes.
    `retrieval`: recall and rank of what belongs to a query, among candidates of any kind.
    `retrieval_among_classes`: the same among one candidate of each class.
    `recovery`: share of the gap between baseline and topline.
    `mean_and_spread`: a score over folds or draws.
    `nearest_neighbors`: the segments nearest to a segment or a vector, to look at and listen to.
    `weighted_knn`, `weighted_knn_accuracy`: classes by the votes of the nearest segments.

References
    Jansen et al., "Unsupervised learning of semantic audio representations", ICASSP 2018, sections 4.3, 4.4.
    Jansen et al., "Coincidence, categorization, and consolidation", ICASSP 2020.
    Wu et al., "Unsupervised feature learning via non-parametric instance discrimination", CVPR 2018.
    Hornauer et al., "Unsupervised discriminative learning of sounds for audio event classification", ICASSP
    2021.
"""

from tfsound.metrics.classification import (
    DPrimeResult,
    MeanAveragePrecisionResult,
    average_precision,
    d_prime,
    mean_average_precision,
)
from tfsound.metrics.clusters import LabelQuality, label_quality, num_active_clusters, v_measure
from tfsound.metrics.neighbors import (
    WeightedKnnResult,
    nearest_neighbors,
    weighted_knn,
    weighted_knn_accuracy,
)
from tfsound.metrics.pair_scores import (
    RetrievalResult,
    retrieval,
    retrieval_among_classes,
)
from tfsound.metrics.query_by_example import (
    DISTANCE_DECIMALS,
    QueryByExampleResult,
    query_by_example_map,
)
from tfsound.metrics.summaries import (
    MeanAndSpread,
    mean_and_spread,
    recovery,
)

__all__ = [
    "DISTANCE_DECIMALS",
    "DPrimeResult",
    "LabelQuality",
    "MeanAndSpread",
    "MeanAveragePrecisionResult",
    "QueryByExampleResult",
    "RetrievalResult",
    "WeightedKnnResult",
    "average_precision",
    "d_prime",
    "label_quality",
    "mean_and_spread",
    "mean_average_precision",
    "nearest_neighbors",
    "num_active_clusters",
    "query_by_example_map",
    "recovery",
    "retrieval",
    "retrieval_among_classes",
    "v_measure",
    "weighted_knn",
    "weighted_knn_accuracy",
]
