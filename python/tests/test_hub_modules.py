"""The modules that ``diffmoe convert --layout diffusers`` writes, without the command; ``test_hub.py`` opens what it writes.
Needs PyTorch and diffusers."""

import importlib.util
import sys

import pytest
from conftest import LABELLED, REPOSITORY, Case, context_model, error

torch = pytest.importorskip("torch", reason="the modules for diffusers are not tested: PyTorch is not installed")
diffusers = pytest.importorskip("diffusers", reason="the modules for diffusers are not tested: diffusers is not installed")
HUB = REPOSITORY / "crates" / "cli" / "src" / "hub"


@pytest.fixture(scope="module")
def hub():
    """The folder as a package, whose modules import each other."""
    spec = importlib.util.spec_from_loader("hub_of_diffmoe", loader=None, is_package=True)
    package = importlib.util.module_from_spec(spec)
    package.__path__ = [str(HUB)]
    sys.modules[spec.name] = package
    yield lambda name: importlib.import_module(f"{spec.name}.{name}")
    for name in [name for name in sys.modules if name.split(".")[0] == spec.name]:
        del sys.modules[name]


def transformer(hub, document: dict, weights: dict):
    """The module with the weights of a model, which it must all have."""
    keys = ("kind", "t_kind", "params", "time_scale", "space", "null_class", "labels")
    model = hub("transformer_diffmoe").DiffMoETransformer2DModel(**{key: document[key] for key in keys if key in document})
    tensors = {name: torch.from_numpy(w) for name, w in weights.items() if not name.endswith(".ema_decay")}
    model.load_state_dict(tensors)
    return model.eval()


@pytest.mark.parametrize("name", LABELLED)
def test_the_transformer_gives_the_recorded_outputs(hub, name):
    case = Case(name)
    model = transformer(hub, case.settings, case.pipe.model.weights)
    labels = [torch.from_numpy(rows) for rows in case.labels]
    x, t = (torch.from_numpy(case.io[key]).float() for key in ("x", "t"))
    with torch.no_grad():
        out = model(x, t, labels, routing="pool").sample
    assert error(out.numpy(), case.io["out"]) < 1e-4


def test_tokens_of_the_context_are_the_sum_of_all_labels(hub):
    ours, (x, t, labels), document = context_model(norm_type="rmsnorm", use_swiglu=True, swiglu_bias=True)
    model = transformer(hub, document, ours.weights)
    with torch.no_grad():
        out = model(torch.from_numpy(x), torch.from_numpy(t).float(), [torch.from_numpy(rows) for rows in labels]).sample
    assert error(out.numpy(), ours.forward(x, t, labels)[0]) < 1e-4


@pytest.mark.parametrize("name", ["jit_moe", "detail_head", "promoe"])
def test_the_pipeline_draws_the_recorded_samples(hub, name):
    case = Case(name)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    pipe = hub("pipeline").DiffMoEPipeline(transformer(hub, case.settings, case.pipe.model.weights), scheduler)
    pipe.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": case.settings["steps"], "guidance_scale": case.settings["cfg_scale"]}
    rows = [int(row) for row in case.io["y"]]
    z = torch.from_numpy(case.io["x"])
    got = pipe(class_labels=rows, latents=z, routing="pool", output_type="latent", **settings).images
    assert error(got.numpy(), case.io["euler_cfg"]) < 1e-4
