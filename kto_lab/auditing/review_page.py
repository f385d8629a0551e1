"""The reviewer's page: the suspects of an audit, one by one, in an HTML file that stands alone.

Keys decide: keep, flip, drop or skip. Decisions stay in the browser until they are downloaded as decisions.json, which
`kto-lab feedback review` reads. Prompts and completions are a stranger's: the page's script puts them in as text.
"""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa

from kto_lab.errors import LabError
from kto_lab.files import write_text
from kto_lab.hashing import content_hash
from kto_lab.pages import render

PAGE = "review.html"
SIGNAL = "signal_"
# Where an example was drawn from all of the audited ones, whatever its suspicion; absent where none was.
AT_RANDOM = "sampled_at_random"


def write_review(folder: Path, suspects: pa.Table, title: str) -> Path:
    """Write the page for all rows of a table, in the order of their rank; returns its path.

    Args:
        folder: to write into.
        suspects: one row per example, with `example_id`, `rank`, `suspicion`, `prompt` (text or chat messages),
            `completion`, `desirable` (the thumb in doubt), `why` (text), any `signal_<name>` (a number or null), and
            where some were drawn at random `sampled_at_random`. The page does not show the last, which would lead the
            reviewer, and hands it on with the decisions.
        title: of the page.

    Raises:
        LabError: the folder holds a page.
    """
    target = folder / PAGE
    if target.exists():
        raise LabError(f"{target} exists. Choose another output, or remove it to write the page again.")
    write_text(target, page(suspects, title))
    return target


def audit_hash(suspects: pa.Table) -> str:
    """What tells the suspects of one audit from another's: the examples and the thumbs in doubt, in any order."""
    thumbs = zip(suspects["example_id"].to_pylist(), suspects["desirable"].to_pylist(), strict=True)
    return content_hash("audit", sorted(thumbs))


def page(suspects: pa.Table, title: str) -> str:
    """The page as HTML; for the arguments see `write_review`."""
    data = {"audit": audit_hash(suspects), "examples": _examples(suspects)}
    return render("review.html", script="review.js", title=title, data=data)


def _examples(suspects: pa.Table) -> list[dict[str, Any]]:
    signals = [name for name in suspects.column_names if name.startswith(SIGNAL)]
    rows = sorted(suspects.to_pylist(), key=lambda row: row["rank"])
    return [
        {
            "id": row["example_id"],
            "rank": row["rank"],
            "suspicion": _number(row["suspicion"]),
            "prompt": row["prompt"],
            "completion": row["completion"],
            "desirable": row["desirable"],
            "why": row["why"] or "",
            "signals": [(name.removeprefix(SIGNAL), _number(row[name])) for name in signals],
            "random": bool(row.get(AT_RANDOM)),
        }
        for row in rows
    ]


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
