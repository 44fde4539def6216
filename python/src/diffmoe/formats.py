"""How files store tensors: floats, int8 with one scale per row, int4 with one scale per 32 columns (docs/models.md,
"Importing weights"), and which tensors may lose precision."""

from __future__ import annotations

import numpy as np

SCALE = ".scale"
INT4_GROUP = 32
#: What :func:`encode` writes.
FORMATS = ("f32", "f16", "int8", "int4")
#: Parts of the names of tensors that decide which expert takes a token. Routing compares such values, so they stay in f32.
ROUTING = ("gate_weight", ".gate.", "cluster_centers", "expert_threshold", "capacity_predictor.")
#: Training state, which inference does not need and files may leave out; in f32 too.
STATE = (".ema_decay",)


def decides_routing(name: str) -> bool:
    """Whether a tensor has a say in which expert takes a token."""
    return any(part in name for part in ROUTING)


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is one of the large matrices, which may be stored as integers; the same as in the Rust program."""
    inside = name.startswith(("blocks.", "final_layer.adaLN", "text_encoder.layers."))
    return len(shape) == 2 and inside and not decides_routing(name)


def encode(tensors: dict[str, np.ndarray], dtype: str) -> dict[str, np.ndarray]:
    """Converts float32 tensors to the format ``dtype``; a matrix of integers becomes two tensors, its integers and its scales.
    A matrix with an odd number of columns is int8 where int4 was asked for."""
    integers = {"int8": to_int8, "int4": to_int4}
    stored = {}
    for name, values in tensors.items():
        values = np.ascontiguousarray(values, np.float32)
        if dtype == "f32" or decides_routing(name) or name.endswith(STATE):
            stored[name] = values
        elif dtype in integers and is_matrix(name, values.shape):
            convert = to_int8 if values.shape[1] % 2 else integers[dtype]
            stored[name], stored[name + SCALE] = convert(values)
        else:
            stored[name] = values.astype(np.float16)
    return stored


def to_int8(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``[N, K]`` to integers from -127 to 127 and scales ``[N]``."""
    scale = np.maximum(np.abs(values).max(1) / np.float32(127), np.float32(1e-12))
    return np.clip(np.rint(values / scale[:, None]), -127, 127).astype(np.int8), scale


def from_int8(stored: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """``[N, K]`` integers and ``[N]`` scales to ``[N, K]``."""
    return stored * scale[:, None]


def to_int4(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``[N, K]``, K even, to bytes ``[N, K/2]`` of integers from -8 to 7 and float16 scales ``[N, ⌈K/32⌉]``. In each group of
    32 columns, the value of largest magnitude becomes -8."""
    rows, columns = values.shape
    groups = np.pad(values, ((0, 0), (0, -columns % INT4_GROUP))).reshape(rows, -1, INT4_GROUP)
    largest = np.take_along_axis(groups, np.abs(groups).argmax(-1)[..., None], -1)
    most = np.finfo(np.float16).max
    scale = np.clip(largest / np.float32(-8), -most, most).astype(np.float16)
    factor = scale.astype(np.float32)
    quotients = np.divide(groups, factor, out=np.zeros_like(groups), where=factor != 0)
    # Halves are rounded away from zero, as in the Rust program.
    numbers = np.clip(np.trunc(quotients + np.copysign(np.float32(0.5), quotients)), -8, 7).astype(np.int8)
    numbers = numbers.reshape(rows, -1)[:, :columns]
    return (numbers[:, 0::2] & 15 | numbers[:, 1::2] << 4).view(np.uint8), scale[..., 0]


def from_int4(stored: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """``[N, K/2]`` bytes and ``[N, ⌈K/32⌉]`` scales to ``[N, K]``; even columns are in the low nibbles."""
    low, high = (stored << 4).view(np.int8) >> 4, stored.view(np.int8) >> 4
    numbers = np.stack([low, high], axis=-1).reshape(stored.shape[0], -1)
    return numbers * np.repeat(scale, INT4_GROUP, axis=1)[:, : numbers.shape[1]]
