"""The transformer of a DiffMoE model for diffusers; written by ``diffmoe convert --layout diffusers``.

Tensors have the names of the official DiffMoE code, and the configuration is that of a model file of ``diffmoe``, so both
programs read this folder. Notation: ``B`` samples, ``T`` tokens per sample, ``S = B·T``, ``D`` hidden size, ``E`` experts,
``L`` tokens per prompt.
"""

import math

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from .layers_diffmoe import (
    NOT_ASKED,
    Weights,
    attended,
    best,
    buffers,
    cosines,
    ffn,
    heads,
    linear,
    modulated,
    normal,
    rms_normal,
    rotated,
)

TIME_DIMS = 256
# Added to the scores of a sigmoid router for the selection.
BIAS = "gate.e_score_correction_bias"


class DiffMoETransformer2DModel(ModelMixin, ConfigMixin):
    """Dense DiT, token choice, expert choice or DiffMoE; predicts velocity, its opposite, data or noise."""

    # Training state.
    _keys_to_ignore_on_load_unexpected = [r"\.ema_decay$"]

    @register_to_config
    def __init__(
        self,
        kind: str = "diffmoe",
        t_kind: str = "flow",
        params: dict | None = None,
        name: str = "unnamed",
        format: int = 1,
        time_scale: float = 1.0,
        space: str = "latents",
        null_class: int | None = None,
        # Saved as they are: where a model file has nothing, it has no null either.
        labels: tuple | list = (),
        text: dict | None = None,
        defaults: dict = {},
        card: dict = {},
        # Names of tensors that are stored as integers with scales, by format.
        integers: dict | None = None,
        # Of a second transformer, for the pipeline: the time from which it computes the steps, and its params.
        refiner: dict | None = None,
    ):
        super().__init__()
        p = dict(params)
        moe = p.get("MoE_config") or {}
        size = p["input_size"]
        self.kind = kind
        self.time_scale = time_scale
        self.patch = p["patch_size"]
        self.sample_size = (size, size) if isinstance(size, int) else tuple(size)
        self.grid = tuple(side // self.patch for side in self.sample_size)
        self.width, self.depth, self.heads = p["hidden_size"], p["depth"], p["num_heads"]
        self.head_dim = p.get("head_dim") or self.width // self.heads
        self.in_channels = p.get("in_channels", 4)
        self.out_channels = self.in_channels * (2 if p.get("learn_sigma", True) else 1)
        self.qk_norm, self.swiglu = p.get("qk_norm", False), p.get("use_swiglu", False)
        self.qk_norm_eps = p.get("qk_norm_eps", 1e-5)
        self.hidden = self.expert_hidden = int(self.width * p.get("mlp_ratio", 4))
        self.silu, self.rope = p.get("mlp_act") == "silu", p.get("rope_type") == "2d"
        self.rms, self.swiglu_bias = p.get("norm_type") == "rmsnorm", p.get("swiglu_bias", False)
        self.positions = p.get("pos_embed", not self.rope)
        # Tokens of the labels that take part in the blocks from this one on.
        self.context, self.context_start = p.get("context_tokens", 0), p.get("context_start", 0)
        self.predicts_data = p.get("prediction", "velocity") in ("data", "sample")
        # Such a model counts time from data to noise, and predicts the velocity in this direction.
        self.reversed = p.get("prediction") == "reversed"
        self.experts = 0 if kind == "dense" else moe["num_experts"]
        self.capacity, self.interleave = moe.get("capacity", 1), moe.get("interleave", True)
        shared = 0 if kind == "dense" else moe.get("n_shared_experts") or 0
        # As in the official code: DiffMoE has one GELU network of width 8D, the others a SwiGLU of width n·D.
        self.shared = (8 if kind == "diffmoe" else shared) * self.width if shared else 0
        # The experts of DSMoE are SwiGLU networks of their own width, and so is the shared one.
        self.sigmoid, self.scale = moe.get("router") == "sigmoid", moe.get("routed_scaling_factor", 1.0)
        if self.sigmoid:
            self.expert_hidden = self.shared = moe["moe_intermediate_size"]
        # Those of ProMoE are GELU networks, and the last one may take the samples without a label.
        self.prototypes = moe.get("router") == "prototypes"
        self.unconditional = self.prototypes and moe.get("use_uncond_expert", True)
        if self.prototypes:
            has_shared = moe.get("use_shared_expert") is not False
            self.expert_hidden = moe["moe_intermediate_size"]
            self.shared = moe["shared_expert_intermediate_size"] if has_shared else 0
        head = p.get("detail_head") or {}
        self.detail, self.phase = head.get("channels", 0), head.get("phase", False)
        default = {"name": "class", "tensor": "y_embedder.embedding_table.weight"}
        null = p.get("num_classes") if null_class is None else null_class
        self.tables = labels or ([] if text else [{**default, "null": null, "values": []}])
        self.text = text
        formats = {tensor: kind for kind, names in (integers or {}).items() for tensor in names}
        for tensor, shape in self._shapes():
            *path, last = tensor.split(".")
            module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]
            if tensor in formats:
                for suffix, values in buffers(formats[tensor], *shape):
                    module.register_buffer(last + suffix, values)
            else:
                module.register_parameter(last, nn.Parameter(torch.zeros(shape)))

    def _is_moe(self, block: int) -> bool:
        return self.experts > 0 and (not self.interleave or block % 2 == 1)

    def _shapes(self):
        """Name and shape of every tensor."""

        def linear(name, out, into):
            yield f"{name}.weight", (out, into)
            yield f"{name}.bias", (out,)

        def ffn(name, hidden, swiglu):
            if swiglu:
                for part, out, into in (("gate_proj", hidden, d), ("up_proj", hidden, d), ("down_proj", d, hidden)):
                    yield f"{name}.{part}.weight", (out, into)
                    if self.swiglu_bias:
                        yield f"{name}.{part}.bias", (out,)
            else:
                yield from linear(f"{name}.fc1", hidden, d)
                yield from linear(f"{name}.fc2", d, hidden)

        d, p, attention = self.width, self.patch, self.heads * self.head_dim
        if self.positions:
            yield "pos_embed", (1, self.grid[0] * self.grid[1], d)
        if self.context:
            yield "in_context_posemb", (1, self.context, d)
        yield "x_embedder.proj.weight", (d, self.in_channels, p, p)
        yield "x_embedder.proj.bias", (d,)
        yield from linear("t_embedder.mlp.0", d, TIME_DIMS)
        yield from linear("t_embedder.mlp.2", d, d)
        for table in self.tables:
            yield table["tensor"], (table["null"] + 1, d)
        width = self.text["hidden_size"] if self.text else 0
        if self.text:
            yield "text_encoder.position_embedding", (self.text["max_length"], width)
            yield "text_encoder.token_embedding.weight", (self.text["vocab_size"], width)
            for i in range(self.text["depth"]):
                layer, hidden = f"text_encoder.layers.{i}", int(width * self.text.get("mlp_ratio", 4))
                yield from linear(f"{layer}.attn.qkv", 3 * width, width)
                yield from linear(f"{layer}.attn.proj", width, width)
                yield from linear(f"{layer}.mlp.fc1", hidden, width)
                yield from linear(f"{layer}.mlp.fc2", width, hidden)
            yield from linear("text_pool", d, width)
        for i in range(self.depth):
            block = f"blocks.{i}"
            yield from linear(f"{block}.attn.qkv", 3 * attention, d)
            yield from linear(f"{block}.attn.proj", d, attention)
            for part in ("q_norm", "k_norm") if self.qk_norm else ():
                yield f"{block}.attn.{part}.weight", (self.head_dim,)
                if not self.rms:
                    yield f"{block}.attn.{part}.bias", (self.head_dim,)
            if self.text:
                yield from linear(f"{block}.cross_attn.q_linear", attention, d)
                yield from linear(f"{block}.cross_attn.kv_linear", 2 * attention, width)
                yield from linear(f"{block}.cross_attn.proj", d, attention)
            yield from linear(f"{block}.adaLN_modulation.1", 6 * d, d)
            if not self._is_moe(i):
                yield from ffn(f"{block}.mlp", self.hidden, self.swiglu)
                continue
            yield f"{block}.mlp.{self._router}", (self.experts - self.unconditional, d)
            if self.sigmoid:
                yield f"{block}.mlp.{BIAS}", (self.experts,)
            for e in range(self.experts):
                yield from ffn(f"{block}.mlp.experts.{e}", self.expert_hidden, self.swiglu or self.sigmoid)
            if self.kind == "diffmoe":
                yield f"{block}.mlp.expert_threshold", (self.experts,)
                yield from linear(f"{block}.mlp.capacity_predictor.0", d, d)
                yield from linear(f"{block}.mlp.capacity_predictor.2", self.experts, d)
            if self.shared:
                yield from ffn(f"{block}.mlp.shared_experts", self.shared, self.kind != "diffmoe" and not self.prototypes)
        yield from linear("final_layer.linear", p * p * self.out_channels, d)
        yield from linear("final_layer.adaLN_modulation.1", 2 * d, d)
        if self.detail:
            channels, into = self.in_channels, 2 * self.in_channels + (3 if self.phase else 1)
            for name, out, columns in (
                ("in", self.detail, into),
                ("mid", self.detail, self.detail),
                ("out", channels, self.detail),
            ):
                yield f"detail_head.conv_{name}.weight", (out, columns, 3, 3)
                yield f"detail_head.conv_{name}.bias", (out,)

    @property
    def _router(self) -> str:
        if self.prototypes:
            return "cluster_centers"
        return "gate.weight" if self.kind == "tc" else "gate_weight"

    def encode(self, ids, counts):
        """Encodes prompts: token ids ``[B, L]``, of which the first ``counts [B]`` are not padding. Returns what ``forward``
        takes: the mask of tokens ``[B, L]``, what is added to the condition ``[B, D]``, and keys and values for every block."""
        w = Weights(self)
        mask = torch.arange(ids.shape[1], device=ids.device) < counts[:, None]
        x = w["text_encoder.token_embedding.weight"][ids] + w["text_encoder.position_embedding"][: ids.shape[1]]
        for i in range(self.text["depth"]):
            layer = f"text_encoder.layers.{i}"
            q, k, v = heads(linear(w, f"{layer}.attn.qkv", normal(x)), 3, self.text["num_heads"])
            x = x + linear(w, f"{layer}.attn.proj", attended(q, k, v, mask))
            x = x + ffn(w, f"{layer}.mlp", normal(x))
        x = normal(x)
        memory = [linear(w, f"blocks.{i}.cross_attn.kv_linear", x) for i in range(self.depth)]
        return mask, linear(w, "text_pool", x[:, 0]), memory

    def forward(
        self, hidden_states, timestep, class_labels, routing: str = "token", return_dict: bool = True, prompts=None
    ):
        """Samples ``[B, C, height, width]`` at times ``timestep [B]``; ``class_labels`` has rows ``[B]`` for every label table,
        and ``prompts`` is what ``encode`` returned, for models that take prompts. With the paper's rule, ``routing="pool"``, the
        tokens of all samples compete."""
        w = Weights(self)
        x, t = hidden_states, timestep.to(hidden_states.dtype)
        half = torch.arange(TIME_DIMS // 2, dtype=torch.float32, device=x.device)
        seen = 1 - t if self.reversed else t
        angles = seen[:, None].float() * self.time_scale * torch.exp(-math.log(10000) * half / (TIME_DIMS // 2))
        features = torch.cat([angles.cos(), angles.sin()], dim=1).to(x.dtype)
        condition = linear(w, "t_embedder.mlp.2", F.silu(linear(w, "t_embedder.mlp.0", features)))
        if prompts is not None:
            condition = condition + prompts[1]
        labels = [w[table["tensor"]][rows] for table, rows in zip(self.tables, class_labels, strict=True)]
        for label in labels:
            condition = condition + label
        condition = F.silu(condition)
        h = F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=self.patch)
        h = h.flatten(2).transpose(1, 2)
        if self.positions:
            h = h + w["pos_embed"]
        alone = None
        if self.unconditional:
            alone = (class_labels[0] == self.tables[0]["null"]).repeat_interleave(h.shape[1])
        for i in range(self.depth):
            if self.context and i == self.context_start:
                h = torch.cat([sum(labels)[:, None] + w["in_context_posemb"], h], dim=1)
            h = self._block(w, i, h, condition, routing, alone, prompts)
        shift, scale = linear(w, "final_layer.adaLN_modulation.1", condition).chunk(2, dim=1)
        out = linear(w, "final_layer.linear", modulated(h[:, self.context :], shift, scale, self.rms))
        (rows, columns), p = self.grid, self.patch
        out = out.reshape(-1, rows, columns, p, p, self.out_channels).permute(0, 5, 1, 3, 2, 4)
        out = out.reshape(-1, self.out_channels, *self.sample_size)
        if self.detail:
            out = out + self._detail(w, out, x, t)
        return Transformer2DModelOutput(sample=out) if return_dict else (out,)

    def _block(self, w, i, x, condition, routing, alone, prompts):
        block = f"blocks.{i}"
        shift, scale, gate, *mlp = linear(w, f"{block}.adaLN_modulation.1", condition).chunk(6, dim=1)
        q, k, v = heads(linear(w, f"{block}.attn.qkv", modulated(x, shift, scale, self.rms)), 3, self.heads)
        if self.qk_norm:
            q, k = (self._head_norm(w, f"{block}.attn.{part}", y) for part, y in (("q_norm", q), ("k_norm", k)))
        if self.rope:
            still = self.context if i >= self.context_start else 0
            q, k = rotated(q, self.grid, still), rotated(k, self.grid, still)
        x = x + gate[:, None] * linear(w, f"{block}.attn.proj", attended(q, k, v))
        if prompts is not None:
            mask, _, memory = prompts
            (q,) = heads(linear(w, f"{block}.cross_attn.q_linear", x), 1, self.heads)
            k, v = heads(memory[i], 2, self.heads)
            x = x + linear(w, f"{block}.cross_attn.proj", attended(q, k, v, mask))
        shift, scale, gate = mlp
        h = modulated(x, shift, scale, self.rms)
        if self._is_moe(i):
            y = self._moe(w, f"{block}.mlp", h.flatten(0, 1), routing, alone).reshape(h.shape)
        else:
            y = ffn(w, f"{block}.mlp", h, self.silu)
        return x + gate[:, None] * y

    def _head_norm(self, w, name, x):
        weight, eps = w[f"{name}.weight"], self.qk_norm_eps
        return rms_normal(x, eps) * weight if self.rms else F.layer_norm(x, weight.shape, weight, w[f"{name}.bias"], eps)

    def _moe(self, w, name, x, routing, alone):
        """``Σ_e gate[e]·FFN_e(x)`` over the experts that take a token, plus the shared expert ``[S, D]``."""
        router = w[f"{name}.{self._router}"]
        logits = x @ router.T
        if self.prototypes:
            gate = cosines(x, router, alone)
            taken = self._route(w, name, x, gate, routing)
        elif self.sigmoid:
            gate = logits.sigmoid()
            taken = self._route(w, name, x, gate + w[f"{name}.{BIAS}"], routing)
            gate = gate * taken
            if int(self.capacity) > 1:
                gate = gate / (gate.sum(-1, keepdim=True) + 1e-20)
            gate = gate * self.scale
        else:
            gate = logits.softmax(-1)
            taken = self._route(w, name, x, gate, routing)
        y = ffn(w, f"{name}.shared_experts", x) if self.shared else torch.zeros_like(x)
        for e in range(self.experts):
            (rows,) = taken[:, e].nonzero(as_tuple=True)
            if len(rows):
                y = y.index_add(0, rows, gate[rows, e, None] * ffn(w, f"{name}.experts.{e}", x[rows]))
        return y

    def _route(self, w, name, x, gate, routing):
        """Which expert takes which token ``[S, E]``; ties go to the lower index."""
        if self.kind == "tc":
            places = gate.argsort(dim=1, descending=True, stable=True)[:, : int(self.capacity)]
            return torch.zeros_like(gate, dtype=torch.bool).scatter_(1, places, True)
        if self.kind == "ec":
            tokens = self.grid[0] * self.grid[1]
            count = int(tokens / (self.experts - self.unconditional) * self.capacity)
            count = min(max(count, 1), tokens) if self.prototypes else count
            taken = best(gate.reshape(-1, tokens, self.experts), count).reshape(gate.shape)
            if self.unconditional:
                asked = gate > NOT_ASKED
                taken = torch.cat([(taken & asked)[:, :-1], asked[:, -1:]], dim=1)
            return taken
        need = F.silu(linear(w, f"{name}.capacity_predictor.0", x))
        need = linear(w, f"{name}.capacity_predictor.2", need).sigmoid()
        over = need > w[f"{name}.expert_threshold"]
        return over if routing == "token" else best(gate, over.sum(0))

    def _detail(self, w, out, z, t):
        """Three convolutions that refine the predicted image."""
        batch, _, height, width = out.shape
        planes = [out, z, t[:, None, None, None].expand(batch, 1, height, width)]
        if self.phase:
            row, column = (
                (2 * (torch.arange(n, device=z.device) % self.patch) + 1).to(z.dtype) / self.patch - 1 for n in (height, width)
            )
            planes += [row[:, None].expand(batch, 1, height, width), column.expand(batch, 1, height, width)]
        h = torch.cat(planes, dim=1)
        for name in ("in", "mid", "out"):
            weight, bias = (w[f"detail_head.conv_{name}.{part}"] for part in ("weight", "bias"))
            h = F.conv2d(h if name == "in" else F.silu(h), weight, bias, padding=1)
        return h
