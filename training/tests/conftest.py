import json
import os

import checkout  # noqa: F401 - finds the package
import numpy as np
import pytest
import torch
from diffmoe.train import data

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))


@pytest.fixture
def emoji_root(tmp_path):
    """Four coloured 'subjects' in three 'styles' (flat, dark, framed), and two that are not trained on."""
    colours = {"red ball": (255, 0, 0), "green ball": (0, 255, 0), "blue ball": (0, 0, 255), "red box": (255, 0, 128),
               "grey ball": (128, 128, 128), "pink box": (255, 128, 128)}
    images, records = [], []
    for name, c in colours.items():
        for style in data.STYLES[:3]:
            im = np.full((16, 16, 3), 255, np.uint8)
            im[4:12, 4:12] = np.array(c) // (2 if style == "blob" else 1)
            if style == "twemoji":
                im[:2] = 0
            images.append(im)
            records.append({"style": style, "codepoint": name, "group": name.split()[1], "name": name,
                            "held_out": (name, style) == ("red box", "twemoji")})
    (tmp_path / "e").mkdir()
    np.savez(tmp_path / "e" / "emoji.npz", images=np.stack(images))
    (tmp_path / "e" / "labels.json").write_text(json.dumps(records))
    (tmp_path / "run.toml").write_text("""
name = "tiny"
[data]
kind = "emoji"
path = "e/emoji.npz"
labels = "e/labels.json"
image_size = 8
min_styles = 3
subjects = ["red ball", "green ball", "blue ball", "red box"]
[model]
input_size = 8
patch_size = 2
depth = 4
hidden_size = 64
num_heads = 1
num_experts = 4
label_init_std = 0.5
[train]
batch = 32
steps = 250
lr = 3e-3
warmup = 10
log_every = 10
[sample]
steps = 8
guidance = 1.5
[card]
licence = "none"
data = "made up"
""")
    return tmp_path
