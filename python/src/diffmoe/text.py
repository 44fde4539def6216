"""The text encoder, and the encoded prompts of a run (docs/models-text.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .config import Config
from .layers import attend, ffn, heads, layer_norm, linear


@dataclass(frozen=True)
class Encoded:
    """Encoded prompts of a batch."""

    bias: np.ndarray  #: added to attention scores: 0 at tokens, -inf at padding ``[B, 1, 1, L]``
    states: np.ndarray  #: the encoder's output ``[B, L, D_t]``
    pooled: np.ndarray  #: added to the conditioning vector ``[B, D]``
    memory: list[np.ndarray]  #: keys and values of every block ``[B, L, 2·H·d]``

    def rows(self, index: np.ndarray) -> Encoded:
        """Selects rows: ``index[i]`` is the prompt of sample ``i``."""
        return Encoded(self.bias[index], self.states[index], self.pooled[index], [kv[index] for kv in self.memory])


def encode(config: Config, weights: dict, ids: np.ndarray, counts: np.ndarray) -> Encoded:
    """Encodes token ids ``[B, L]``; the first ``counts[i]`` of a row are not padding."""
    text = config.text
    bias = np.where(np.arange(ids.shape[1]) < np.asarray(counts)[:, None], 0, -np.inf).astype(np.float32)[:, None, None]
    x = weights["text_encoder.token_embedding.weight"][ids] + weights["text_encoder.position_embedding"][: ids.shape[1]]
    for i in range(text.depth):
        layer = f"text_encoder.layers.{i}"
        q, k, v = heads(linear(weights, f"{layer}.attn.qkv", layer_norm(x)), 3, text.num_heads)
        x = x + linear(weights, f"{layer}.attn.proj", attend(q, k, v, bias))
        x = x + ffn(weights, f"{layer}.mlp", layer_norm(x))
    states = layer_norm(x)
    pooled = linear(weights, "text_pool", states[:, 0])
    memory = [linear(weights, f"blocks.{i}.cross_attn.kv_linear", states) for i in range(config.depth)]
    return Encoded(bias, states, pooled, memory)
