"""Train one model:  python -m diffmoe_train.train configs/eurosat.toml [--resume]

Several GPUs:  torchrun --nproc_per_node=4 -m diffmoe_train.train configs/...
"""

import argparse
import csv
import os
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from . import config as configs
from . import data, flow
from .ema import Ema
from .model import DiT
from .sample import save_grid


def build(model_config, labels):
    m = configs.dataclasses.asdict(model_config)
    return DiT(labels=[(l.prefix, len(l.values), l.mix) for l in labels], **m)


def learning_rate(c, step, progress):
    warm = min(1.0, (step + 1) / max(1, c.warmup))
    return c.lr * warm * min(1.0, (1 - progress) / c.decay_fraction)


def save_atomic(obj, path):
    torch.save(obj, path + ".tmp")
    os.replace(path + ".tmp", path)


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config")
    p.add_argument("--data-root", default=os.environ.get("DIFFMOE_DATA", "data"))
    p.add_argument("--out", default="runs", help="checkpoints, log and grids go to OUT/NAME")
    p.add_argument("--resume", action="store_true", help="continue from OUT/NAME/last.pt if there is one")
    p.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    a = p.parse_args(argv)
    c = configs.load(a.config, a.set)
    t = c.train

    rank = int(os.environ.get("RANK", 0))
    world = int(os.environ.get("WORLD_SIZE", 1))
    device = t.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = True
    elif t.threads:
        torch.set_num_threads(t.threads)
    if world > 1:
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")

    dataset = data.load(c.data, a.data_root)
    torch.manual_seed(t.seed)
    model = build(c.model, dataset.labels).to(device).train()
    ema = Ema(model, t.ema)
    opt = torch.optim.AdamW([q for q in model.parameters() if q.requires_grad], lr=t.lr,
                            betas=tuple(t.betas), weight_decay=t.weight_decay, fused=True)
    folder = os.path.join(a.out, c.name)
    os.makedirs(folder, exist_ok=True)
    last = os.path.join(folder, "last.pt")
    step, images, before = 0, 0, 0.0  # before: seconds of earlier sittings
    if a.resume and os.path.exists(last):
        s = torch.load(last, map_location=device, weights_only=False)
        model.load_state_dict(s["model"])
        ema.model.load_state_dict(s["ema"])
        ema.n, step, images, before = s["ema_n"], s["step"], s["images"], s["seconds"]
        opt.load_state_dict(s["opt"])
    run = DistributedDataParallel(model, broadcast_buffers=False) if world > 1 else model
    seed = t.seed + 1000 * rank + step
    torch.manual_seed(seed)
    batches = data.Batches(dataset, t.batch, seed)
    nulls = [len(l.values) for l in dataset.labels]
    autocast = torch.autocast(device.split(":")[0], torch.bfloat16, enabled=t.amp == "bf16")

    log_path = os.path.join(folder, "log.csv")
    log = None
    if rank == 0:
        rows = []
        if step and os.path.exists(log_path):  # keep what led to the checkpoint
            with open(log_path, newline="") as f:
                rows = [r for r in list(csv.reader(f))[1:] if int(r[0]) <= step]
        log_file = open(log_path, "w", newline="")
        log = csv.writer(log_file)
        log.writerow(["step", "images", "seconds", "loss", "bce", "grad_norm", "lr", "images_per_s"])
        log.writerows(rows)

    start = time.time()
    saved = sampled = start
    sums, since, count = torch.zeros(3), start, 0
    bar = tqdm(total=t.steps, initial=step, disable=rank > 0, mininterval=5)

    def checkpoint():
        save_atomic({
            "config": configs.to_dict(c), "model": model.state_dict(), "ema": ema.model.state_dict(),
            "ema_n": ema.n, "opt": opt.state_dict(), "step": step, "images": images,
            "seconds": before + time.time() - start,
            "labels": [(l.name, l.prefix, l.values, l.mix, l.groups) for l in dataset.labels],
            "loss": recent,
        }, last)

    recent = float("nan")
    while True:
        seconds = before + time.time() - start
        progress = step / t.steps
        if t.max_hours:
            progress = max(progress, seconds / 3600 / t.max_hours)
        if world > 1:  # the clocks must agree on when to stop
            q = torch.tensor(progress, device=device)
            dist.all_reduce(q, dist.ReduceOp.MAX)
            progress = q.item()
        if progress >= 1:
            break
        lr = learning_rate(t, step, progress)
        for g in opt.param_groups:
            g["lr"] = lr
        x, labels = batches.next(device)
        labels = flow.drop_labels(labels, nulls, t.drop_all, t.drop_single)
        tt = flow.sample_t(len(x), t.t_dist, device)
        noise = torch.randn_like(x)
        with autocast:
            out, bce = run(flow.mix(x, noise, tt), tt, labels)
        mse = flow.flow_loss(out, x, noise).mean()
        (mse + t.bce_weight * bce).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), t.grad_clip)
        opt.step()
        opt.zero_grad(set_to_none=True)
        ema.update(model)
        step += 1
        images += t.batch * world
        count += 1
        sums += torch.stack([mse.detach(), bce.detach(), norm.detach()]).float().cpu()
        bar.update(1)
        now = time.time()
        if step % t.log_every == 0 and log:
            m = (sums / count).tolist()
            rate = count * t.batch * world / (now - since)
            recent = m[0] if recent != recent else 0.8 * recent + 0.2 * m[0]
            log.writerow([step, images, round(seconds, 1), *(f"{v:.5f}" for v in m), f"{lr:.3g}", f"{rate:.1f}"])
            log_file.flush()
            bar.set_postfix_str(f"loss {m[0]:.4f} bce {m[1]:.3f} {rate:.0f} img/s, {progress:.0%}")
            sums, since, count = torch.zeros(3), now, 0
        if rank == 0 and now - saved > 60 * t.save_minutes:
            checkpoint()
            saved = time.time()
        if rank == 0 and now - sampled > 60 * t.sample_minutes:
            save_grid(ema.model, dataset.labels, c.sample, os.path.join(folder, f"grid_{step:06d}.png"))
            sampled = since = time.time()
            sums.zero_()
            count = 0
    bar.close()
    if rank == 0:
        checkpoint()
        save_grid(ema.model, dataset.labels, c.sample, os.path.join(folder, "grid_final.png"))
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
