"""Training objectives with a common interface: rectified flow and DDPM.

``share`` is the share of data in a noised image, from 0 (noise) to 1; logs and
reports use it for both objectives, so that their noise levels are comparable."""

import torch

from . import ddpm, flow

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # shares of data at which losses and capacities are reported


class Flow:
    def __init__(self, t_dist="uniform", t_shift=1.0, prediction="velocity", t_late=0.0, t_late_from=0.6,
                 least_noise=flow.LEAST_NOISE, gradient_weight=0.0):
        self.t_dist, self.t_shift, self.prediction = t_dist, t_shift, prediction
        self.t_late, self.t_late_from, self.least_noise = t_late, t_late_from, least_noise
        self.gradient_weight = gradient_weight

    def draw_time(self, n, device):
        return flow.sample_t(n, self.t_dist, device, shift=self.t_shift, late=self.t_late, late_from=self.t_late_from)

    def at(self, share):
        return share

    def share(self, t):
        return t

    def noised(self, x, noise, t):
        return flow.mix(x, noise, t)

    def loss(self, out, x, noise, t):
        """One value per sample."""
        return flow.flow_loss(out, x, noise, t, self.prediction, self.least_noise, self.gradient_weight)


class Ddpm:
    def __init__(self):
        self.schedule = ddpm.Schedule()

    def draw_time(self, n, device):
        return torch.randint(0, ddpm.STEPS, (n,), device=device)

    def at(self, share):
        return ((1 - share) * (ddpm.STEPS - 1)).round().long()

    def share(self, t):
        return 1 - t / (ddpm.STEPS - 1)

    def noised(self, x, noise, t):
        return self.schedule.noised(x, t, noise)

    def loss(self, out, x, noise, t):
        error, bound = ddpm.loss(out, x, noise, t, self.schedule)
        return error + bound


def make(config):
    """The objective of a run."""
    train = config.train
    if train.objective == "flow":
        return Flow(train.t_dist, train.t_shift, config.model.prediction, train.t_late, train.t_late_from, train.least_noise,
                    train.gradient_weight)
    if train.objective == "ddpm":
        return Ddpm()
    raise ValueError(f"train.objective = {train.objective!r}; expected flow or ddpm")
