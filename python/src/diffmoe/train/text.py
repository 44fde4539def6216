"""Text conditioning of a DiT: a small text encoder, and cross-attention from image
tokens to text tokens.

The paper specifies cross-attention and flow matching and leaves the rest open; the
choices made here and the reasons are in docs/models-text.md.  Layer norms have no
parameters, as everywhere in a DiT: each is followed by a linear layer
that absorbs weight and bias."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..layers import EPS

# The first four entries of every vocabulary, in this order.
PAD, UNK, CLS, SEP = range(4)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def null_tokens(n, length, device=None):
    """The empty prompt, [n, length], which replaces dropped ones."""
    ids = torch.full((n, length), PAD, dtype=torch.long, device=device)
    ids[:, 0], ids[:, 1] = CLS, SEP
    return ids


def padding_bias(tokens):
    """[B, 1, L], added to attention scores: 0 at tokens, -inf at padding."""
    bias = torch.zeros(tokens.shape, dtype=torch.float32, device=tokens.device)
    return bias.masked_fill_(tokens == PAD, float("-inf"))[:, None]


def attend(q, k, v, bias):
    """q [B, T, H, d], k and v [B, L, H, d], bias [B, 1, L] -> [B, T, H*d]."""
    B, T, H, d = q.shape
    q, k, v = (x.transpose(1, 2).reshape(B * H, -1, d) for x in (q, k, v))
    a = torch.baddbmm(bias.repeat_interleave(H, 0).to(q.dtype), q, k.transpose(1, 2), alpha=d**-0.5)
    y = torch.bmm(a.softmax(-1), v)
    return y.view(B, H, T, d).transpose(1, 2).reshape(B, T, H * d)


class TextAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, bias):
        B, L, D = x.shape
        q, k, v = self.qkv(x).view(B, L, 3, self.heads, D // self.heads).unbind(2)
        return self.proj(attend(q, k, v, bias))


class TextMlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class TextLayer(nn.Module):
    def __init__(self, dim, heads, hidden):
        super().__init__()
        self.attn = TextAttention(dim, heads)
        self.mlp = TextMlp(dim, hidden)

    def forward(self, x, bias):
        D = x.shape[-1:]
        x = x + self.attn(F.layer_norm(x, D, eps=EPS), bias)
        return x + self.mlp(F.layer_norm(x, D, eps=EPS))


class TextEncoder(nn.Module):
    """Token ids [B, L] -> (states [B, L, D], padding bias [B, 1, L]).

    Every position is computed, including padding; padding is masked in attention."""

    def __init__(self, config):
        """``config``: a ``diffmoe.config.TextConfig``."""
        super().__init__()
        D = config.hidden_size
        self.max_length = config.max_length
        self.token_embedding = nn.Embedding(config.vocab_size, D)
        self.position_embedding = nn.Parameter(torch.empty(config.max_length, D))
        self.layers = nn.ModuleList(TextLayer(D, config.num_heads, config.ffn_hidden) for _ in range(config.depth))

    def reset_parameters(self):
        """Linear layers are initialised by the model."""
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding, std=0.02)

    def forward(self, tokens):
        bias = padding_bias(tokens)
        x = self.token_embedding(tokens) + self.position_embedding[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x, bias)
        return F.layer_norm(x, x.shape[-1:], eps=EPS), bias


class CrossAttention(nn.Module):
    """Queries from image tokens, keys and values from text tokens."""

    def __init__(self, config):
        super().__init__()
        self.heads, self.head_dim = config.num_heads, config.head_dim
        dim, inside = config.hidden_size, config.num_heads * config.head_dim
        self.q_linear = nn.Linear(dim, inside)
        self.kv_linear = nn.Linear(config.text.hidden_size, 2 * inside)
        self.proj = nn.Linear(inside, dim)

    def forward(self, x, text, bias):
        B, T, D = x.shape
        H, d = self.heads, self.head_dim
        k, v = self.kv_linear(text).view(B, -1, 2, H, d).unbind(2)
        return self.proj(attend(self.q_linear(x).view(B, T, H, d), k, v, bias))
