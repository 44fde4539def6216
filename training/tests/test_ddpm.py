"""DDPM: tables, losses and steps against numbers of the official modules."""

import os

import pytest
import torch
from test_golden import FIXTURES, close, fixture_model, tiny, wave

from diffmoe.train import ddpm, sampler


def test_tables():
    s = ddpm.Schedule()
    at = [0, 1, 500, 999]
    close(s.beta[at].float(), [1e-4, 1.1991992e-4, 1.0059960e-2, 2e-2], 1e-6)
    close(s.alpha_bar[at].float(), [0.9999, 0.999780092, 0.0777966584, 4.03582977e-5], 1e-6)
    close(s.log_variance[[0, 1, 2, 999]].float(), [-9.81672514, -9.81672514, -9.3671215, -3.91202383], 1e-6)
    close(ddpm.Schedule(250).beta[[0, 1, 249]].float(), [1e-4, 5.99065564e-4, 7.75193450e-2], 1e-6)
    assert ddpm.Schedule(10).times.tolist() == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]
    assert ddpm.Schedule(50).times[:7].tolist() == [0, 20, 41, 61, 82, 102, 122]


def test_losses():
    model, x, _ = tiny("dense")
    noise = wave(x.shape, torch.cos, 0.37, 0.2)
    i, s = torch.tensor([0, 500, 999]), ddpm.Schedule()
    out, _ = model.train()(s.noised(x, i, noise), i, [torch.tensor([1, 7, 3])])
    mse, bound = ddpm.loss(out, x, noise, i, s)
    close(mse, [2.9203491, 2.7313049, 3.1673934])
    close(bound, [4.2794390, 0.0217194, 0.0466303])
    close((mse + bound).mean(), [4.3889456])


def test_one_step():
    model, x, _ = tiny("dense")
    s, i = ddpm.Schedule(10), torch.full((3,), 5)
    out, _ = model.eval()(x, torch.full((3,), int(s.times[5])), [torch.tensor([1, 7, 3])])
    eps, v = out.chunk(2, dim=1)
    x0 = s.x0(x, i, eps)
    mean = s.posterior_mean(x0, x, i)
    close(x0.sum(), [-94.934120], 1e-4)
    close(mean.sum(), [-23.275618], 1e-4)
    close(mean[0, 0, 0], [1.931043, 3.181796, 3.673892, 1.785262])
    close(s.model_log_variance(v, i).sum(), [-85.758316], 1e-4)


@pytest.mark.skipif(not FIXTURES or not os.path.exists(os.path.join(FIXTURES, "diffmoe_ddpm")),
                    reason="set DIFFMOE_FIXTURES to the parity fixtures")
def test_sampling_against_official_outputs():
    model, io = fixture_model("diffmoe_ddpm")
    labels, n = [io["y"].long()], len(io["y"])
    scale = lambda z: z.abs().max()  # random weights send samples far out
    z = sampler.sample(model, io["x"], labels, 5, step_noise=io["ddpm_nocfg_noise"].numpy().__getitem__)
    assert (z - io["ddpm_nocfg"]).abs().max() < 1e-5 * scale(z)
    z = sampler.sample(model, io["x"], labels, 5, solver="ddim")
    assert (z - io["ddim_nocfg"]).abs().max() < 1e-5 * scale(z)
    z = sampler.sample(model, io["x"], labels, 5, 1.5, step_noise=io["ddpm_cfg_noise"][:, :n].numpy().__getitem__)
    assert (z - io["ddpm_cfg"][:n]).abs().max() < 1e-5 * scale(z)
