"""The tensors that a configuration requires, and loading them from a file."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .config import Config
from .errors import ModelError
from .files import REFINER, TensorFile
from .formats import STATE

TIME_DIMS = 256
#: Position embedding of the tokens of the context.
CONTEXT = "in_context_posemb"
#: A tensor of JiT in the form of its code, which has others than the files of this project.
PUBLISHED = "x_embedder.proj1.weight"
#: Added to the scores of a sigmoid router for the selection.
SELECTION_BIAS = "gate.e_score_correction_bias"


def _linear(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _ffn(name: str, width: int, hidden: int, swiglu: bool, bias: bool = False):
    if swiglu:
        for part, out, into in (("gate_proj", hidden, width), ("up_proj", hidden, width), ("down_proj", width, hidden)):
            parts = _linear(f"{name}.{part}", out, into)
            yield from parts if bias else [next(parts)]
    else:
        yield from _linear(f"{name}.fc1", hidden, width)
        yield from _linear(f"{name}.fc2", width, hidden)


def router_name(config: Config, layer: str) -> str:
    """Name of the router's weight in an MoE layer, such as ``blocks.1.mlp``."""
    if config.router == "prototypes":
        return f"{layer}.cluster_centers"
    return f"{layer}.gate.weight" if config.kind == "tc" else f"{layer}.gate_weight"


def _moe(c: Config, name: str):
    width, experts = c.hidden_size, c.num_experts
    router = router_name(c, name), (experts - c.unconditional, width)
    # The official modules have their own parameters and buffers first, then the parts; the gate of token choice is a part.
    if c.kind != "tc":
        yield router
    if c.kind == "diffmoe":
        yield f"{name}.expert_threshold", (experts,)
        yield f"{name}.ema_decay", (1,)
    for e in range(experts):
        yield from _ffn(f"{name}.experts.{e}", width, c.expert_hidden, c.expert_swiglu, c.swiglu_bias)
    if c.kind == "tc":
        yield router
    if c.router == "sigmoid":
        yield f"{name}.{SELECTION_BIAS}", (experts,)
    if c.kind == "diffmoe":
        yield from _linear(f"{name}.capacity_predictor.0", width, width)
        yield from _linear(f"{name}.capacity_predictor.2", experts, width)
    if c.shared_hidden:
        yield from _ffn(f"{name}.shared_experts", width, c.shared_hidden, c.shared_swiglu, c.swiglu_bias)


def _text(c: Config):
    t = c.text
    yield "text_encoder.token_embedding.weight", (t.vocab_size, t.hidden_size)
    yield "text_encoder.position_embedding", (t.max_length, t.hidden_size)
    for i in range(t.depth):
        layer = f"text_encoder.layers.{i}"
        yield from _linear(f"{layer}.attn.qkv", 3 * t.hidden_size, t.hidden_size)
        yield from _linear(f"{layer}.attn.proj", t.hidden_size, t.hidden_size)
        yield from _ffn(f"{layer}.mlp", t.hidden_size, t.ffn_hidden, False)
    yield from _linear("text_pool", c.hidden_size, t.hidden_size)


def _block(c: Config, i: int):
    block, width, attention = f"blocks.{i}", c.hidden_size, c.num_heads * c.head_dim
    yield from _linear(f"{block}.attn.qkv", 3 * attention, width)
    if c.qk_norm:
        for part in ("q_norm", "k_norm"):
            parts = _linear(f"{block}.attn.{part}", c.head_dim)
            yield from [next(parts)] if c.rms_norm else parts
    yield from _linear(f"{block}.attn.proj", width, attention)
    if c.text:
        yield from _linear(f"{block}.cross_attn.q_linear", attention, width)
        yield from _linear(f"{block}.cross_attn.kv_linear", 2 * attention, c.text.hidden_size)
        yield from _linear(f"{block}.cross_attn.proj", width, attention)
    if c.is_moe(i):
        yield from _moe(c, f"{block}.mlp")
    else:
        yield from _ffn(f"{block}.mlp", width, c.ffn_hidden, c.swiglu, c.swiglu_bias)
    yield from _linear(f"{block}.adaLN_modulation.1", 6 * width, width)


def tensors(c: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of a model without those of its refiner, in the official names and their order;
    ``Linear.weight`` is ``[out, in]``."""
    width, patch = c.hidden_size, c.patch_size
    if c.pos_embed:
        yield "pos_embed", (1, c.tokens, width)
    if c.context_tokens:
        yield CONTEXT, (1, c.context_tokens, width)
    yield "x_embedder.proj.weight", (width, c.in_channels, patch, patch)
    yield "x_embedder.proj.bias", (width,)
    yield from _linear("t_embedder.mlp.0", width, TIME_DIMS)
    yield from _linear("t_embedder.mlp.2", width, width)
    for table in c.labels:
        yield table.tensor, (table.null + 1, width)
    if c.text:
        yield from _text(c)
    for i in range(c.depth):
        yield from _block(c, i)
    yield from _linear("final_layer.linear", patch * patch * c.out_channels, width)
    yield from _linear("final_layer.adaLN_modulation.1", 2 * width, width)
    if c.detail_channels:
        for name, out, into in (
            ("conv_in", c.detail_channels, 2 * c.in_channels + (3 if c.detail_phase else 1)),
            ("conv_mid", c.detail_channels, c.detail_channels),
            ("conv_out", c.in_channels, c.detail_channels),
        ):
            yield f"detail_head.{name}.weight", (out, into, 3, 3)
            yield f"detail_head.{name}.bias", (out,)


def stored(c: Config) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of a model's file: its own, then those of its refiner."""
    yield from tensors(c)
    if c.refiner is not None:
        yield from ((REFINER + name, shape) for name, shape in tensors(c.refiner))


def load(path) -> tuple[Config, dict[str, np.ndarray]]:
    """Configuration and float32 tensors of a file, also those of its refiner (``refiner.…``). All missing, unexpected and
    mis-shaped tensors are reported at once."""
    file = TensorFile(path)
    config = Config.from_json(file.config_text)
    needed, there = dict(stored(config)), set(file.names())
    if {PUBLISHED, f"net.{PUBLISHED}"} & there:
        raise ModelError(f"{file.path} has a JiT model in the form of its code; make a model file with `diffmoe convert` first")
    problems = []
    for name, shape in needed.items():
        if name not in there:
            if not name.endswith(STATE):
                problems.append(f"{name} {list(shape)} is missing")
        elif file.shape(name) != shape:
            problems.append(f"{name} has shape {list(file.shape(name))}, expected {list(shape)}")
    problems += [f"{name} is not part of this model" for name in sorted(there - set(needed))]
    if problems:
        shown = "; ".join(problems[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise ModelError(f"{file.path} does not fit its configuration: {shown}")
    return config, {name: file.read(name) for name in needed if name in there}
