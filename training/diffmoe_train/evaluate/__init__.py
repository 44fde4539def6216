"""Evaluation of generated images.  See ``python -m diffmoe_train.evaluate --help``."""
