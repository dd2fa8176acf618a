from setuptools import setup  # Beam's --setup_file accepts no other name; everything is in setup.cfg.

setup()
