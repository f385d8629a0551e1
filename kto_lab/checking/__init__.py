"""Whether a machine can run the lab: `kto-lab check`."""
