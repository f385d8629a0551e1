"""Studies: what a run leaves behind, and where it ran."""
