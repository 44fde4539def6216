"""The examples of the README and the notebook run."""

import json
import re
import shutil

import matplotlib
import numpy as np
from conftest import ASSETS, DATA, REPOSITORY, error

from diffmoe import Pipeline


def test_examples(monkeypatch, tmp_path):
    matplotlib.use("Agg")
    text = (DATA.parents[1] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 4
    (tmp_path / "assets").symlink_to(ASSETS)
    shutil.copy(DATA / "eurosat.json", tmp_path / "routing.json")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["out"].images[0].size == (64, 64)
    # The loop in onnxruntime is Euler's method with the model's guidance.
    noise = np.random.default_rng(7).standard_normal((1, 3, 64, 64), np.float32)
    settings = {"scheduler": "euler", "num_inference_steps": 30, "cycle_spin": 1, "latents": noise, "output_type": "latent"}
    drawn = Pipeline.from_pretrained("assets/emoji_text.safetensors")(prompt="a fox, twemoji", **settings)
    assert error(names["x"], drawn.samples) < 1e-3
    assert (tmp_path / "residential.png").is_file() and (tmp_path / "routing.safetensors").is_file()


def test_notebook(monkeypatch):
    """The code of ``examples/routing.ipynb``, and that its stored outputs are complete."""
    matplotlib.use("Agg")
    monkeypatch.setenv("DIFFMOE_MODELS", str(ASSETS))
    cells = json.loads((REPOSITORY / "examples" / "routing.ipynb").read_text(encoding="utf-8"))["cells"]
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(output["output_type"] != "error" for cell in cells for output in cell["outputs"])
    assert any("text/html" in output["data"] for cell in cells for output in cell["outputs"])
    names = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), "routing.ipynb", "exec"), names)
    assert names["more"].trace.images == 20
