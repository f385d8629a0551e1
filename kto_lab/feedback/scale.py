"""What a label means: one rule for every reader of thumbs.

A value is looked up in the source's own `labels`, then, unless it is a number, among the words that products commonly
use. A number is compared with two thresholds: at or above `up_from` it is a thumbs-up, at or below `down_to` a
thumbs-down, and in between it is neutral. Without thresholds a column of numbers can be read only if it holds nothing
but 1 and 0, or 1 and -1 with 0 for no thumb, or 1 alone, which is a thumbs-up in logs that record nothing else. For all
others (stars, ratings from zero, 0 alone) the thresholds are asked for, because the best rating of one file is the
middle of another's scale. So the values of a column are counted before the first is read, and how they were read is
reported.
"""

import contextlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeAlias

import yaml

from kto_lab.errors import LabError

UP = (
    *("true", "t", "yes", "y", "up", "good", "like", "liked", "positive", "desirable"),
    *("upvote", "upvoted", "thumbs up", "thumb up", "thumbsup", "thumbup", "👍"),
)
DOWN = (
    *("false", "f", "no", "n", "down", "bad", "dislike", "disliked", "negative", "undesirable"),
    *("downvote", "downvoted", "thumbs down", "thumb down", "thumbsdown", "thumbdown", "👎"),
)
WORDS: dict[str, bool | None] = {**dict.fromkeys(UP, True), **dict.fromkeys(DOWN, False), "neutral": None}

# What a word of the user's own means, or a text that spells such a mapping in YAML.
Labels: TypeAlias = Mapping[Any, bool | None] | str

# What YAML takes for true and for false.
_SPELLED = {True: ("true", "yes", "on"), False: ("false", "no", "off")}
# Skin tones and the variation selector for emoji: the same thumb.
_TONES = re.compile("[\U0001f3fb-\U0001f3ff\ufe0f]")
_BETWEEN = re.compile(r"[\s_-]+")
_LONGEST = 64
_SHOWN = 40
# How many different values of a column are kept, and how many are shown per meaning.
_KEPT, _NAMED = 10_000, 8


class Said(Enum):
    """What a value means."""

    UP = "as up"
    DOWN = "as down"
    NEUTRAL = "left out"
    ABSENT = "no label"
    UNKNOWN = "not known"


@dataclass(frozen=True)
class Scale:
    """The meaning of a column of labels; made by `scale_of`, and ready to read labels once `decided`.

    Attributes:
        labels: what the source's own values mean; None for neutral ones.
        up_from: a number of at least this is a thumbs-up; None: not decided.
        down_to: a number of at most this is a thumbs-down; in between it is neutral.
        ratings: numbers are ratings, which are kept as scores, rather than thumbs spelled as numbers.
        node: the node of the configuration, for messages.
    """

    labels: Mapping[str, bool | None]
    up_from: float | None
    down_to: float | None
    ratings: bool
    node: str

    def says(self, value: Any) -> tuple[Said, float | None]:
        """What a value means, and the rating behind it where there is one."""
        if value is None or (isinstance(value, str) and not value.strip()):
            return Said.ABSENT, None
        number = number_of(value)
        if not isinstance(value, (str, bool)) and number is None:
            return Said.UNKNOWN, None
        word = _word(value)
        plain = word if number is not None else _plain(word)
        for spelled in (word, plain):
            if spelled in self.labels:
                return _said(self.labels[spelled]), number if self.ratings else None
        if number is None:
            return _said(WORDS[plain]) if plain in WORDS else Said.UNKNOWN, None
        if self.up_from is None or self.down_to is None:
            return Said.UNKNOWN, None
        means = True if number >= self.up_from else False if number <= self.down_to else None
        return _said(means), number if self.ratings else None

    def decided(self, values: "Values", source: str, what: str = "label") -> "Scale":
        """The scale that reads these values.

        Args:
            values: all values of the column.
            source: where they come from, for the error.
            what: the field that holds them, for the error.

        Raises:
            LabError: there are numbers, and it is not known which of them are thumbs-up.
        """
        if self.up_from is not None:
            return self
        numbers = {
            number
            for value, _ in values.counts.values()
            if (number := number_of(value)) is not None and _word(value) not in self.labels
        }
        if not numbers:
            return self
        if not numbers <= {-1.0, 0.0, 1.0} or numbers == {0.0}:
            raise LabError(
                f"{source}: the {what} is a number, and which numbers are thumbs up is not known: {values.shown()}. "
                f"Set {self.node}.up_from and {self.node}.down_to: a number at or above the first is a thumbs-up, one "
                "at or below the second a thumbs-down, and those in between are left out"
                f"{_such_as(self.node, numbers)}."
            )
        return replace(self, up_from=1.0, down_to=-1.0 if -1.0 in numbers else 0.0)

    def told(self, values: "Values") -> str:
        """How the values of a column are read, with their counts: "read as up: yes (3); as down: no (2)"."""
        parts = []
        for said in Said:
            found = {name: one for name, one in values.counts.items() if self.says(one[0])[0] is said}
            if said is Said.ABSENT:
                parts += [f"no label: {values.absent}"] if values.absent else []
            elif found:
                parts.append(f"{said.value}: {_listed(found)}")
        return "read " + "; ".join(parts) if parts else ""


