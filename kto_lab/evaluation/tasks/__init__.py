"""lm-eval tasks that need no hub. A run copies this folder beside its record, so that lm-eval's own CLI finds them."""
