"""Two processes on one machine (gloo): other images in each, the same model in both."""

import os
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from diffmoe.train import config as configs
from diffmoe.train import loop

SETTINGS = ["train.steps=4", "train.batch=8", "train.device=cpu", "train.warmup=1", "train.log_every=2"]


def one_process(rank, port, root):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    t = loop.Trainer(configs.load(os.path.join(root, "run.toml"), SETTINGS), root, os.path.join(root, "two"), False)
    drawn = []
    real = t.batches.next
    t.batches.next = lambda device: drawn.append(real(device)) or drawn[-1]
    for _ in range(4):
        t.one_step(1e-3)
    images = torch.stack([x.sum() for x, _ in drawn])
    for name, mine, same in [("weights", torch.cat([p.detach().flatten() for p in t.model.parameters()]), True),
                             ("averages", torch.cat([p.flatten() for p in t.ema.model.parameters()]), True),
                             ("thresholds", torch.cat([m.expert_threshold for m in t.model.dynamic_layers().values()]), True),
                             ("images", images, False)]:
        both = [torch.empty_like(mine) for _ in range(2)]
        dist.all_gather(both, mine)
        assert torch.equal(*both) == same, name
    assert t.images == 4 * 8 * 2
    if rank == 0:
        t.checkpoint()
    dist.destroy_process_group()


def test_two_processes_train_one_model(emoji_root):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.spawn(one_process, (port, str(emoji_root)), nprocs=2)
    kept = torch.load(emoji_root / "two/last.pt", weights_only=False)
    assert kept["step"] == 4 and kept["images"] == 64 and all(w.isfinite().all() for w in kept["model"].values())
