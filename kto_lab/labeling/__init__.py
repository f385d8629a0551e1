"""Thumbs where there are none: labelers, and how far they agree."""
