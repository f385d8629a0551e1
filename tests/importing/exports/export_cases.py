"""Exports as their options make them, and small Open WebUI chats."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from kto_lab.importing.thumbs import Export, Note, Reason, Row, Thumb

CONF = Path(__file__).parents[3] / "conf" / "export"


def export_of(option: str, **changes: Any) -> Export:
    """An export: the option's defaults with changes, mappings of it changed key by key."""
    settings = OmegaConf.merge(OmegaConf.load(CONF / f"{option}.yaml"), OmegaConf.create(changes))
    try:
        export: Export = instantiate(settings, _convert_="all")
    except InstantiationException as error:
        raise error.__cause__ or error from None
    return export


def read(option: str, **changes: Any) -> list[Row]:
    """All rows of an export; see `export_of`."""
    return [row for row in export_of(option, **changes).read() if isinstance(row, Row)]


def notes(option: str, **changes: Any) -> list[str]:
    """What an export says of itself as a whole; see `export_of`."""
    return [note.text for note in export_of(option, **changes).read() if isinstance(note, Note)]


def thumbs_of(rows: Iterable[Row]) -> list[Thumb]:
    return [thumb for row in rows for thumb in row.thumbs]


def reasons(rows: Iterable[Row]) -> dict[str, Reason]:
    return {one.where: one.reason for row in rows for one in row.left_out}


def ask(identity: str, content: str) -> dict[str, Any]:
    """An answer in an Open WebUI chat."""
    return {"id": identity, "role": "assistant", "content": content, "parentId": "q", "childrenIds": [], "model": "m"}


def chat_of(question: str, *answers: Mapping[str, Any]) -> dict[str, Any]:
    """A snapshot with one question and its answers, the oldest first."""
    asked = {"id": "q", "role": "user", "content": question, "parentId": None}
    asked["childrenIds"] = [answer["id"] for answer in answers]
    messages = {message["id"]: dict(message) for message in (asked, *answers)}
    return {"chat": {"chat": {"history": {"messages": messages}}}}


def feedback(identity: str, rating: Any, message: str, snapshot: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": identity,
        "user_id": "ann",
        "version": 0,
        "type": "rating",
        "data": {"rating": rating, "model_id": "m"},
        "meta": {"message_id": message},
        "snapshot": snapshot,
        "created_at": 1777627860,
        "updated_at": 1777627860,
    }
