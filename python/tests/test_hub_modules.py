"""The modules that ``diffmoe convert --layout diffusers`` writes, without the command; ``test_hub.py`` opens what it writes.
Needs PyTorch and diffusers."""

import importlib.util
import json
import os
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import LABELLED, REPOSITORY, Case, context_model, error
from refined import document, prompted, random_tensors

from diffmoe import Config, Pipeline
from diffmoe.model import Model

os.environ["HF_HUB_OFFLINE"] = "1"
torch = pytest.importorskip("torch", reason="the modules for diffusers are not tested: PyTorch is not installed")
diffusers = pytest.importorskip("diffusers", reason="the modules for diffusers are not tested: diffusers is not installed")
save_file = pytest.importorskip("safetensors.torch").save_file
#: Of a model without experts whose norms have an epsilon of their own.
RMS = {"norm_type": "rmsnorm", "qk_norm": True, "qk_norm_eps": 50.0, "use_swiglu": True, "swiglu_bias": True}
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
    ours, (x, t, labels), document = context_model(**RMS)
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


def write_folder(folder, of: dict, tensors: dict, dtype=torch.float32):
    """The folder of a model with a refiner: that is ``transformer_2``, with the document of a model of its own, while the
    configuration of ``transformer`` is that of the file."""
    name = "DiffMoETransformer2DModel"
    index = {"_class_name": ["pipeline", "DiffMoEPipeline"], "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}
    index |= {part: ["transformer_diffmoe", name] for part in ("transformer", "transformer_2")}
    refiner = {key: value for key, value in of.items() if key != "refiner"} | {"params": of["refiner"]["params"]}
    for part, config, of_part in (
        ("transformer", of, {n: w for n, w in tensors.items() if not n.startswith("refiner.")}),
        ("transformer_2", refiner, {n[8:]: w for n, w in tensors.items() if n.startswith("refiner.")}),
    ):
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps({"_class_name": name, **config}))
        for code in ("transformer_diffmoe.py", "layers_diffmoe.py"):
            shutil.copy(HUB / code, folder / part)
        stored = {n: torch.from_numpy(w).to(dtype) for n, w in of_part.items() if not n.endswith(".ema_decay")}
        save_file(stored, folder / part / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0).save_pretrained(folder / "scheduler")
    shutil.copy(HUB / "pipeline.py", folder)
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def load(folder):
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("has_prompts", [False, True])
def test_the_refiner_takes_the_last_steps(has_prompts, tmp_path):
    of, tensors = prompted() if has_prompts else (document(), random_tensors(Config.from_dict(document())))
    ours, pipe = Pipeline(Model(Config.from_dict(of), tensors)), load(write_folder(tmp_path / "two", of, tensors))
    labels = {"subject": [1, 4], "style": [0, 2]}
    asked = {"labels": labels}, {"class_labels": labels}
    if has_prompts:
        pytest.importorskip("tokenizers", reason="prompts are not tested: tokenizers is not installed")
        asked = ({"prompt": ["a red robot", "blob"], "negative_prompt": "fluent"},) * 2
    z = np.random.default_rng(3).standard_normal((2, 3, *ours.config.input_size)).astype(np.float32)
    taken = []
    for part in ("transformer", "transformer_2"):
        getattr(pipe, part).register_forward_hook(lambda *_, part=part: taken.append(part))
    settings = {"num_inference_steps": 6, "guidance_scale": 1.5, "output_type": "latent"}
    got = pipe(**asked[1], latents=torch.from_numpy(z), **settings).images
    assert taken == ["transformer"] * 6 + ["transformer_2"] * 6
    wanted = ours(**asked[0], latents=z, scheduler="euler", **settings).samples
    assert error(got.numpy(), wanted) < 1e-3


def test_a_step_begins_at_a_rounded_time(hub):
    parts = [SimpleNamespace(config=SimpleNamespace(refiner={"from": 0.7})), SimpleNamespace()]
    for steps in range(1, 200):
        pipe = SimpleNamespace(transformer=parts[0], transformer_2=parts[1])
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
        scheduler.set_timesteps(sigmas=[1 - i / (10 * steps) for i in range(10 * steps)])
        times = [float(1 - t / 1000) for t in scheduler.timesteps]
        fine = [hub("pipeline").DiffMoEPipeline._model(pipe, time) is parts[1] for time in times]
        assert fine == [False] * (7 * steps) + [True] * (3 * steps), steps


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_folder_with_a_refiner_is_opened(tmp_path, dtype):
    of = document()
    tensors = random_tensors(Config.from_dict(of))
    folder = write_folder(tmp_path / "two", of, tensors, dtype)
    wanted = {n: torch.from_numpy(w).to(dtype).float().numpy() for n, w in tensors.items() if not n.endswith(".ema_decay")}
    load(folder).save_pretrained(tmp_path / "saved")
    for at in (folder, folder / "transformer", tmp_path / "saved"):
        pipe = Pipeline.from_pretrained(at)
        assert pipe.config == Config.from_dict(of)
        read = pipe.model.weights | {f"refiner.{name}": w for name, w in pipe.model.refiner.weights.items()}
        assert read.keys() == wanted.keys() and all(np.array_equal(read[name], w) for name, w in wanted.items())
    assert Pipeline.from_pretrained(folder / "transformer_2").config == pipe.config.refiner


def test_a_refiner_belongs_to_a_configuration(hub):
    case = Case("detail_head")
    model, new = transformer(hub, case.settings, case.pipe.model.weights), hub("pipeline").DiffMoEPipeline
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    assert new(model, scheduler).transformer_2 is None
    with pytest.raises(ValueError, match="give both or none"):
        new(model, scheduler, model)
