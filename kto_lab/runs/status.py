"""What became of a run, as its folder says."""

from functools import lru_cache
from pathlib import Path

from kto_lab.errors import LabError
from kto_lab.runs.lease import LEASE, read_owner
from kto_lab.runs.record import RECORD, find_record

FAILURE = "failure.json"


def status(folder: Path) -> str:
    """What became of a run: "done", "failed", "running", "unreadable" (its record is damaged) or "missing"."""
    file = folder / RECORD
    try:
        about = file.stat()
    except OSError:
        about = None
    if about is not None:
        return "done" if _is_whole(file, about.st_mtime_ns, about.st_size) else "unreadable"
    if read_owner(folder / LEASE) is not None:
        return "running"
    return "failed" if (folder / FAILURE).exists() else "missing"


# A sweep asks more than once, and of a thousand records each reading counts. A file that was changed is another.
@lru_cache(maxsize=1 << 14)
def _is_whole(file: Path, changed: int, size: int) -> bool:
    try:
        return find_record(file) is not None
    except LabError:
        return False
