"""A page on which a person answers questions: hears the sound, sees it, chooses classes by keyboard.

`tfsound label QUESTIONS` serves it on this machine. An answer is on disk before the next question is shown,
so the server may be stopped or killed at any time; the same command goes on where it ended.

Source: Jansen et al. 2020, section 3.3, whose annotators this page serves.
"""

from tfsound.labelling.serving import LabelRun, label

__all__ = ["LabelRun", "label"]
