"""Routing rules of the four kinds of model.

A routing is a boolean array ``[S, E]`` over the pool of all ``S = B·T`` tokens of a pass. Ties go to the lower token (with
token choice, to the lower expert), as in the Rust implementation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .config import Config
from .errors import SettingsError, one_of

RULES = ("token", "pool")
#: Score of an expert that is not among those a token may take: the least f16.
NOT_ASKED = np.float32(-65504)


@dataclass(frozen=True)
class Routing:
    """Routing settings of a run."""

    #: ``token``: an expert takes the tokens whose predicted need exceeds its threshold; an image does not depend on its
    #: batch. ``pool``, the paper's rule: the capacity predictor determines how many tokens of the whole batch an expert
    #: takes, the gate selects them.
    rule: str = "token"
    gamma: float | None = None  #: one threshold for all experts and layers, replacing the checkpoint's
    shift: float = 0.0  #: added to the checkpoint's thresholds; ignored if ``gamma`` is set
    muted: frozenset[tuple[int, int]] = field(default_factory=frozenset)  #: (block, expert) pairs that take no tokens

    def check(self, config: Config) -> None:
        """Validates the settings for a model."""
        if self.rule not in RULES:
            raise SettingsError(f"unknown routing rule {self.rule!r}: expected {one_of(RULES)}")
        if self.gamma is not None and not 0 <= self.gamma <= 1:
            raise SettingsError(f"gamma must be 0–1, a threshold for a probability, got {self.gamma}")
        if not -1 <= self.shift <= 1:
            raise SettingsError(f"threshold_shift must be -1–1, got {self.shift}")
        for block, expert in sorted(self.muted):
            if block not in config.moe_blocks:
                blocks = ", ".join(map(str, config.moe_blocks)) or "none"
                raise SettingsError(f"block {block} has no experts to mute; the blocks with experts are {blocks}")
            if not 0 <= expert < config.num_experts:
                raise SettingsError(f"block {block} has no expert {expert}; it has {config.num_experts}, numbered from 0")

    def thresholds(self, checkpoint: np.ndarray, block: int) -> np.ndarray:
        """Thresholds in effect ``[E]``; infinite for muted experts."""
        if self.gamma is None:
            values = checkpoint + np.float32(self.shift)
        else:
            values = np.full_like(checkpoint, self.gamma)
        for expert in self.muted_of(block):
            values[expert] = np.inf
        return values

    def muted_of(self, block: int) -> list[int]:
        """Muted experts of a block."""
        return [expert for b, expert in self.muted if b == block]


def token_choice(gate: np.ndarray, count: int) -> np.ndarray:
    """Every token takes the ``count`` experts with the largest gate."""
    taken = np.zeros(gate.shape, bool)
    best = np.argsort(-gate, axis=1, kind="stable")[:, :count]
    np.put_along_axis(taken, best, True, axis=1)
    return taken


def choose(scores: np.ndarray, bias: np.ndarray, count: int, scale: float) -> np.ndarray:
    """Weights of a sigmoid router ``[S, E]``: those of the ``count`` experts with the largest score plus bias, 0 elsewhere."""
    chosen = np.where(token_choice(scores + bias, count), scores, np.float32(0))
    if count > 1:
        chosen = chosen / (chosen.sum(1, keepdims=True) + np.float32(1e-20))
    return chosen * np.float32(scale)


def cosines(x: np.ndarray, prototypes: np.ndarray, alone: np.ndarray | None) -> np.ndarray:
    """Scores of a router by prototypes ``[S, E]``: cosines of tokens and prototypes. ``alone [S]`` marks the tokens of samples
    without a label, which take the last expert, without a prototype, with score 1, and no other; ``None`` where every expert
    has a prototype."""
    unit = [rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12)) for rows in (x, prototypes)]
    scores = unit[0] @ unit[1].T
    if alone is not None:
        scores = np.concatenate([scores, np.full_like(scores[:, :1], NOT_ASKED)], axis=1)
        scores[alone] = NOT_ASKED
        scores[alone, -1] = 1
    return scores


def take_best(gate: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Expert ``e`` takes the ``counts[e]`` tokens with the largest gate; ``gate`` is ``[..., S, E]``."""
    order = np.argsort(-gate, axis=-2, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(gate.shape[-2])[:, None], axis=-2)
    return rank < counts


def route(
    config: Config, rule: str, gate: np.ndarray, capacity: np.ndarray | None, thresholds: np.ndarray | None
) -> np.ndarray:
    """Applies the routing rule of the model; ``gate`` and ``capacity`` are probabilities ``[S, E]``, or ``gate`` cosines."""
    experts = config.num_experts
    if config.kind == "tc":
        return token_choice(gate, int(config.capacity))
    if config.kind == "ec":
        samples = gate.reshape(-1, config.tokens, experts)
        taken = take_best(samples, np.full(experts, config.tokens_of_expert)).reshape(gate.shape)
        if config.unconditional:
            asked = gate > NOT_ASKED
            taken &= asked
            taken[:, -1] = asked[:, -1]
        return taken
    over = capacity > thresholds  # strictly, as in the official code
    return over if rule == "token" else take_best(gate, over.sum(0))
