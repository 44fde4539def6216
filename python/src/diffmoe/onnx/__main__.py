"""``python -m diffmoe.onnx MODEL OUT.onnx``"""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
