"""Beam jobs, one a file. Code imports them as `tfsound.beam`; here alone is apache_beam imported."""

import logging

# At its import Beam warns of Google's clients, which only jobs on Google Cloud need.
_disabled = logging.root.manager.disable
logging.disable(logging.WARNING)
import apache_beam  # noqa: E402, F401

logging.disable(_disabled)
