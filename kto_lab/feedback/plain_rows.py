"""A short way for the commonest rows: a text that asks, a text that answers, and a label.

`mapping.rows_of` knows every form of a row, and asks each row for each of them. A file of a million rows has mostly one
form. Rows that are plainly of it are read here, all others there; a test holds the two to the same rows.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from kto_lab.feedback.layout import Layout
from kto_lab.feedback.rows import Unreadable

# The first character of a text that may spell messages or a list.
SPELLED = ("[", "{")
# The types of labels that can be looked up; others may have no hash.
LABEL_TYPES = frozenset({bool, str, int, float})
# Labels that are remembered: products have a handful.
_REMEMBERED = 1000


class PlainRows:
    """Reads rows that are plain."""

    def __init__(self, how: Layout, label: Callable[[Any, str, Layout], tuple[bool | None, float | None]]) -> None:
        """Take what a row is read by.

        Args:
            how: the layout, as `survey.surveyed` gives it.
            label: what a label says; see `mapping._label`.
        """
        self._how, self._label = how, label
        self._known: dict[tuple[type, Any], tuple[bool | None, float | None]] = {}
        self._plain = may_be_plain(how)
        self._names = tuple(how.columns.get(name, "") for name in ("prompt", "completion", "label"))

    def rows(self, raw: Mapping[str, Any] | Unreadable, where: str) -> list[dict[str, Any]] | None:
        """What `mapping.rows_of` gives for a plain row; None for another.

        Raises:
            LabError: the label means nothing.
        """
        if not self._plain or type(raw) is not dict:
            return None
        prompt_name, completion_name, label_name = self._names
        prompt, completion = raw.get(prompt_name), raw.get(completion_name)
        if not begins_with_a_word(prompt) or not begins_with_a_word(completion) or label_name not in raw:
            return None
        value = raw[label_name]
        kind = type(value)
        if kind not in LABEL_TYPES:
            return None
        said = self._known.get((kind, value))
        if said is None:
            said = self._label(value, where, self._how)
            if len(self._known) < _REMEMBERED:
                self._known[kind, value] = said
        desirable, score = said
        if desirable is None:
            return []
        return [
            {
                "where": where,
                "rater": None,
                "timestamp": None,
                "group": None,
                "split": None,
                "checks": "",
                "prompt": prompt,
                "completion": completion,
                "desirable": desirable,
                "score": score,
                "finished": True,
            }
        ]


def may_be_plain(how: Layout, beside: Collection[str] = ()) -> bool:
    """Whether nothing is mapped or set that would change a plain row.

    Args:
        how: the layout.
        beside: fields that may be mapped beside prompt, completion and label.
    """
    asking = how.asking
    return (
        how.columns.keys() - beside == {"prompt", "completion", "label"}
        and (asking.chat, asking.constant_prompt, asking.lists) in (("given", None, None), ("system", None, None))
        and how.min_certainty is None
    )


def begins_with_a_word(value: Any) -> bool:
    """Whether a cell is text that begins with a word."""
    return type(value) is str and value != "" and value[0] not in SPELLED and not value[0].isspace()
