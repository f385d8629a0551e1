"""Evaluation: implicit rewards on clean labels, checked answers, and the hand-over to lm-eval."""
