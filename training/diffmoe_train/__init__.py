"""Training of small DiffMoE models (arXiv 2503.14487) in plain PyTorch."""
