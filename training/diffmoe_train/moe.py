"""The DiffMoE feed-forward layer: expert choice over the whole token pool.

Training: every expert takes its k = int(S / E * capacity) highest-gate tokens
out of *all* S = batch * tokens of the local batch.  A small predictor learns
(binary cross entropy, input detached) which tokens each expert took, and a
per-expert threshold tracks the k-th largest predicted probability.

Inference: the predictor and its thresholds say *how many* tokens an expert
processes; which ones, depends on the rule:

* ``pool``  - the n_e tokens of the pool with the largest gate (official rule);
* ``token`` - exactly the tokens above the threshold (independent of the rest
  of the batch).

Experts are kept as stacked parameters so that one layer is two batched matrix
products.  ``to_official`` / ``from_official`` translate to and from the names
of the official state_dict (``experts.{j}.fc1.weight`` and so on).
"""

import re

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F


class DiffMoE(nn.Module):
    def __init__(self, dim, hidden, num_experts, capacity=1.0, threshold_decay=0.95):
        super().__init__()
        E = num_experts
        self.dim, self.hidden, self.num_experts, self.capacity = dim, hidden, E, capacity
        self.gate_weight = nn.Parameter(torch.empty(E, dim))
        self.register_buffer("expert_threshold", torch.zeros(E))
        self.register_buffer("ema_decay", torch.tensor([threshold_decay]))
        # 0 until the thresholds were set from a first batch (not exported).
        self.register_buffer("threshold_ready", torch.zeros(()))
        self.experts_fc1_weight = nn.Parameter(torch.empty(E, hidden, dim))
        self.experts_fc1_bias = nn.Parameter(torch.zeros(E, hidden))
        self.experts_fc2_weight = nn.Parameter(torch.empty(E, dim, hidden))
        self.experts_fc2_bias = nn.Parameter(torch.zeros(E, dim))
        self.capacity_predictor = nn.Sequential(
            nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, E)
        )
        self.rule = "pool"
        self.force_train_routing = False  # used when recalibrating thresholds
        self.predicted_capacity = None  # what the thresholds would have chosen in the last training pass, pairs per token
        self.record = None  # a dict here receives the routing of a forward pass

    def reset_parameters(self):
        nn.init.normal_(self.gate_weight, std=0.006)
        for w in (self.experts_fc1_weight, self.experts_fc2_weight):
            bound = (6.0 / (w.shape[1] + w.shape[2])) ** 0.5
            nn.init.uniform_(w, -bound, bound)

    def experts(self, xe):
        """xe [E, n, D] -> [E, n, D], expert e on its own n rows."""
        h = torch.baddbmm(self.experts_fc1_bias[:, None], xe, self.experts_fc1_weight.transpose(1, 2))
        h = F.gelu(h, approximate="tanh")
        return torch.baddbmm(self.experts_fc2_bias[:, None], h, self.experts_fc2_weight.transpose(1, 2))

    def dispatch(self, x, gate, index, weight):
        """Run expert e on tokens index[e] and add the results, times weight."""
        E, n = index.shape
        flat = index.reshape(-1)
        out = self.experts(x.index_select(0, flat).view(E, n, -1))
        out = (out * weight[..., None]).view(E * n, -1)
        return torch.zeros_like(x, dtype=out.dtype).index_add(0, flat, out)

    def forward(self, x):
        """x [B, T, D] -> (y [B, T, D], predictor loss or None)."""
        shape = x.shape
        x = x.reshape(-1, shape[-1])
        S, E = x.shape[0], self.num_experts
        with torch.autocast(x.device.type, enabled=False):  # routing stays in float32
            xf = x.float()
            gate = F.linear(xf, self.gate_weight).softmax(-1)
            logits = self.capacity_predictor(xf.detach())
        k = int(S / E * self.capacity)
        if self.training or self.force_train_routing:
            weight, index = gate.t().topk(k, dim=-1, sorted=False)
            target = torch.zeros(E, S, device=x.device).scatter_(1, index, 1.0).t()
            loss = F.binary_cross_entropy_with_logits(logits, target)
            if self.training:
                self.update_threshold(logits.detach(), k)
                self.predicted_capacity = (logits.detach().sigmoid() > self.expert_threshold).sum() / S
            y = self.dispatch(x, gate, index, weight)
            counts, selected = None, target
        else:
            loss = None
            over = logits.sigmoid() > self.expert_threshold  # [S, E]
            counts = over.sum(0)
            score = gate if self.rule == "pool" else gate.masked_fill(~over, -1.0)
            n = int(counts.max())
            weight, index = score.t().topk(n, dim=-1)
            keep = torch.arange(n, device=x.device) < counts[:, None]
            y = self.dispatch(x, gate, index, weight * keep) if n else torch.zeros_like(x)
            selected = None
            if self.record is not None:
                selected = torch.zeros(E, S, device=x.device).scatter_(1, index, keep.float()).t()
        if self.record is not None:
            self.record.update(selected=selected, counts=counts, gate=gate, logits=logits)
        return y.view(shape).to(x.dtype), loss

    @torch.no_grad()
    def update_threshold(self, logits, k):
        """tau <- decay * tau + (1 - decay) * (k-th largest probability).

        The very first batch sets tau (a start from 0 would take thousands of
        steps to forget)."""
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


_STACKED = re.compile(r"(.*\.)experts_(fc[12])_(weight|bias)$")
_SINGLE = re.compile(r"(.*\.)experts\.(\d+)\.(fc[12])\.(weight|bias)$")


def to_official(state):
    """Unstack the experts into the official names, in the official order."""
    out, banks = {}, {}
    for key, value in state.items():
        m = _STACKED.match(key)
        if key.endswith(".threshold_ready"):
            continue
        if m:
            banks.setdefault(m[1], {})[(m[2], m[3])] = value
            if len(banks[m[1]]) == 4:
                for j in range(value.shape[0]):
                    for fc in ("fc1", "fc2"):
                        for kind in ("weight", "bias"):
                            out[f"{m[1]}experts.{j}.{fc}.{kind}"] = banks[m[1]][(fc, kind)][j]
        else:
            out[key] = value
    # Parameters come before buffers inside a module: put the experts after them.
    order = []
    for key in out:
        if key.endswith(".gate_weight"):
            prefix = key[: -len("gate_weight")]
            mine = [k for k in out if k.startswith(prefix)]
            first = [prefix + n for n in ("gate_weight", "expert_threshold", "ema_decay")]
            experts = [k for k in mine if k.startswith(prefix + "experts.")]
            rest = [k for k in mine if k not in first and k not in experts]
            order += first + experts + rest
        elif key not in order:
            order.append(key)
    return {k: out[k] for k in dict.fromkeys(order)}


def from_official(state):
    """Stack official expert tensors; thresholds count as already set."""
    out, banks = {}, {}
    for key, value in state.items():
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
