"""Files of feedback, read as the configuration of a command has it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset

from kto_lab.feedback.file import from_file

CONF = Path(__file__).parents[2] / "conf"


def settings(
    option: str, columns: Mapping[str, str | None] | None = None, changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What an option ("feedback/file") is made with, where only these columns and keys are set otherwise."""
    given = yaml.safe_load((CONF / f"{option}.yaml").read_text())
    given.pop("_target_")
    mapped = {"columns": {**given["columns"], **(columns or {})}} if "columns" in given else {}
    return {**given, **mapped, **(changes or {})}


def read(file: Path, columns: Mapping[str, str | None] | None = None, **changes: Any) -> Dataset:
    """The table of `feedback=file`."""
    return from_file(**settings("feedback/file", columns, {"path": str(file), **changes}))


def jsonl(folder: Path, *rows: Mapping[str, Any]) -> Path:
    """A file of these rows."""
    file = folder / "t.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
