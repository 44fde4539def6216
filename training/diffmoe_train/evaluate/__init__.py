"""How good are the pictures?  See ``python -m diffmoe_train.evaluate --help``."""
