"""Beam jobs, one a file. Code imports them as `tfsound.beam`; here alone is apache_beam imported."""
