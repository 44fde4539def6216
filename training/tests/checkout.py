"""Finds the package in the checkout where it is not installed.  Imported before it."""

import os
import sys
from importlib.util import find_spec

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "python", "src")

if find_spec("diffmoe") is None:
    SOURCE = os.path.normpath(SOURCE)
    sys.path.insert(0, SOURCE)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH")]))  # of commands
