"""The examples of the README run."""

import re
import shutil

import matplotlib
from conftest import ASSETS, DATA


def test_examples(monkeypatch, tmp_path):
    matplotlib.use("Agg")
    text = (DATA.parents[1] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    (tmp_path / "assets").symlink_to(ASSETS)
    shutil.copy(DATA / "eurosat.json", tmp_path / "routing.json")
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["out"].images[0].size == (64, 64)
    assert (tmp_path / "residential.png").is_file() and (tmp_path / "routing.safetensors").is_file()
