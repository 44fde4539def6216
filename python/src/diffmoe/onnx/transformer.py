"""The transformer as an ONNX graph."""

from __future__ import annotations

import numpy as np

from .. import layers, weights
from ..config import Config
from ..model import phases, time_frequencies
from .graph import Graph
from .text import POOLED, STATES, STATES_MASK


class Transformer:
    """Builds the transformer as graph nodes, layer by layer as in ``diffmoe.model``."""

    def __init__(self, config: Config, graph: Graph, routing: str):
        self.c, self.g, self.routing = config, graph, routing
        self.padding = None if config.text is None else graph.padding(STATES_MASK)

    def output(self) -> str:
        c, g = self.c, self.g
        labels = [g.op("Gather", g.weight(table.tensor), table.name, axis=0) for table in c.labels]
        condition = g.silu(self.condition(labels))
        patches = g.op(
            "Conv",
            "x",
            g.weight("x_embedder.proj.weight"),
            g.weight("x_embedder.proj.bias"),
            kernel_shape=[c.patch_size] * 2,
            strides=[c.patch_size] * 2,
        )
        tokens = g.op("Transpose", g.op("Reshape", patches, g.shape(0, c.hidden_size, c.tokens)), perm=[0, 2, 1])
        h = g.op("Add", tokens, g.weight("pos_embed")) if c.pos_embed else tokens
        for i in range(c.depth):
            if c.context_tokens and i == c.context_start:
                h = g.op("Concat", self.context(labels), h, axis=1)
            h = self.block(i, h, condition)
        if c.context_tokens:
            h = g.op("Slice", h, g.shape(c.context_tokens), g.shape(c.context_tokens + c.tokens), g.shape(1))
        shift, scale = self.modulation("final_layer.adaLN_modulation.1", condition, 2)
        return self.images(g.linear("final_layer.linear", self.modulated(h, shift, scale)))

    def context(self, labels: list[str]) -> str:
        """Context tokens ``[B, n, D]``: each is the sum of the label embeddings plus a position embedding of its own."""
        g = self.g
        total = labels[0]
        for label in labels[1:]:
            total = g.op("Add", total, label)
        return g.op("Add", g.op("Unsqueeze", total, g.shape(1)), g.weight(weights.CONTEXT))

    def condition(self, labels: list[str]) -> str:
        """Sum of the time, prompt and label embeddings ``[B, D]``."""
        c, g = self.c, self.g
        time = g.op("Reshape", "t", g.shape(-1, 1))
        if c.prediction == "reversed":
            time = g.op("Sub", g.constant(1.0, "one"), time)
        time = g.op("Mul", time, g.constant(c.time_scale))
        angles = g.op("Mul", time, g.constant(time_frequencies()[None]))
        features = g.op("Concat", g.op("Cos", angles), g.op("Sin", angles), axis=1)
        total = g.linear("t_embedder.mlp.2", g.silu(g.linear("t_embedder.mlp.0", features)))
        for vector in ([POOLED] if c.text is not None else []) + labels:
            total = g.op("Add", total, vector)
        return total

    def modulation(self, name: str, condition: str, parts: int) -> list[str]:
        """Splits an adaLN projection into its ``parts`` shifts, scales and gates, each ``[B, 1, D]``."""
        rows = self.g.op("Unsqueeze", self.g.linear(name, condition), self.g.shape(1))
        return self.g.split(rows, parts)

    def modulated(self, x: str, shift: str, scale: str) -> str:
        c, g = self.c, self.g
        scale = g.op("Add", scale, g.constant(1.0, "one"))
        normal = g.rms_normal(x, layers.EPS) if c.rms_norm else g.normal(x, c.hidden_size, layers.EPS)
        return g.op("Add", g.op("Mul", normal, scale), shift)

    def block(self, i: int, x: str, condition: str) -> str:
        c, g, name = self.c, self.g, f"blocks.{i}"
        parts = self.modulation(f"{name}.adaLN_modulation.1", condition, 6)
        x = g.op("Add", x, g.op("Mul", parts[2], self.attention(i, self.modulated(x, *parts[:2]))))
        if c.text is not None:
            x = g.op("Add", x, self.cross_attention(i, x))
        h = self.modulated(x, *parts[3:5])
        if c.is_moe(i):
            y = self.experts(f"{name}.mlp", g.op("Reshape", h, g.shape(-1, c.hidden_size)))
            y = g.op("Reshape", y, g.shape(-1, c.context_of(i) + c.tokens, c.hidden_size))
        else:
            y = g.ffn(f"{name}.mlp", h, c.mlp_act)
        return g.op("Add", x, g.op("Mul", parts[5], y))

    def attention(self, i: int, x: str) -> str:
        c, g, name = self.c, self.g, f"blocks.{i}.attn"
        q, k, v = g.heads(g.linear(f"{name}.qkv", x), 3, c.num_heads, c.head_dim)
        if c.qk_norm and c.rms_norm:
            q, k = (g.rms_normal(y, c.qk_norm_eps, f"{name}.{part}") for y, part in ((q, "q_norm"), (k, "k_norm")))
        elif c.qk_norm:
            q = g.normal(q, c.head_dim, c.qk_norm_eps, f"{name}.q_norm")
            k = g.normal(k, c.head_dim, c.qk_norm_eps, f"{name}.k_norm")
        if c.rope:
            q, k = self.rotated(q, c.context_of(i)), self.rotated(k, c.context_of(i))
        return g.linear(f"{name}.proj", g.attend(q, k, v, c.num_heads, c.head_dim))

    def cross_attention(self, i: int, x: str) -> str:
        """Attention over the tokens of the prompt; queries come from the residual stream."""
        c, g, name = self.c, self.g, f"blocks.{i}.cross_attn"
        (q,) = g.heads(g.linear(f"{name}.q_linear", x), 1, c.num_heads, c.head_dim)
        k, v = g.heads(g.linear(f"{name}.kv_linear", STATES), 2, c.num_heads, c.head_dim)
        return g.linear(f"{name}.proj", g.attend(q, k, v, c.num_heads, c.head_dim, self.padding))

    def rotated(self, x: str, still: int) -> str:
        """Applies 2-D RoPE to queries or keys ``[B, H, T, d]``: ``x·cos + partner·sin``, with signs in the table of sines."""
        c, g = self.c, self.g
        quarter, tokens = c.head_dim // 4, still + c.tokens
        cos, sin = (part.reshape(tokens, 2, 1, quarter) for part in layers.rotations(c.grid, c.head_dim, still))
        cos = np.concatenate([cos, cos], axis=2).reshape(tokens, c.head_dim)
        sin = np.concatenate([-sin, sin], axis=2).reshape(tokens, c.head_dim)
        parts = g.split(x, 4)
        partner = g.op("Concat", *(parts[i] for i in (1, 0, 3, 2)), axis=-1)
        by = (g.constant(table, f"rotation_{still}_{i}") for i, table in enumerate((cos, sin)))
        return g.op("Add", *(g.op("Mul", of, table) for of, table in zip((x, partner), by)))

    def experts(self, name: str, x: str) -> str:
        """The MoE layer, on all tokens of the batch ``[S, D]``."""
        c, g = self.c, self.g
        router = weights.router_name(c, name)
        if c.router == "prototypes":
            gate, taken = self.nearest(router, x)
        else:
            logits = g.op("MatMul", x, g.constant(g.tensors[router].T, f"{router}.T"))
            if c.router == "sigmoid":
                gate, taken = self.choice(name, g.op("Sigmoid", logits))
            else:
                gate = g.op("Softmax", logits, axis=-1)
                taken = self.taken(name, x, gate)
        if c.shared_hidden:
            y = g.ffn(f"{name}.shared_experts", x)
        else:
            y = g.op("Mul", x, g.constant(0.0, "zero"))
        for e in range(c.num_experts):
            column = g.shape(e)
            weight, mask = (g.op("Gather", of, column, axis=1) for of in (gate, taken))
            expert = f"{name}.experts.{e}"
            if self.routing == "masked":
                weight = g.op("Mul", weight, g.op("Cast", mask, to=g.onnx.TensorProto.FLOAT))
                y = g.op("Add", y, g.op("Mul", weight, g.ffn(expert, x)))
                continue
            places = g.op("NonZero", g.op("Reshape", mask, g.shape(-1)))  # [1, n]
            rows = g.op("Squeeze", places, g.shape(0))
            out = g.op("Mul", g.op("Gather", weight, rows, axis=0), g.ffn(expert, g.op("Gather", x, rows, axis=0)))
            # An expert's rows are distinct, so the result does not depend on the order of the additions.
            y = g.op("ScatterND", y, g.op("Transpose", places, perm=[1, 0]), out, reduction="add")
        return y

    def choice(self, name: str, scores: str) -> tuple[str, str]:
        """Weights and mask ``[S, E]`` of a sigmoid router."""
        c, g, count = self.c, self.g, int(self.c.capacity)
        taken = self.best(g.op("Add", scores, g.weight(f"{name}.{weights.SELECTION_BIAS}")), count, c.num_experts)
        gate = g.op("Mul", scores, g.op("Cast", taken, to=g.onnx.TensorProto.FLOAT))
        if count > 1:
            total = g.op("ReduceSum", gate, g.shape(-1), keepdims=1)
            gate = g.op("Div", gate, g.op("Add", total, g.constant(1e-20, "least")))
        return g.op("Mul", gate, g.constant(c.router_scale, "router_scale")), taken

    def nearest(self, router: str, x: str) -> tuple[str, str]:
        """Weights and mask ``[S, E]`` of a router by prototypes."""
        c, g = self.c, self.g
        prototypes = g.tensors[router]
        unit = prototypes / np.maximum(np.linalg.norm(prototypes, axis=1, keepdims=True), 1e-12)
        length = g.op("Max", g.op("ReduceL2", x, g.shape(-1), keepdims=1), g.constant(1e-12, "least_length"))
        cosine = g.op("MatMul", g.op("Div", x, length), g.constant(unit.T, f"{router}.T"))
        best = self.best(cosine, 1, len(prototypes)) if c.kind == "tc" else self.best_of_samples(cosine, len(prototypes))
        if not c.unconditional:
            return cosine, best
        # The last column is 1 for the tokens of samples without a label, which take no other expert.
        table = c.labels[0]
        alone = g.op("Equal", g.op("Reshape", table.name, g.shape(-1, 1)), g.constant(table.null, "no_label", np.int64))
        alone = g.op("Cast", alone, to=g.onnx.TensorProto.FLOAT)
        alone = g.op("Reshape", g.op("MatMul", alone, g.constant(np.ones((1, c.tokens)), "tokens")), g.shape(-1, 1))
        labelled = g.op("Sub", g.constant(1.0, "one"), alone)
        best = g.op("Mul", g.op("Cast", best, to=g.onnx.TensorProto.FLOAT), labelled)
        taken = g.op("Cast", g.op("Concat", best, alone, axis=1), to=g.onnx.TensorProto.BOOL)
        return g.op("Concat", cosine, alone, axis=1), taken

    def taken(self, name: str, x: str, gate: str) -> str:
        """Boolean routing mask ``[S, E]``: which experts process which tokens."""
        c, g = self.c, self.g
        if c.kind == "diffmoe":
            hidden = g.silu(g.linear(f"{name}.capacity_predictor.0", x))
            need = g.op("Sigmoid", g.linear(f"{name}.capacity_predictor.2", hidden))
            return g.op("Greater", need, g.weight(f"{name}.expert_threshold"))
        if c.kind == "tc":
            return self.best(gate, int(c.capacity), c.num_experts)
        return self.best_of_samples(gate, c.num_experts)

    def best_of_samples(self, gate: str, experts: int) -> str:
        """Mask of the tokens of each sample with the largest gates for an expert, as many as expert choice takes."""
        c, g = self.c, self.g
        by_expert = g.op("Transpose", g.op("Reshape", gate, g.shape(-1, c.tokens, experts)), perm=[0, 2, 1])
        chosen = g.op("Transpose", self.best(by_expert, c.tokens_of_expert, c.tokens), perm=[0, 2, 1])
        return g.op("Reshape", chosen, g.shape(-1, experts))

    def best(self, scores: str, count: int, of: int) -> str:
        """Mask of the ``count`` largest entries along the last axis. TopK breaks ties as ``routing`` does."""
        g = self.g
        _, places = g.op("TopK", scores, g.shape(count), axis=-1, outputs=2)
        marks = g.op("OneHot", places, g.shape(of), g.constant([0.0, 1.0], "off_on"), axis=-1)
        marks = g.op("ReduceSum", marks, g.shape(-2), keepdims=0)
        return g.op("Cast", marks, to=g.onnx.TensorProto.BOOL)

    def images(self, tokens: str) -> str:
        """Rearranges tokens into samples and applies the detail head, if there is one."""
        c, g, p = self.c, self.g, self.c.patch_size
        (rows, columns), (height, width) = c.grid, c.input_size
        x = g.op("Reshape", tokens, g.shape(0, rows, columns, p, p, c.out_channels))
        x = g.op("Transpose", x, perm=[0, 5, 1, 3, 2, 4])
        x = g.op("Reshape", x, g.shape(0, c.out_channels, height, width))
        if not c.detail_channels:
            return x
        plane = g.op("Concat", g.op("Shape", "t"), g.shape(1, height, width), axis=0)
        planes = [x, "x", g.op("Expand", g.op("Reshape", "t", g.shape(-1, 1, 1, 1)), plane)]
        if c.detail_phase:
            row, column = phases(c)
            planes += [
                g.op("Expand", g.constant(phase), plane) for phase in (row[None, None, :, None], column[None, None, None])
            ]
        h = g.op("Concat", *planes, axis=1)
        for i, part in enumerate(("conv_in", "conv_mid", "conv_out")):
            name = f"detail_head.{part}"
            h = g.op("Conv", g.silu(h) if i else h, g.weight(f"{name}.weight"), g.weight(f"{name}.bias"), pads=[1] * 4)
        return g.op("Add", x, h)
