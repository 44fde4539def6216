"""How good are the images?  See ``python -m diffmoe_train.evaluate --help``."""
