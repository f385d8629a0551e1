"""Studies: what a run leaves behind, where it ran, and what many runs say together."""

from typing import Any

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """`load`, imported when it is asked for: a run, which is in this package too, needs no pandas for its record."""
    if name == "load":
        from kto_lab.studies.frame import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
