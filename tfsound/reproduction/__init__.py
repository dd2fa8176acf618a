"""One paper, one data set: its tables, the paper's figures beside ours.

`tfsound reproduce` resumes: every encoder and every score is kept when it is finished.
"""

from tfsound.reproduction.triplets import Reproduction, reproduce

__all__ = ["Reproduction", "reproduce"]
