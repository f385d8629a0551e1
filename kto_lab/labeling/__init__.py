"""Labelers: thumbs for answers that have none, and how far labelers agree."""
