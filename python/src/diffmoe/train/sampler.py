"""Samples of a model in training.  The package's schedulers (``diffmoe.schedulers``) compute each step, in NumPy on the CPU;
the model computes in PyTorch, on the device of its samples."""

import numpy as np
import torch

from .. import sampling, schedulers


def begin_step(model, t):
    """Tells a model that has a refiner where its next step begins; None: the steps are over."""
    if hasattr(model, "begin_step"):
        model.begin_step(t)


class TorchRun(sampling.Evaluations):
    """A model with the conditions of a batch.  ``negative``: conditions of the unconditional passes instead of null."""

    def __init__(self, model, labels, negative, device, **more):
        super().__init__(model.config, **more)
        self.model, self.device = model, device
        self.conditions = {True: labels, False: model.null_labels(len(labels[0]), device) if negative is None else negative}

    def begin_step(self, step):
        super().begin_step(step)
        self.began = False

    def forward(self, z, time, guided=True):
        return self.outputs(z, time, self.conditions[guided])

    def joint(self, z, time):
        both = [torch.cat(pair) for pair in zip(self.conditions[True], self.conditions[False])]
        return np.split(self.outputs(np.concatenate([z, z]), time, both), 2)

    def outputs(self, z, time, labels):
        if not self.began:
            self.began = True
            begin_step(self.model, float(time))
        t = torch.full((len(z),), float(time), device=self.device)
        return self.model(torch.from_numpy(z).to(self.device), t, labels)[0].float().cpu().numpy()


@torch.no_grad()
def sample(model, z, labels, steps, guidance=1.0, solver=None, negative=None, step_noise=None, part=0, **more):
    """Samples from noise z.  ``solver``: a scheduler of the package or its name; Euler by default, for DDPM models ancestral
    sampling.  ``step_noise(step)``: noise of DDPM; by default of a generator seeded with ``part``, the index of the batch,
    so that each batch has its own.  more: ``interval``, ``cycle_spin``, as for ``diffmoe.sampling.Evaluations``."""
    generator = torch.Generator().manual_seed(part)
    step_noise = step_noise or (lambda step: torch.randn(z.shape, generator=generator).numpy())
    kind = schedulers.suitable(model.config.objective)[0] if solver is None else solver
    scheduler = schedulers.resolve(kind, model.config, steps)
    run = TorchRun(model, labels, negative, z.device, guidance=guidance, step_noise=step_noise, **more)
    try:
        return torch.from_numpy(sampling.sample(run, scheduler, steps, z.float().cpu().numpy())).to(z.device)
    finally:
        begin_step(model, None)
