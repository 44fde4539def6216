"""A small model whose weights are sines, so that it need not be stored: ``python sine.py FILE`` writes it.

Expert choice with shared SwiGLU experts, normalised queries and keys, samples of 6×4 pixels, learned variances, DDPM.
"""

import json
import sys

import numpy as np
from safetensors.numpy import save_file

from diffmoe import Config
from diffmoe.weights import tensors

PARAMS = {"input_size": [6, 4], "in_channels": 3, "num_classes": 5, "patch_size": 2, "depth": 2, "hidden_size": 16}
PARAMS |= {"num_heads": 2, "mlp_ratio": 2, "qk_norm": True, "use_swiglu": True}
PARAMS["MoE_config"] = {"num_experts": 3, "capacity": 1.5, "n_shared_experts": 2, "interleave": False}
DOCUMENT = {"name": "sine", "kind": "ec", "t_kind": "ddpm", "space": "pixels", "params": PARAMS}


def write(path):
    """Tensor number ``n`` has the values ``scale·sin(0.7·i + 1.3·n)``."""
    weights = {}
    for n, (name, shape) in enumerate(tensors(Config.from_dict(DOCUMENT)), start=1):
        scale = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1
        weights[name] = (scale * np.sin(0.7 * np.arange(np.prod(shape)) + 1.3 * n)).astype(np.float32).reshape(shape)
    save_file(weights, path, {"diffmoe": json.dumps(DOCUMENT)})


if __name__ == "__main__":
    write(sys.argv[1])
