"""Readers of exports, one module per tool: each yields a row of thumbs, or of reasons, for every row of its source."""
