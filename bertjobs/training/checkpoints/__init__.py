"""The checkpoints of a training run: their names, what is in them, and how they are published."""
