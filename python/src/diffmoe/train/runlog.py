"""log.csv of a run: means over the last ``log_every`` steps, the loss also per
noise level (five equal bins of t; t = 1 is data)."""

import csv
import os
import time

import torch

BINS = 5
COLUMNS = ["step", "images", "seconds", "loss", "bce", "grad_norm", "lr", "images_per_s", "capacity",
           *(f"loss_t{i / BINS:.1f}" for i in range(BINS))]


class RunLog:
    def __init__(self, folder, step):
        path = os.path.join(folder, "log.csv")
        rows = []
        if step and os.path.exists(path):  # keep the rows up to the checkpoint
            with open(path, newline="") as f:
                rows = [r for r in list(csv.reader(f))[1:] if int(r[0]) <= step]
        self.file = open(path, "w", newline="")
        self.writer = csv.writer(self.file)
        self.writer.writerow(COLUMNS)
        self.writer.writerows(rows)
        self.file.flush()
        self.recent = float("nan")  # running mean of the loss
        self.restart()

    def restart(self):
        self.since, self.count = time.time(), 0
        self.sums = torch.zeros(4)
        self.bins, self.bin_counts = torch.zeros(BINS), torch.zeros(BINS)

    def add(self, losses, t, bce, norm, capacity):
        """losses, t: one value per sample."""
        losses, t = losses.detach().float().cpu(), t.cpu()
        self.sums += torch.tensor([losses.mean(), bce.detach().float(), norm.detach().float(), capacity])
        at = (t * BINS).long().clamp_max(BINS - 1)
        self.bins.index_add_(0, at, losses)
        self.bin_counts.index_add_(0, at, torch.ones_like(losses))
        self.count += 1

    def write(self, step, images, seconds, lr, batch):
        """Write a row of means since the last one; returns (loss, images/s)."""
        loss, bce, norm, capacity = (self.sums / self.count).tolist()
        rate = self.count * batch / (time.time() - self.since)
        self.recent = loss if self.recent != self.recent else 0.8 * self.recent + 0.2 * loss
        per_bin = [f"{s / n:.5f}" if n else "" for s, n in zip(self.bins.tolist(), self.bin_counts.tolist())]
        self.writer.writerow([step, images, round(seconds, 1), f"{loss:.5f}", f"{bce:.5f}", f"{norm:.5f}",
                              f"{lr:.3g}", f"{rate:.1f}", f"{capacity:.4f}", *per_bin])
        self.file.flush()
        self.restart()
        return loss, rate
