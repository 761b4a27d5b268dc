"""Train one configuration: trainer, checkpoints, tasks, losses, metrics, optimisers, GANs. Knows no Ray."""
