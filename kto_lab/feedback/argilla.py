"""A dataset of Argilla 2 in a folder, as its SDK (2.8) reads one with `rg.Dataset.from_disk`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kto_lab.files import write_json


def write_dataset(
    folder: Path,
    name: str,
    *,
    guidelines: str,
    fields: Sequence[Mapping[str, Any]],
    questions: Sequence[Mapping[str, Any]],
    metadata: Sequence[Mapping[str, Any]],
    records: Iterable[Mapping[str, Any]],
) -> None:
    """Write a dataset: its settings, and its records.

    Args:
        folder: to write into.
        name: the dataset's name.
        guidelines: for annotators.
        fields: from `text` and `chat`.
        questions: from `choice`.
        metadata: from `metadata_of`.
        records: with `id`, `fields`, `metadata`, `suggestions` and `responses`.
    """
    settings = {
        "guidelines": guidelines,
        "allow_extra_metadata": False,
        "fields": list(fields),
        "questions": list(questions),
        "metadata": list(metadata),
        "vectors": [],
        "distribution": {"strategy": "overlap", "min_submitted": 1},
    }
    dataset = {"name": name, "guidelines": guidelines, "allow_extra_metadata": False}
    write_json(folder / ".argilla" / "dataset.json", dataset)
    write_json(folder / ".argilla" / "settings.json", settings)
    write_json(folder / "records.json", [{**record, "vectors": {}} for record in records])


def text(name: str, title: str) -> dict[str, Any]:
    """A field with text, which is shown as it is."""
    return _part(name, title, {"type": "text", "use_markdown": False})


def chat(name: str, title: str) -> dict[str, Any]:
    """A field with chat messages, which are shown as they are."""
    return _part(name, title, {"type": "chat", "use_markdown": False})


def choice(name: str, title: str, options: Mapping[str, str]) -> dict[str, Any]:
    """A question with one of several answers, each with its words."""
    shown = [{"value": value, "text": words} for value, words in options.items()]
    return _part(name, title, {"type": "label_selection", "options": shown, "visible_options": len(shown)})


def metadata_of(name: str, kind: str, *, visible: bool) -> dict[str, Any]:
    """A metadata property: a number ("integer", "float") or one of several words ("terms")."""
    settings = {"type": kind, "visible_for_annotators": visible}
    return {"name": name, "title": name.replace("_", " "), "visible_for_annotators": visible, "settings": settings}


def _part(name: str, title: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A field or a question."""
    return {"name": name, "title": title, "required": True, "settings": settings}
