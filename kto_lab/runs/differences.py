"""In what a run differs from another one, in words."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from kto_lab.runs.identity import Identity, differing

# So many keys of a configuration, or modules, are named.
NAMED = 6


def differences(
    before: Mapping[str, Any], identity_before: Identity | None, now: Mapping[str, Any], identity_now: Identity
) -> Iterator[str]:
    """In what a run differs from a finished one, part by part of its identity.

    Args:
        before: settings of the finished run, as its record has them.
        identity_before: its parts; None where its record is of schema 1, which has none.
        now: settings of the run.
        identity_now: its parts.
    """
    keys = [key for key in differing(before, now) if shown(before, key) != shown(now, key)]
    if keys:
        told = [f"{key} {shown(now, key)} instead of {shown(before, key)}" for key in keys]
        yield f"configuration: {few(told)}"
    elif identity_before is not None and identity_before.configuration != identity_now.configuration:
        yield f"configuration: {few(differing(before, now))}"
    if identity_before is None:
        yield "code and data: unknown, for its record was made before records held them"
        return
    for part, content_before, content in (
        ("data", identity_before.data, identity_now.data),
        ("model", identity_before.model, identity_now.model),
    ):
        if names := differing(content_before, content):
            yield f"{part}: other content of {few([f'{key} ({shown(now, key)})' for key in names])}"
    if modules := differing(identity_before.code, identity_now.code):
        yield f"code: {few(modules)}"


def shown(found: Mapping[str, Any], key: str) -> str:
    """A setting; of a path its last part, since a record has it relative to its own folder."""
    if key not in found:
        return "nothing"
    value = found[key]
    return PurePath(value).name if isinstance(value, str) and "/" in value else str(value)


def few(texts: Sequence[str]) -> str:
    """The first texts, and how many more there are."""
    rest = len(texts) - NAMED
    return ", ".join(texts[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
