"""The text encoder as an ONNX graph of its own, because a run evaluates it once.

Its inputs are named as tokenizers name what they return, its outputs as the inputs of the transformer that they become.
"""

from __future__ import annotations

from .. import layers
from ..config import Config
from .graph import Graph

IDS, MASK = "input_ids", "attention_mask"
#: Inputs of the transformer: output of the encoder, the mask of its tokens (``MASK`` again), and the pooled text.
STATES, STATES_MASK, POOLED = "encoder_hidden_states", "encoder_attention_mask", "pooled_projections"


def outputs(config: Config, g: Graph) -> list[str]:
    """Builds the nodes, as in ``diffmoe.text``. Returns the values of ``STATES`` and ``POOLED``."""
    text, bias = config.text, g.padding(MASK)
    width, count = text.hidden_size, text.num_heads
    length = g.op("Shape", IDS, start=1, end=2)
    positions = g.op("Slice", g.weight("text_encoder.position_embedding"), g.shape(0), length, g.shape(0))
    x = g.op("Add", g.op("Gather", g.weight("text_encoder.token_embedding.weight"), IDS, axis=0), positions)
    for i in range(text.depth):
        layer = f"text_encoder.layers.{i}"
        rows = g.linear(f"{layer}.attn.qkv", g.normal(x, width, layers.EPS))
        q, k, v = g.heads(rows, 3, count, width // count)
        x = g.op("Add", x, g.linear(f"{layer}.attn.proj", g.attend(q, k, v, count, width // count, bias)))
        x = g.op("Add", x, g.ffn(f"{layer}.mlp", g.normal(x, width, layers.EPS)))
    states = g.normal(x, width, layers.EPS)
    first = g.op("Squeeze", g.op("Gather", states, g.shape(0), axis=1), g.shape(1))
    return [states, g.linear("text_pool", first)]
