"""The diffusion transformer: a forward pass, and the routing of every MoE layer.

Names and formulas follow the official code; docs/models.md lists the supported forms. Shapes: ``B`` samples, ``T`` tokens
per sample, ``S = B·T`` tokens in the pool, ``D`` hidden size, ``H`` heads, ``E`` experts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from . import layers
from .config import Config
from .layers import attend, conv3x3, ffn, heads, layer_norm, linear, rms_norm, rotate, sigmoid, silu, softmax
from .routing import Routing, choose, cosines, route
from .text import Encoded
from .weights import CONTEXT, REFINER, SELECTION_BIAS, TIME_DIMS, router_name


@dataclass
class LayerRouting:
    """Routing of one MoE layer in one pass."""

    block: int
    taken: np.ndarray  #: whether an expert took a token ``[S, E]``, bool
    gate: np.ndarray  #: gate logits ``[S, E]``; logarithms of the scores of a sigmoid router, or cosines with prototypes
    need: np.ndarray | None  #: capacity predictor logits ``[S, E]``
    thresholds: np.ndarray | None  #: thresholds in effect, as probabilities ``[E]``


class Model:
    """A configuration and its weights (float32, official names). ``refiner`` is a model of its own, or None; ``forward``
    evaluates the model without it."""

    def __init__(self, config: Config, weights: dict[str, np.ndarray]):
        of_refiner = {name[len(REFINER) :]: values for name, values in weights.items() if name.startswith(REFINER)}
        self.config, self.weights = config, {name: w for name, w in weights.items() if not name.startswith(REFINER)}
        self.refiner = None if config.refiner is None else Model(config.refiner, of_refiner)
        contexts = {config.context_of(i) for i in range(config.depth)} if config.rope else ()
        self.rotations = {still: layers.rotations(config.grid, config.head_dim, still) for still in contexts}

    def forward(
        self,
        x: np.ndarray,
        t: np.ndarray,
        labels: list[np.ndarray],
        text: Encoded | None = None,
        routing: Routing = Routing(),
        taps: dict | None = None,
    ) -> tuple[np.ndarray, list[LayerRouting]]:
        """Evaluates the model on samples ``[B, C, height, width]`` at times ``t [B]``.

        ``labels`` has one array per label table: rows ``[B]``, or label vectors ``[B, D]``. Returns the output ``[B, C_out, height, width]`` and the
        routing of the MoE layers. ``taps`` receives intermediate results under the names of the recorded test cases.
        """
        c, w = self.config, self.weights
        taps = {} if taps is None else taps
        x = np.asarray(x, np.float32)
        condition = silu(self._condition(np.asarray(t, np.float32), labels, text))
        h = self._patches(x)
        if c.pos_embed:
            h = h + w["pos_embed"]
        alone = self._unlabelled(labels)
        routings = []
        for i in range(c.depth):
            if c.context_tokens and i == c.context_start:
                h = np.concatenate([self._context(labels), h], axis=1)
            h, layer = self._block(i, h, condition, text, routing, alone, taps)
            taps[f"blocks.{i}.out"] = self._of_image(i, h)
            if layer is not None:
                routings.append(layer)
        shift, scale = np.split(linear(w, "final_layer.adaLN_modulation.1", condition), 2, axis=1)
        h = self._modulated(self._of_image(c.depth - 1, h), shift, scale)
        out = self._unpatch(linear(w, "final_layer.linear", h))
        if c.detail_channels:
            taps["detail_head.x"] = out
            out = self._detail(out, x, np.asarray(t, np.float32), taps)
        return out, routings

    def _condition(self, t: np.ndarray, labels: list[np.ndarray], text: Encoded | None) -> np.ndarray:
        """Sum of the time, prompt and label embeddings ``[B, D]``."""
        w = self.weights
        seen = 1 - t if self.config.prediction == "reversed" else t
        features = time_features(seen * np.float32(self.config.time_scale))
        condition = linear(w, "t_embedder.mlp.2", silu(linear(w, "t_embedder.mlp.0", features)))
        if text is not None:
            condition = condition + text.pooled
        for label in self._embedded(labels):
            condition = condition + label
        return condition

    def _embedded(self, labels: list[np.ndarray]) -> list[np.ndarray]:
        """The label vectors ``[B, D]`` of each table."""
        tables = zip(self.config.labels, labels, strict=True)
        return [rows if rows.ndim == 2 else self.weights[table.tensor][rows] for table, rows in tables]

    def _context(self, labels: list[np.ndarray]) -> np.ndarray:
        """The tokens of the context ``[B, n, D]``."""
        return sum(self._embedded(labels))[:, None] + self.weights[CONTEXT]

    def _of_image(self, block: int, tokens: np.ndarray) -> np.ndarray:
        """The tokens of the image, of all those in a block ``[B, n + T, …]``."""
        return tokens[:, self.config.context_of(block) :]

    def _unlabelled(self, labels: list[np.ndarray]) -> np.ndarray | None:
        """Whether tokens are those of a sample without a label ``[S]``; ``None`` unless the routers ask for it."""
        if not self.config.unconditional:
            return None
        (table,), (rows,) = self.config.labels, labels
        null = rows == table.null if rows.ndim == 1 else (rows == self.weights[table.tensor][table.null]).all(1)
        return np.repeat(null, self.config.tokens)

    def _patches(self, x: np.ndarray) -> np.ndarray:
        """Patch embedding ``[B, T, D]``: the strided convolution as one matrix product."""
        (rows, columns), p = self.config.grid, self.config.patch_size
        batch, channels = x.shape[:2]
        x = x.reshape(batch, channels, rows, p, columns, p).transpose(0, 2, 4, 1, 3, 5)
        weight = self.weights["x_embedder.proj.weight"]
        flat = x.reshape(batch, rows * columns, channels * p * p)
        return flat @ weight.reshape(weight.shape[0], -1).T + self.weights["x_embedder.proj.bias"]

    def _unpatch(self, x: np.ndarray) -> np.ndarray:
        """Tokens to samples; within a patch, channels vary fastest."""
        (rows, columns), p, channels = self.config.grid, self.config.patch_size, self.config.out_channels
        x = x.reshape(-1, rows, columns, p, p, channels).transpose(0, 5, 1, 3, 2, 4)
        return x.reshape(-1, channels, rows * p, columns * p)

    def _block(self, i: int, x: np.ndarray, condition: np.ndarray, text: Encoded | None, routing: Routing, alone, taps: dict):
        c, w, block = self.config, self.weights, f"blocks.{i}"
        parts = np.split(linear(w, f"{block}.adaLN_modulation.1", condition), 6, axis=1)
        shift, scale, gate = parts[:3]
        q, k, v = heads(linear(w, f"{block}.attn.qkv", self._modulated(x, shift, scale)), 3, c.num_heads)
        if c.qk_norm:
            q, k = (self._head_norm(f"{block}.attn.{part}", y) for part, y in (("q_norm", q), ("k_norm", k)))
        if c.rope:
            q, k = (rotate(y, *self.rotations[c.context_of(i)]) for y in (q, k))
        x = x + gate[:, None] * linear(w, f"{block}.attn.proj", attend(q, k, v))
        if text is not None:
            memory = taps[f"{block}.kv"] = text.memory[i]
            (q,) = heads(linear(w, f"{block}.cross_attn.q_linear", x), 1, c.num_heads)
            k, v = heads(memory, 2, c.num_heads)
            x = x + linear(w, f"{block}.cross_attn.proj", attend(q, k, v, text.bias))
        shift, scale, gate = parts[3:]
        h = self._modulated(x, shift, scale)
        if c.is_moe(i):
            y, layer = self._moe(i, h.reshape(-1, c.hidden_size), routing, alone, taps)
            y = y.reshape(h.shape)
        else:
            y, layer = ffn(w, f"{block}.mlp", h, c.mlp_act), None
        return x + gate[:, None] * y, layer

    def _head_norm(self, name: str, x: np.ndarray) -> np.ndarray:
        eps, weight = self.config.qk_norm_eps, self.weights[f"{name}.weight"]
        return rms_norm(x, eps) * weight if self.config.rms_norm else layer_norm(x, eps) * weight + self.weights[f"{name}.bias"]

    def _modulated(self, x: np.ndarray, shift: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return (rms_norm(x) if self.config.rms_norm else layer_norm(x)) * (1 + scale[:, None]) + shift[:, None]

    def _moe(self, i: int, x: np.ndarray, routing: Routing, alone, taps: dict) -> tuple[np.ndarray, LayerRouting]:
        """``Σ_e gate[e]·FFN_e(x)`` over the experts that take a token, plus the shared expert ``[S, D]``. Tokens of the
        context, among those of ``x``, are left out of the routing that is reported."""
        c, w, name = self.config, self.weights, f"blocks.{i}.mlp"
        router, taken = w[router_name(c, name)], None
        if c.router == "prototypes":
            gate_logits = cosines(x, router, alone)
            taken = route(c, routing.rule, gate_logits, None, None)
            gate = np.where(taken, gate_logits, np.float32(0))
        elif c.router == "sigmoid":
            gate_logits = x @ router.T
            scores = sigmoid(gate_logits)
            gate_logits = -np.logaddexp(np.float32(0), -gate_logits)
            gate = choose(scores, w[f"{name}.{SELECTION_BIAS}"], int(c.capacity), c.router_scale)
        else:
            gate_logits = x @ router.T
            gate = softmax(gate_logits)
        need = capacity = thresholds = None
        if c.kind == "diffmoe":
            hidden = silu(linear(w, f"{name}.capacity_predictor.0", x))
            need = linear(w, f"{name}.capacity_predictor.2", hidden)
            capacity = sigmoid(need)
            thresholds = routing.thresholds(w[f"{name}.expert_threshold"], i)
        taken = route(c, routing.rule, gate, capacity, thresholds) if taken is None else taken
        taken[:, routing.muted_of(i)] = False
        y = ffn(w, f"{name}.shared_experts", x) if c.shared_hidden else np.zeros_like(x)
        for e in range(c.num_experts):
            rows = np.flatnonzero(taken[:, e])
            if len(rows):
                y[rows] += gate[rows, e, None] * ffn(w, f"{name}.experts.{e}", x[rows])
        if c.context_of(i):
            every = (rows.reshape(-1, c.context_of(i) + c.tokens, rows.shape[1]) for rows in (x, gate, gate_logits, taken))
            x, gate, gate_logits, taken = (self._of_image(i, rows).reshape(-1, rows.shape[2]) for rows in every)
        block = f"blocks.{i}"
        taps |= {f"{block}.moe_in": x, f"{block}.gate": gate, f"{block}.k": taken.sum(0), f"{block}.selected": taken}
        if capacity is not None:
            taps[f"{block}.capacity"] = capacity
        return y, LayerRouting(i, taken, gate_logits, need, thresholds)

    def _detail(self, out: np.ndarray, z: np.ndarray, t: np.ndarray, taps: dict) -> np.ndarray:
        """The detail head: three convolutions that refine the predicted image (docs/models.md)."""
        w = self.weights
        shape = (out.shape[0], 1, *out.shape[2:])
        planes = [out, z, np.broadcast_to(t[:, None, None, None], shape)]
        if self.config.detail_phase:
            row, column = phases(self.config)
            planes += [np.broadcast_to(row[:, None], shape), np.broadcast_to(column, shape)]
        h = np.concatenate(planes, axis=1, dtype=np.float32)
        for name in ("conv_in", "conv_mid", "conv_out"):
            h = taps[f"detail_head.{name}.out"] = conv3x3(w, f"detail_head.{name}", h if name == "conv_in" else silu(h))
        return out + h


def time_frequencies() -> np.ndarray:
    """Frequencies of the time embedding ``[128]``."""
    half = TIME_DIMS // 2
    return np.exp(np.float32(-math.log(10000)) * np.arange(half, dtype=np.float32) / half)


def phases(config: Config) -> list[np.ndarray]:
    """Position of every row ``[height]`` and column ``[width]`` within its patch, from -1 to 1."""
    p = config.patch_size
    return [(2 * (np.arange(n) % p) + 1).astype(np.float32) / np.float32(p) - 1 for n in config.input_size]


def time_features(t: np.ndarray) -> np.ndarray:
    """Cosines, then sines, of ``t`` at 128 frequencies ``[B, 256]``."""
    angles = t[:, None] * time_frequencies()
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
