"""Thumbs of a product, as its tools export them, become a table of examples; nothing is left out without a reason."""
