"""One paper, one data set: its tables, the paper's figures beside ours.

`tfsound reproduce` resumes: every encoder and every score is kept when it is finished.
"""

from tfsound.reproduction.run import PAPERS, Reproduction, reproduce

__all__ = ["PAPERS", "Reproduction", "reproduce"]
