"""Evaluation of generated images.  See ``python -m diffmoe.train.evaluate --help``."""
