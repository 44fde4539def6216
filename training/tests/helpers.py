"""What several test files share."""

from diffmoe.train import loop


def run_tiny(root, *more):
    """Train the made-up set; returns (checkpoint, losses in the log)."""
    loop.main([str(root / "run.toml"), "--data-root", str(root), "--out", str(root / "runs"), *more])
    rows = [r.split(",") for r in (root / "runs/tiny/log.csv").read_text().splitlines()[1:]]
    return root / "runs/tiny/last.pt", [float(r[3]) for r in rows]
