"""What one check says."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["ok", "failed", "note"]


@dataclass(frozen=True)
class Row:
    """What was measured of one thing, and whether the lab can run with it.

    Attributes:
        name: of what was checked.
        measured: what there is.
        limit: what there must be; "" where there is no limit.
        verdict: "ok", "failed", or "note" for what is worth knowing and never wrong.
        mend: what to do where it failed.
    """

    name: str
    measured: str
    limit: str = ""
    verdict: Verdict = "ok"
    mend: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def judged(name: str, measured: str, *, limit: str, holds: bool, mend: str) -> Row:
    """A row whose verdict is whether a limit holds."""
    return Row(name, measured, limit, "ok" if holds else "failed", "" if holds else mend)


def note(name: str, measured: str) -> Row:
    """A row that is worth knowing and never wrong."""
    return Row(name, measured, verdict="note")
