"""Samples by the package's schedulers: those of the samplers written in PyTorch, and those of the package's own model."""

import numpy as np
import pytest
import torch

import reference_sampler
from diffmoe import Pipeline, formats, schedulers, writing
from diffmoe.train import data, describe, export, exported, loop, sample, sampler
from diffmoe.train import config as configs
from helpers import small_model

ASKED = [torch.tensor([1, 7, 3])]


def random_weights(model, seed=0):
    torch.manual_seed(seed)
    for w in model.parameters():
        if w.requires_grad:
            torch.nn.init.normal_(w, std=0.1)
    return model.eval()


def noise(model, n=3):
    size = model.grid * model.patch_size
    return torch.randn(n, model.in_channels, size, size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("solver", ["euler", "heun"])
@pytest.mark.parametrize("prediction", ["velocity", "data"])
def test_flow_models(solver, prediction):
    model = random_weights(small_model("diffmoe", prediction=prediction))
    z = noise(model)
    for guidance, more, same in ((1.0, {}, {}), (2.0, {}, {}), (2.0, {"interval": (0.2, 0.7)}, {"interval": (0.2, 0.7)}),
                                 (1.5, {"cycle_spin": (2, 0.5)}, {"shifts": ((0, 0), (1, 1)), "shifts_from": 0.5})):
        got = sampler.sample(model, z, ASKED, 4, guidance, solver, **more)
        torch.testing.assert_close(got, reference_sampler.flow(model, z, ASKED, 4, guidance, solver, **same), rtol=0, atol=1e-5)
    negative = [torch.tensor([0, 2, 9])]
    got = sampler.sample(model, z, ASKED, 4, 2.0, solver, negative)
    torch.testing.assert_close(got, reference_sampler.flow(model, z, ASKED, 4, 2.0, solver, negative), rtol=0, atol=1e-5)
    assert (got - sampler.sample(model, z, ASKED, 4, 2.0, solver)).abs().max() > 1e-3


@pytest.mark.parametrize("solver", ["ddpm", "ddim"])
def test_ddpm_models(solver):
    model = random_weights(small_model("diffmoe", learn_sigma=True, objective="ddpm"))
    z = noise(model)
    for guidance in (1.0, 1.5):
        generator = torch.Generator().manual_seed(2)
        want = reference_sampler.ddpm(model, z, ASKED, 5, guidance, 3, solver == "ddim", generator=generator)
        got = sampler.sample(model, z, ASKED, 5, guidance, solver, part=2)
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    assert solver == "ddim" or torch.equal(got, sampler.sample(model, z, ASKED, 5, 1.5, part=2)), "the default"


@pytest.mark.parametrize("solver", [kind.name for kind in schedulers.suitable("flow")])
def test_a_file_draws_what_the_package_draws(emoji_root, solver):
    c = configs.load(emoji_root / "run.toml", ["model.prediction=data"])
    dataset = data.load(c.data, str(emoji_root))
    model = random_weights(loop.build(c, dataset.labels))
    export.recalibrate(model, export.noised_batches(dataset, [4, 8], c, 4, 32), 1)
    path = str(emoji_root / "m.safetensors")
    writing.write(path, describe.document(c, dataset.labels), formats.encode(export.folded(model), "f32"))
    model, z = exported.load_exported(path)[0], noise(model, 2)
    model.set_rule("pool")
    got = sampler.sample(model, z, [torch.tensor([0, 3]), torch.tensor([1, 8])], 5, 1.5, solver)
    want = Pipeline.from_pretrained(path)(labels={"subject": [0, 3], "style": [1, "any"]}, latents=z.numpy(), routing="pool",
                                          num_inference_steps=5, guidance_scale=1.5, scheduler=solver, output_type="latent")
    assert np.abs(got.numpy() - want.samples).max() <= 1e-4 * np.abs(want.samples).max()


def test_a_grid_of_a_run_that_diverged_is_left_out(emoji_root, capsys):
    c = configs.load(emoji_root / "run.toml")
    dataset = data.load(c.data, str(emoji_root))
    model = loop.build(c, dataset.labels)
    torch.nn.init.constant_(model.final_layer.linear.bias, float("nan"))
    sample.save_grid(model, dataset, c.sample, str(emoji_root / "grid.png"))
    assert "grid.png is not drawn: step 0 gave NaN" in capsys.readouterr().out and not (emoji_root / "grid.png").exists()
    assert model.training
