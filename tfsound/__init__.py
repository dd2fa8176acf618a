"""tfsound: from unlabelled sound to an embedding, categories, classifiers and SavedModels.

Import the module of the topic at hand (`from tfsound import mel, models`); nothing heavy is imported here.
"""

from tfsound.version import __version__

__all__ = ["__version__"]
