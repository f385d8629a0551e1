"""Studies: what a run leaves behind, where it ran, and what many runs say together."""

from typing import Any

__all__ = ["load", "open_study"]


def __getattr__(name: str) -> Any:
    """What reads studies, imported when it is asked for: a run, which is here too, needs no pandas for its record."""
    if name == "load":
        from kto_lab.reports.frame import load

        return load
    if name == "open_study":
        from kto_lab.reports.showing import OpenStudy

        return OpenStudy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