@dataclass
class Values:
    """The values of a column of labels, counted.

    Attributes:
        counts: each value as it is shown, with the value and how often it occurs.
        absent: how often there was no value.
    """

    counts: dict[str, tuple[Any, int]] = field(default_factory=dict)
    absent: int = 0

    def add(self, value: Any, times: int = 1) -> None:
        """Count a value that occurs so many times."""
        if value is None or (isinstance(value, str) and not value.strip()):
            self.absent += times
            return
        name = _named(value)
        if name not in self.counts and len(self.counts) >= _KEPT:
            name = "others"
        kept, before = self.counts.get(name, (value, 0))
        self.counts[name] = (kept, before + times)

    def shown(self) -> str:
        """The values with their counts, numbers by size before words."""
        return _listed(self.counts)


def scale_of(labels: Labels | None, up_from: float | None, down_to: float | None, *, node: str) -> Scale:
    """The scale of a source's settings.

    Args:
        labels: what values mean, beyond the words that are known; None for values that leave a row out. Case does not
            matter, and 1, 1.0 and "1" are the same, as are true and "true". A text is a mapping in YAML.
        up_from: see `Scale`.
        down_to: see `Scale`.
        node: see `Scale`.

    Raises:
        LabError: the settings contradict each other.
    """
    words = _words(labels, node)
    if (up_from is None) != (down_to is None):
        raise LabError(f"{node}.up_from and {node}.down_to go together: give both, or neither.")
    if up_from is not None and down_to is not None and not down_to < up_from:
        raise LabError(f"{node}.down_to is {down_to} and {node}.up_from {up_from}: the first must be the smaller.")
    return Scale(words, up_from, down_to, up_from is not None, node)


def _words(labels: Labels | None, node: str) -> dict[str, bool | None]:
    """What words mean, in every spelling.

    Raises:
        LabError: it is no mapping, or one word means several things.
    """
    if isinstance(labels, str):
        with contextlib.suppress(yaml.YAMLError):
            labels = yaml.safe_load(labels)
    if labels is not None and not isinstance(labels, Mapping):
        raise LabError(f"{node}.labels is {labels!r:.60}; it must be a mapping, such as {{ok: true, poor: false}}.")
    words: dict[str, bool | None] = {}
    for value, means in (labels or {}).items():
        if means is not None and not isinstance(means, bool):
            raise LabError(f"{node}.labels maps {value!r} to {means!r}. Map each value to true, false or null.")
        if words.setdefault(_word(value), means) is not means:
            raise LabError(f"{node}.labels maps {value!r} to {means!r}, and to something else in another spelling.")
    for value, means in (labels or {}).items():
        # YAML takes an unquoted yes for true.
        for word in (_plain(_word(value)), *(_SPELLED[value] if isinstance(value, bool) else ())):
            words.setdefault(word, means)
    return words


def number_of(value: Any) -> float | None:
    """A finite number, also spelled as a short text; None for anything else."""
    if isinstance(value, bool) or (isinstance(value, str) and len(value) > _LONGEST):
        return None
    try:
        number = float(value) if isinstance(value, (str, int, float)) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _said(means: bool | None) -> Said:
    return Said.NEUTRAL if means is None else Said.UP if means else Said.DOWN


def _word(value: Any) -> str:
    """A value as a word, the same for 1, 1.0, "1" and "+1", and for true and "True"."""
    number = number_of(value)
    if number is not None:
        return f"{number:.15g}"
    return str(value).strip().lower()


def _plain(word: str) -> str:
    """A word in the spelling of `WORDS`: ":thumbs_up:" and "Thumbs-Up" become "thumbs up", and thumbs have no tone."""
    return _BETWEEN.sub(" ", _TONES.sub("", word).strip(":")).strip()


def _named(value: Any) -> str:
    """A value in a few characters."""
    if isinstance(value, (str, bool, float)) or number_of(value) is not None:
        text = _word(value) if number_of(value) is not None else str(value).strip()
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else type(value).__name__


def _listed(counts: Mapping[str, tuple[Any, int]]) -> str:
    """Values with their counts; the most frequent ones where there are many."""
    common = sorted(counts.items(), key=lambda item: (-item[1][1], item[0]))
    shown = sorted(common[:_NAMED], key=lambda item: _order(item[1][0]))
    rest = [times for _, (_, times) in common[_NAMED:]]
    more = [f"{len(rest)} other values ({sum(rest)})"] if rest else []
    return ", ".join([f"{name} ({times})" for name, (_, times) in shown] + more)


def _order(value: Any) -> tuple[float, str]:
    number = number_of(value)
    return (math.inf if number is None else number, str(value)[:_SHOWN])


def _such_as(node: str, numbers: set[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f", such as {node}.up_from={high:g} {node}.down_to={low:g}" if low < high else ""
