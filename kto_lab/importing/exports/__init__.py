"""Readers of exports, one module a tool: each yields a row of thumbs, or of reasons, for every row of its source."""
