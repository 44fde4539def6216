"""Expert layers that replace the feed-forward network of a block.

``DiffMoE`` - expert choice over the whole token pool.
Training: every expert takes its k = int(S / E * capacity) highest-gate tokens
out of *all* S = batch * tokens of the local batch.  A small predictor learns
(binary cross entropy, input detached) which tokens each expert took, and a
per-expert threshold tracks the k-th largest predicted probability.

Inference: the predictor and its thresholds determine *how many* tokens an expert
processes; the rule determines which:

* ``pool``   - the n_e tokens of the pool with the largest gate (official rule);
* ``token``  - exactly the tokens above the threshold (independent of the rest
  of the batch);
* ``static`` - k tokens for every expert, as in training (paper, Table 8).

The baselines: ``ExpertChoice`` (EC-DiT) - every expert takes the same number of
tokens of each sample; ``TokenChoice`` (TC-DiT) - every token takes the
``capacity`` experts with the largest gate, with a load-balancing loss.

Experts are kept as stacked parameters so that one layer is a few batched matrix
products, without a loop over experts.  ``to_official`` / ``from_official``
translate to and from the names of the official state_dict
(``experts.{j}.fc1.weight`` and so on).
"""

import re

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F

from ..weights import tensors

THRESHOLD_DECAY = 0.95


