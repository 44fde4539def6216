"""A class-conditional DiT (adaLN-Zero) with a layer of experts in its odd blocks:
DiffMoE or one of the baselines (``moe``), or none in a dense model.

Names, shapes and formulas follow the official implementation.  What a model is comes from its ``diffmoe.Config``; what
is not in the official one are ``time_scale`` (official flow models: 1), ``qk_norm``, ``prediction`` (see ``flow``), more
than one label table, ``text``: prompts instead of or in addition to labels, by cross-attention (see ``text``), and the
detail head, convolutions that refine the predicted image (see ``detail``).
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..config import TABLE
from ..errors import ModelError
from ..layers import EPS
from ..weights import TIME_DIMS
from . import flow
from . import text as texts
from .detail import DetailHead
from .moe import KINDS, DiffMoE, Experts, Mlp, SwiGlu


def check_trainable(config):
    """Whether the modules below compute this form of a model; they are fewer than the package reads."""
    def lacks(what):
        raise ModelError(f"{config.name}: the trainer has no {what}")

    if config.router != "softmax" or config.rope or config.mlp_act != "gelu":
        lacks("routers, 2-D RoPE or SiLU networks of DSMoE and ProMoE")
    if config.rms_norm or config.swiglu_bias or config.context_tokens:
        lacks("root-mean-square norms, SwiGLU biases or context tokens of JiT")
    if not config.pos_embed:
        lacks("models without a position embedding")
    if config.prediction not in flow.PREDICTIONS:
        lacks("flow models of DiT-MoE and ProMoE, whose time is reversed")
    if config.input_size[0] != config.input_size[1]:
        lacks("models of images that are not square")


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, self.head_dim = config.num_heads, config.head_dim
        dim, inside = config.hidden_size, config.num_heads * config.head_dim
        self.qkv = nn.Linear(dim, 3 * inside)
        self.q_norm = nn.LayerNorm(config.head_dim, config.qk_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(config.head_dim, config.qk_norm_eps) if config.qk_norm else nn.Identity()
        self.proj = nn.Linear(inside, dim)

    def forward(self, x):
        B, T, _ = x.shape
        H, dh = self.heads, self.head_dim
        qkv = self.qkv(x).view(B, T, 3, H, dh).permute(2, 0, 3, 1, 4).reshape(3, B * H, T, dh)
        q, k, v = qkv.unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        # Two plain batched products: on CPUs much faster (backward too) than
        # the fused attention kernel at 64 tokens.
        a = torch.baddbmm(q.new_zeros(()), q, k.transpose(1, 2), beta=0, alpha=dh**-0.5)
        y = torch.bmm(a.softmax(-1), v)
        return self.proj(y.view(B, H, T, dh).transpose(1, 2).reshape(B, T, H * dh))


def modulate(x, shift, scale):
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


class Block(nn.Module):
    def __init__(self, config, ffn):
        super().__init__()
        dim = config.hidden_size
        self.attn = Attention(config)
        if config.text:
            self.cross_attn = texts.CrossAttention(config)
        self.mlp = ffn
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))

    def forward(self, x, c, text=None):
        """text: (states, padding bias) of the text encoder."""
        D = x.shape[-1:]
        s1, c1, g1, s2, c2, g2 = self.adaLN_modulation(c).chunk(6, dim=1)
        x = torch.addcmul(x, g1[:, None], self.attn(modulate(F.layer_norm(x, D, eps=EPS), s1, c1)))
        if text is not None:
            x = x + self.cross_attn(x, *text)
        y, loss = self.mlp(modulate(F.layer_norm(x, D, eps=EPS), s2, c2))
        return torch.addcmul(x, g2[:, None], y), loss


class FinalLayer(nn.Module):
    def __init__(self, dim, out):
        super().__init__()
        self.linear = nn.Linear(dim, out)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 2 * dim))

    def forward(self, x, c):
        shift, scale = self.adaLN_modulation(c).chunk(2, dim=1)
        return self.linear(modulate(F.layer_norm(x, x.shape[-1:], eps=EPS), shift, scale))


class TimeEmbedder(nn.Module):
    def __init__(self, dim, time_scale):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(TIME_DIMS, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_scale = time_scale

    def forward(self, t):
        return self.mlp(self.features(t * self.time_scale))

    @staticmethod
    def features(t):
        half = TIME_DIMS // 2
        freqs = torch.exp(-math.log(10000.0) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
        a = t.float()[:, None] * freqs
        return torch.cat([a.cos(), a.sin()], dim=-1)


class LabelEmbedder(nn.Module):
    """One table with a null row at the end."""

    def __init__(self, num, dim):
        super().__init__()
        self.num = num
        self.embedding_table = nn.Embedding(num + 1, dim)

    def forward(self, y):
        return self.embedding_table(y)


class ComposedEmbedder(nn.Module):
    """A row per label plus a mix of shared vectors (words of its name, group).

    ``mix`` [num + 1, shared] holds the constant mixing weights.  Only used in
    training: export adds it all up into one ordinary table."""

    def __init__(self, num, dim, mix):
        super().__init__()
        self.num = num
        self.embedding_table = nn.Embedding(num + 1, dim)
        self.shared = nn.Parameter(torch.empty(mix.shape[1], dim))
        self.register_buffer("mix", mix)

    def table(self):
        return self.embedding_table.weight + self.mix @ self.shared

    def forward(self, y):
        return F.embedding(y, self.table())


def sincos_pos_embed(dim, grid):
    """[1, grid*grid, dim]; the column coordinate fills the first half."""
    omega = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    pos = torch.arange(grid, dtype=torch.float64)[:, None] * omega
    e = torch.cat([pos.sin(), pos.cos()], dim=1)  # [grid, dim/2]
    col = e[None].expand(grid, grid, -1)
    row = e[:, None].expand(grid, grid, -1)
    return torch.cat([col, row], dim=-1).reshape(1, grid * grid, dim).float()


class DiT(nn.Module):
    """``config``: a ``diffmoe.Config``.  ``mixes``: for each label table the mix matrix of a composed one, or None."""

    def __init__(self, config, mixes=(), label_init_std=0.02):
        super().__init__()
        check_trainable(config)
        self.config = c = config
        D, p = c.hidden_size, c.patch_size
        self.in_channels, self.out_channels, self.patch_size, self.prediction = c.in_channels, c.out_channels, p, c.prediction
        self.grid = c.grid[0]
        self.pos_embed = nn.Parameter(sincos_pos_embed(D, self.grid), requires_grad=False)
        self.x_embedder = nn.Module()
        self.x_embedder.proj = nn.Conv2d(c.in_channels, D, p, p)
        self.t_embedder = TimeEmbedder(D, c.time_scale)
        self.label_names = [table.tensor.removesuffix(TABLE) for table in c.labels]
        for name, table, mix in zip(self.label_names, c.labels, mixes or [None] * len(c.labels), strict=True):
            emb = LabelEmbedder(table.null, D) if mix is None else ComposedEmbedder(table.null, D, mix)
            setattr(self, name, emb)
        self.text_encoder = texts.TextEncoder(c.text) if c.text else None
        if c.text:
            self.text_pool = nn.Linear(c.text.hidden_size, D)
        layer = lambda i: KINDS[c.kind](c) if c.is_moe(i) else (SwiGlu if c.swiglu else Mlp)(D, c.ffn_hidden)
        self.blocks = nn.ModuleList(Block(c, layer(i)) for i in range(c.depth))
        self.final_layer = FinalLayer(D, p * p * c.out_channels)
        self.detail_head = DetailHead(c) if c.detail_channels else None
        self.reset_parameters(label_init_std)

    def reset_parameters(self, label_init_std):
        for m in self.modules():
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
            elif isinstance(m, Experts):
                m.reset_parameters()
        for m in self.moe_layers().values():
            if hasattr(m, "gate"):  # token choice keeps PyTorch's default initialisation of its gate
                m.gate.reset_parameters()
        w = self.x_embedder.proj.weight
        nn.init.xavier_uniform_(w.view(w.shape[0], -1))
        nn.init.zeros_(self.x_embedder.proj.bias)
        for i in (0, 2):
            nn.init.normal_(self.t_embedder.mlp[i].weight, std=0.02)
        for e in self.label_embedders():
            nn.init.normal_(e.embedding_table.weight, std=label_init_std)
            if isinstance(e, ComposedEmbedder):
                nn.init.normal_(e.shared, std=label_init_std)
        zero = [b.adaLN_modulation[1] for b in self.blocks]
        if self.text_encoder:
            self.text_encoder.reset_parameters()
            zero += [b.cross_attn.proj for b in self.blocks]
        for m in zero + [self.final_layer.adaLN_modulation[1], self.final_layer.linear]:
            nn.init.zeros_(m.weight)
            nn.init.zeros_(m.bias)
        if self.detail_head:
            self.detail_head.reset_parameters()

    def label_embedders(self):
        return [getattr(self, name) for name in self.label_names]

    def moe_layers(self):
        """{block: its layer of experts}"""
        return {i: b.mlp for i, b in enumerate(self.blocks) if isinstance(b.mlp, Experts)}

    def dynamic_layers(self):
        """Those among them that have a capacity predictor."""
        return {i: m for i, m in self.moe_layers().items() if isinstance(m, DiffMoE)}

    def set_rule(self, rule, gamma=None):
        for m in self.dynamic_layers().values():
            m.rule, m.gamma = rule, gamma

    def record(self, on=True):
        """Keep the routing of the next forward pass; returns {block: record}."""
        out = {}
        for i, m in self.moe_layers().items():
            m.record = out[i] = {} if on else None
        return out

    def patchify(self, x):
        """The stride-p convolution as one matrix product."""
        B, C, H, W = x.shape
        p, g = self.patch_size, self.grid
        x = x.view(B, C, g, p, g, p).permute(0, 2, 4, 1, 3, 5).reshape(B, g * g, C * p * p)
        w = self.x_embedder.proj.weight
        return F.linear(x, w.view(w.shape[0], -1), self.x_embedder.proj.bias)

    def unpatchify(self, x):
        B = x.shape[0]
        g, p, c = self.grid, self.patch_size, self.out_channels
        return x.view(B, g, g, p, p, c).permute(0, 5, 1, 3, 2, 4).reshape(B, c, g * p, g * p)

    def forward(self, x, t, labels):
        """labels: one int64 tensor [B] per label table, and at the end, where the
        model reads text, the token ids [B, L].

        Returns (output, auxiliary losses summed over the expert layers; 0 in eval)."""
        c, text = self.t_embedder(t), None
        if self.text_encoder:
            *labels, tokens = labels
            text = self.text_encoder(tokens)
            c = c + self.text_pool(text[0][:, 0])
        for e, y in zip(self.label_embedders(), labels, strict=True):
            c = c + e(y)
        h = self.patchify(x) + self.pos_embed
        aux = h.new_zeros((), dtype=torch.float32)
        for block in self.blocks:
            h, loss = block(h, c, text)
            if loss is not None:
                aux = aux + loss
        out = self.unpatchify(self.final_layer(h, c))
        return out if self.detail_head is None else self.detail_head(out, x, t), aux

    def null_labels(self, n, device=None):
        null = [torch.full((n,), e.num, dtype=torch.long, device=device) for e in self.label_embedders()]
        if self.text_encoder:
            null.append(texts.null_tokens(n, self.text_encoder.max_length, device))
        return null
