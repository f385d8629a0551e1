"""Training: the plan of a run, the Lightning module, its data, callbacks and checkpoints."""
