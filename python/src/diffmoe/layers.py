"""Transformer layers in float32. Features are the last axis."""

from __future__ import annotations

import numpy as np

EPS = 1e-6  # norms without weights, used throughout a DiT


def linear(weights: dict, name: str, x: np.ndarray) -> np.ndarray:
    """``x·Wᵀ + b``; the bias is optional."""
    y = x @ weights[f"{name}.weight"].T
    bias = weights.get(f"{name}.bias")
    return y if bias is None else y + bias


def layer_norm(x: np.ndarray, eps: float = EPS) -> np.ndarray:
    """Layer norm without weight and bias."""
    centred = x - x.mean(-1, keepdims=True)
    variance = np.square(centred).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + np.float32(eps))


def rms_norm(x: np.ndarray, eps: float = EPS) -> np.ndarray:
    """Root-mean-square norm without weight."""
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(eps))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """``1 / (1 + e^-x)``."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def silu(x: np.ndarray) -> np.ndarray:
    """``x·sigmoid(x)``."""
    return x * sigmoid(x)


def gelu(x: np.ndarray) -> np.ndarray:
    """GELU, tanh approximation."""
    return x * sigmoid(np.float32(2 * np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x))


def softmax(x: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def ffn(weights: dict, name: str, x: np.ndarray, act: str = "gelu") -> np.ndarray:
    """Feed-forward network: GELU or SiLU, which have biases, or SwiGLU, which may have them."""
    if f"{name}.gate_proj.weight" in weights:
        gate = silu(linear(weights, f"{name}.gate_proj", x))
        return linear(weights, f"{name}.down_proj", gate * linear(weights, f"{name}.up_proj", x))
    hidden = linear(weights, f"{name}.fc1", x)
    return linear(weights, f"{name}.fc2", silu(hidden) if act == "silu" else gelu(hidden))


def heads(x: np.ndarray, parts: int, count: int) -> list[np.ndarray]:
    """``[B, T, parts·H·d]`` to ``parts`` arrays ``[B, H, T, d]``."""
    batch, tokens, width = x.shape
    split = x.reshape(batch, tokens, parts, count, width // (parts * count))
    return list(split.transpose(2, 0, 3, 1, 4))


def rotations(grid: tuple[int, int], width: int, still: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of 2-D RoPE ``[still + T, d/2]``: the first half of them for rows, the second for columns. The
    ``still`` first tokens keep their place."""
    quarter = width // 4
    frequencies = 10000.0 ** (-np.arange(quarter) / quarter)
    row, column = (at.reshape(-1, 1) * frequencies for at in np.indices(grid))
    angles = np.pad(np.concatenate([row, column], axis=1), ((still, 0), (0, 0)))
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Rotates queries or keys ``[B, H, T, d]``. In each half of a head, numbers ``i`` and ``i + d/4`` are a pair."""
    pairs = x.reshape(*x.shape[:-1], 2, 2, x.shape[-1] // 4)
    a, b = pairs[..., 0, :], pairs[..., 1, :]
    cos, sin = (part.reshape(len(part), 2, -1) for part in (cos, sin))
    return np.stack([a * cos - b * sin, b * cos + a * sin], axis=-2).reshape(x.shape)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """``softmax(q·kᵀ/√d + bias)·v`` for all heads ``[B, H, T, d]``, concatenated to ``[B, T, H·d]``."""
    scores = (q @ k.swapaxes(-1, -2)) * np.float32(q.shape[-1] ** -0.5)
    if bias is not None:
        scores = scores + bias
    mixed = softmax(scores) @ v
    batch, count, tokens, width = mixed.shape
    return mixed.transpose(0, 2, 1, 3).reshape(batch, tokens, count * width)


def conv3x3(weights: dict, name: str, x: np.ndarray) -> np.ndarray:
    """3×3 convolution of ``[B, C, H, W]`` with zero padding, as one matrix product."""
    weight = weights[f"{name}.weight"]
    batch, channels, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))  # [B, C, H, W, 3, 3]
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(batch * height * width, channels * 9)
    y = columns @ weight.reshape(weight.shape[0], -1).T + weights[f"{name}.bias"]
    return y.reshape(batch, height, width, -1).transpose(0, 3, 1, 2)
