"""Models to train, one for each objective: `keras.Model`s whose `train_step` reads as the algorithm.

They work with `model.fit` alone and under `tf.distribute.MirroredStrategy`, where negatives come from the
global batch of all replicas and the gradients are those of one device with the global batch.
"""

from tfsound.models.classifier import ClassifierModel
from tfsound.models.coincidence import CoincidenceModel
from tfsound.models.instances import InstanceDiscriminationModel
from tfsound.models.replicas import all_replicas
from tfsound.models.triplets import TripletModel

__all__ = [
    "ClassifierModel",
    "CoincidenceModel",
    "InstanceDiscriminationModel",
    "TripletModel",
    "all_replicas",
]