class Mlp(nn.Module):
    """GELU feed-forward network; returns (y, no loss) as expert layers do."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh")), None


class SwiGlu(nn.Module):
    """down(SiLU(gate x) * up x), without biases."""

    def __init__(self, dim, hidden):
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x)), None


class Experts(nn.Module):
    """A bank of E stacked experts; subclasses implement the routing."""

    def __init__(self, config):
        super().__init__()
        self.dim, self.hidden, self.num_experts = config.hidden_size, config.expert_hidden, config.num_experts
        self.capacity, self.use_swiglu = config.capacity, config.expert_swiglu
        self.shared_experts = None
        self.record = None  # a dict here receives the routing of a forward pass
        self.predicted_capacity = None  # DiffMoE: the capacity that the thresholds would give, in pairs per token

    def add_experts(self):
        """Called by subclasses at the position of the experts in the official order of tensors."""
        E, D, M = self.num_experts, self.dim, self.hidden
        if self.use_swiglu:
            self.experts_gate_proj_weight = nn.Parameter(torch.empty(E, M, D))
            self.experts_up_proj_weight = nn.Parameter(torch.empty(E, M, D))
            self.experts_down_proj_weight = nn.Parameter(torch.empty(E, D, M))
        else:
            self.experts_fc1_weight = nn.Parameter(torch.empty(E, M, D))
            self.experts_fc1_bias = nn.Parameter(torch.zeros(E, M))
            self.experts_fc2_weight = nn.Parameter(torch.empty(E, D, M))
            self.experts_fc2_bias = nn.Parameter(torch.zeros(E, D))

    def add_shared(self, config):
        """The network for all tokens, if there is one.  Called last, as in the official order."""
        if config.shared_hidden:
            self.shared_experts = (SwiGlu if config.shared_swiglu else Mlp)(self.dim, config.shared_hidden)

    def reset_parameters(self):
        for name, w in self.named_parameters(recurse=False):
            if name.startswith("experts_") and name.endswith("_weight"):
                bound = (6.0 / (w.shape[1] + w.shape[2])) ** 0.5
                nn.init.uniform_(w, -bound, bound)
        if hasattr(self, "gate_weight"):
            nn.init.normal_(self.gate_weight, std=0.006)

    def experts(self, xe):
        """xe [E, n, D] -> [E, n, D], expert e on its own n rows."""
        if self.use_swiglu:
            h = F.silu(torch.bmm(xe, self.experts_gate_proj_weight.transpose(1, 2)))
            h = h * torch.bmm(xe, self.experts_up_proj_weight.transpose(1, 2))
            return torch.bmm(h, self.experts_down_proj_weight.transpose(1, 2))
        h = torch.baddbmm(self.experts_fc1_bias[:, None], xe, self.experts_fc1_weight.transpose(1, 2))
        h = F.gelu(h, approximate="tanh")
        return torch.baddbmm(self.experts_fc2_bias[:, None], h, self.experts_fc2_weight.transpose(1, 2))

    def dispatch(self, x, index, weight):
        """Run expert e on tokens index[e] and add the results, times weight."""
        E, n = index.shape
        flat = index.reshape(-1)
        out = self.experts(x.index_select(0, flat).view(E, n, -1))
        out = (out * weight[..., None]).view(E * n, -1)
        return torch.zeros_like(x, dtype=out.dtype).index_add(0, flat, out)

    def route(self, x, tokens):
        """x [S, D], ``tokens`` of them in each sample -> (y [S, D], loss or None)."""
        raise NotImplementedError

    def forward(self, x):
        """x [B, T, D] -> (y [B, T, D], auxiliary loss or None)."""
        shape = x.shape
        flat = x.reshape(-1, shape[-1])
        y, loss = self.route(flat, shape[1])
        if self.shared_experts is not None:
            y = y + self.shared_experts(flat)[0]
        return y.view(shape).to(x.dtype), loss

    def note(self, selected, gate, **more):
        if self.record is not None:
            self.record.update(selected=selected, counts=selected.sum(0).long(), gate=gate, **more)


def chosen(index, size, keep=None):
    """[size, E], 1 where index [E, n] contains the token (and keep is true)."""
    ones = torch.ones_like(index, dtype=torch.float32) if keep is None else keep.float()
    out = torch.zeros(index.shape[0], size, device=index.device)
    return out.scatter_reduce_(1, index, ones, "amax").t()


class DiffMoE(Experts):
    def __init__(self, config):
        super().__init__(config)
        E, dim = self.num_experts, self.dim
        self.gate_weight = nn.Parameter(torch.empty(E, dim))
        self.register_buffer("expert_threshold", torch.zeros(E))
        self.register_buffer("ema_decay", torch.tensor([THRESHOLD_DECAY]))
        # 0 until the thresholds were set from a first batch (not exported).
        self.register_buffer("threshold_ready", torch.zeros(()))
        self.add_experts()
        self.capacity_predictor = nn.Sequential(
            nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, E)
        )
        self.add_shared(config)
        self.rule = "pool"
        self.gamma = None  # one fixed threshold for all experts instead of their own (paper, Table 10)
        self.track_thresholds = True  # in training
        self.force_train_routing = False  # used when recalibrating thresholds

    def route(self, x, tokens):
        S, E = x.shape[0], self.num_experts
        with torch.autocast(x.device.type, enabled=False):  # routing stays in float32
            xf = x.float()
            gate = F.linear(xf, self.gate_weight).softmax(-1)
            logits = self.capacity_predictor(xf.detach())
        k = int(S / E * self.capacity)
        if self.training or self.force_train_routing or self.rule == "static":
            weight, index = gate.t().topk(k, dim=-1, sorted=False)
            target = torch.zeros(E, S, device=x.device).scatter_(1, index, 1.0).t()
            loss = F.binary_cross_entropy_with_logits(logits, target)
            if self.training:
                if self.track_thresholds:
                    self.update_threshold(logits.detach(), k)
                self.predicted_capacity = (logits.detach().sigmoid() > self.expert_threshold).sum() / S
            y = self.dispatch(x, index, weight)
            self.note(target, gate, logits=logits)
            return y, loss
        over = logits.sigmoid() > (self.expert_threshold if self.gamma is None else self.gamma)  # [S, E]
        counts = over.sum(0)
        score = gate if self.rule == "pool" else gate.masked_fill(~over, -1.0)
        n = int(counts.max())
        weight, index = score.t().topk(n, dim=-1)
        keep = torch.arange(n, device=x.device) < counts[:, None]
        y = self.dispatch(x, index, weight * keep) if n else torch.zeros_like(x)
        if self.record is not None:
            self.note(chosen(index, S, keep), gate, logits=logits)
        return y, None

    @torch.no_grad()
    def update_threshold(self, logits, k):
        """tau <- decay * tau + (1 - decay) * (k-th largest probability).

        The first batch sets tau (forgetting a start at 0 would take thousands of steps)."""
        q = logits.sigmoid().topk(k, dim=0).values[-1]
        if self.threshold_ready == 0:
            self.expert_threshold.copy_(q)
            self.threshold_ready.fill_(1)
        else:
            d = self.ema_decay
            self.expert_threshold.copy_(d * self.expert_threshold + (1 - d) * q)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.expert_threshold)
            self.expert_threshold /= dist.get_world_size()


class ExpertChoice(Experts):
    def __init__(self, config):
        super().__init__(config)
        self.gate_weight = nn.Parameter(torch.empty(self.num_experts, self.dim))
        self.add_experts()
        self.add_shared(config)
        self.tokens_of_expert = config.tokens_of_expert

    def route(self, x, tokens):
        S, E = x.shape[0], self.num_experts
        with torch.autocast(x.device.type, enabled=False):
            gate = F.linear(x.float(), self.gate_weight).softmax(-1)
        weight, index = gate.view(-1, tokens, E).transpose(1, 2).topk(self.tokens_of_expert, dim=-1)  # [B, E, k]
        index = index + torch.arange(0, S, tokens, device=x.device)[:, None, None]
        gather = lambda v: v.transpose(0, 1).reshape(E, -1)
        index, weight = gather(index), gather(weight)
        if self.record is not None:
            self.note(chosen(index, S), gate)
        return self.dispatch(x, index, weight), None


class TokenChoice(Experts):
    BALANCE = 0.01

    def __init__(self, config):
        super().__init__(config)
        self.capacity = int(self.capacity)
        self.add_experts()
        self.gate = nn.Linear(self.dim, self.num_experts, bias=False)
        self.add_shared(config)

    def route(self, x, tokens):
        S, E, K = x.shape[0], self.num_experts, self.capacity
        with torch.autocast(x.device.type, enabled=False):
            gate = F.linear(x.float(), self.gate.weight).softmax(-1)
        value, expert = gate.topk(K, dim=-1)
        # Sort the pairs by expert and lay them out as [E, n], n the fullest expert's tokens.
        expert, order = expert.reshape(-1).sort(stable=True)
        counts = expert.bincount(minlength=E)
        place = torch.arange(S * K, device=x.device) - (counts.cumsum(0) - counts)[expert]
        n = int(counts.max())
        index = torch.zeros(E, n, dtype=torch.long, device=x.device)
        index[expert, place] = order // K
        weight = torch.zeros(E, n, device=x.device).index_put((expert, place), value.reshape(-1)[order])
        loss = None
        if self.training:
            share = E * counts / (S * K)
            loss = self.BALANCE * (gate.mean(0) * share).sum()
        if self.record is not None:
            self.note(torch.zeros(S, E, device=x.device).index_put((order // K, expert), torch.ones(())), gate)
        return self.dispatch(x, index, weight), loss


KINDS = {"diffmoe": DiffMoE, "ec": ExpertChoice, "tc": TokenChoice}


_SINGLE = re.compile(r"(.*\.)experts\.(\d+)\.(fc1|fc2|gate_proj|up_proj|down_proj)\.(weight|bias)$")


def to_official(state, config):
    """The tensors of a model's file, from a state dict: the experts one by one, under the names and in the order of
    ``diffmoe.weights.tensors``."""
    def of(name):
        m = _SINGLE.match(name)
        return state[f"{m[1]}experts_{m[3]}_{m[4]}"][int(m[2])] if m else state[name]

    return {name: of(name) for name, _ in tensors(config)}


def from_official(stored):
    """A state dict from the tensors of a file: the experts stacked; thresholds count as already set."""
    out, banks = {}, {}
    for key, value in stored.items():
        m = _SINGLE.match(key)
        if m:
            banks.setdefault(f"{m[1]}experts_{m[3]}_{m[4]}", {})[int(m[2])] = value
        else:
            out[key] = value
            if key.endswith(".expert_threshold"):
                out[key[: -len("expert_threshold")] + "threshold_ready"] = torch.ones(())
    for key, rows in banks.items():
        out[key] = torch.stack([rows[j] for j in sorted(rows)])
    return out
