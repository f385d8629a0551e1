"""Feedback: thumbs from every source become one table of examples."""
