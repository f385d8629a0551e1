"""A first look at all rows of a table, before any of them is read.

No single row can tell what a number means, whether an unmapped column matters, or whether lists are turns. So all are
looked at, and what they leave open is asked for in an error that shows what was found. Mostly the first rows tell how
all are read: then the table is made in the same reading, and else in another.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from datasets import Dataset

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.feedback.asked import is_conversation, messages_of, needs_chat, texts_of
from kto_lab.feedback.layout import ANSWERS, Layout, no_column
from kto_lab.feedback.mapping import table_rows
from kto_lab.feedback.plain_blocks import are_words
from kto_lab.feedback.plain_rows import LABEL_TYPES, begins_with_a_word
from kto_lab.feedback.preset_fit import looks_like
from kto_lab.feedback.rows import Block, Unreadable, all_readable_of, readable
from kto_lab.feedback.scale import Values
from kto_lab.feedback.table import build_table
from kto_lab.feedback.times import Ambiguous, order_of
from kto_lab.feedback.unread import Unread

_SHOWN = 60
# Labels that are counted as they are; there are a handful where they are labels.
_LABELS = 1000


def surveyed(blocks: Callable[[], Iterable[Block]], how: Layout, *, source: str) -> tuple[Layout, list[str]]:
    """The layout with which these rows can be read, and remarks on them for the user.

    Args:
        blocks: gives the rows; called once. Unreadable rows are skipped.
        how: the layout as it was set.
        source: where the rows come from, for messages.

    Raises:
        LabError: something has to be decided first: a named column is in no row or empty in all, a column that changes
            the prompt is neither mapped nor ignored, numbers lack thresholds, there are lists of texts, thumbs without
            prompts, system prompts beside text prompts, or numeric dates whose day and month cannot be told apart.
    """
    look = _look_at(how)
    for block in blocks():
        look.over(block)
    settled, said = look.settled(source)
    if "timestamp" in how.columns:
        times = how.times.of(look.dates.values)
        # Now, so that the error is not taken for the fault of a single row.
        times.settle()
        settled = replace(settled, times=times)
    return settled, said


def table_of(blocks: Callable[[], Iterable[Block]], how: Layout, *, source: str, name: str, held_out: float) -> Dataset:
    """The table of examples of a source; remarks on its rows go to the terminal.

    Args:
        blocks: gives its rows from the beginning each time. They are read once where the first ones tell how all are
            read, and else twice more: for a look at all of them, and for the table.
        how: the layout as it was set.
        source: where the rows come from, for messages.
        name: the source's name in the table.
        held_out: share of prompts in the test split, in [0, 1).

    Raises:
        LabError: see `surveyed`; or a row is malformed.
    """
    opened = how.open_blocks(blocks)
    given = opened if how.bad_rows == "drop" else lambda: all_readable_of(opened())

    def built(blocks: Iterable[Block], settled: Layout) -> Dataset:
        return build_table(table_rows(blocks, settled, source=source), source=name, held_out=held_out)

    once = _Once(given, how, source)
    try:
        assumed = once.assumed()
        return built(once.blocks(), assumed)
    except _AnotherLookError:
        pass
    except LabError:
        # What a look at all rows asks for comes before the fault of a single one.
        if once.settled:
            raise
    settled, said = surveyed(given, how, source=source)
    _say(said)
    return built(given(), settled)


def _say(said: Iterable[str]) -> None:
    for sentence in said:
        narration.say(f"    {sentence}")


def _look_at(how: Layout) -> "_Look":
    return _Look(how, Unread(how.node, how.ignore, frozenset(how.fields), how.message_keys))


class _AnotherLookError(Exception):
    """The first rows do not tell how all are read."""


class _Once:
    """The look at the rows while they are read, as the first of them say.

    Attributes:
        settled: whether all of them have been looked at, and are read as the first.
    """

    def __init__(self, blocks: Callable[[], Iterable[Block]], how: Layout, source: str) -> None:
        """Take what `surveyed` takes."""
        self._how, self._source = how, source
        self._blocks = iter(blocks())
        self.settled = False

    def assumed(self) -> Layout:
        """The layout of the first rows.

        Raises:
            _AnotherLookError: there are none.
            LabError: see `surveyed`.
        """
        self._first = next(self._blocks, None)
        if self._first is None:
            raise _AnotherLookError
        look = _look_at(self._how)
        look.over(self._first)
        self._assumed, _ = look.settled(self._source)
        # A date with two readings is settled by all the times.
        return replace(self._assumed, times=self._how.times.of(_another_look))

    def blocks(self) -> Iterator[Block]:
        """The rows; what is to be said of them all is said after the last.

        Raises:
            _AnotherLookError: they are not read as the first.
            LabError: see `surveyed`.
        """
        look = _look_at(self._how)
        for block in itertools.chain([self._first] if self._first else [], self._blocks):
            look.over(block)
            yield block
        layout, said = look.settled(self._source)
        if layout.scale != self._assumed.scale:
            raise _AnotherLookError
        self.settled = True
        _say(said)


def _another_look() -> Iterable[Any]:
    raise _AnotherLookError


@dataclass
class _Look:
    """What the rows so far have shown."""

    how: Layout
    unread: Unread
    rows: int = 0
    first: Mapping[str, Any] | None = None
    names: dict[str, None] = field(default_factory=dict)
    values: Values = field(default_factory=Values)
    lists: dict[str, tuple[Any, int]] = field(default_factory=dict)
    answers: int = 0
    conversations: int = 0
    example: Any = None
    system_beside_text: int = 0
    holding: set[str] = field(default_factory=set)
    # For each order of day and month, the first date that says it.
    dates: dict[Ambiguous, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Look up what every row is asked for."""
        self.columns = self.how.columns
        self.read = frozenset(self.columns.values())
        self.answering = [self.columns[name] for name in ANSWERS if name in self.columns]
        self.needed = {self.columns[name]: name for name in ("prompt", *ANSWERS) if name in self.columns}
        # The column whose dates settle the order of day and month; None where there is nothing to settle.
        self.dated = self.columns.get("timestamp") if self.how.times.day_first is None else None
        self.label = "chosen_wins" if self.how.paired else "label"
        self.labels = Counter[tuple[type, Any]]()
        named = self.columns.keys()
        self.may_be_plain = len(self.answering) == 1 and {"prompt", "label"} <= named and "system" not in named

    def over(self, block: Block) -> None:
        """Look at the rows of a block, by its columns where they are plain."""
        labels = block.column(self.columns[self.label]) if self._is_plain(block) else None
        if labels is None:
            for _, raw in readable(block.raws()):
                self.at(raw)
            return
        if self.first is None:
            self.first = next(raw for _, raw in block.raws() if not isinstance(raw, Unreadable))
        self.rows += len(block)
        self.names.update(dict.fromkeys(block.names()))
        self.holding.update(self.needed)
        for raw in block.unmapped(self.read):
            self.unread.look(raw, self.read)
        counted = _counted(labels)
        if counted is not None and len(self.labels) + len(counted) < _LABELS:
            self.labels.update(counted)
        else:
            for label in labels:
                self._look_at_label(label)
        self.answers += len(block)
        if self.dated is not None:
            for value in block.column(self.dated) or [raw.get(self.dated) for _, raw in readable(block.raws())]:
                self._look_at_time(value)

    def _is_plain(self, block: Block) -> bool:
        """Whether each row has one text that asks and one that answers, none of which spells anything else."""
        return self.may_be_plain and all(are_words(block, column) for column in self.needed)

    def _is_plain_row(self, raw: Mapping[str, Any]) -> bool:
        return self.may_be_plain and all(begins_with_a_word(raw.get(column)) for column in self.needed)

    def at(self, raw: Mapping[str, Any]) -> None:
        """Look at a row."""
        self.rows += 1
        self.first = raw if self.first is None else self.first
        if not self.names.keys() >= raw.keys():
            self.names.update(dict.fromkeys(raw))
        if len(self.holding) < len(self.needed):
            self.holding.update(column for column in self.needed if raw.get(column) is not None)
        self.unread.look(raw, self.read)
        if self.dated is not None:
            self._look_at_time(raw.get(self.dated))
        if self.label in self.columns:
            self._look_at_label(raw.get(self.columns[self.label]))
        if self._is_plain_row(raw):
            self.answers += 1
            return
        prompt = raw.get(self.columns["prompt"]) if "prompt" in self.columns else None
        asked = messages_of(prompt, asked=True)
        self.unread.look_at_messages(asked)
        self._look_at_lists(raw, prompt)
        for column in self.answering:
            self.unread.look_at_messages(messages_of(raw.get(column)))
            if raw.get(column):
                self.answers += 1
                if "prompt" not in self.columns:
                    self.conversations += is_conversation(raw[column])
                    self.example = raw[column] if self.example is None else self.example
        system = raw.get(self.columns["system"]) if "system" in self.columns else None
        if isinstance(system, str) and system.strip() and isinstance(asked, str):
            self.system_beside_text += 1

    def _look_at_time(self, value: Any) -> None:
        order = order_of(value)
        if order is not None:
            self.dates.setdefault(order, value)

    def _look_at_label(self, value: Any) -> None:
        if type(value) in LABEL_TYPES and len(self.labels) < _LABELS:
            self.labels[type(value), value] += 1
        else:
            self.values.add(value)

    def settled(self, source: str) -> tuple[Layout, list[str]]:
        """The layout, and the remarks."""
        node = self.how.node
        absent = [(name, column) for name, column in self.columns.items() if column not in self.names]
        if self.rows and absent:
            offer = looks_like(self.first, node) if self.how.formats else ""
            raise no_column(source, *absent[0], self.names, node=node, offer=offer)
        if self.rows and (empty := [column for column in self.needed if column not in self.holding]):
            name = self.needed[empty[0]]
            raise LabError(
                f"{source}: the column {empty[0]!r} of the {name} is empty in all {self.rows} rows. Name the one that "
                f"holds it with {node}.columns.{name}=<column>. There are: {', '.join(map(str, self.names))}."
            )
        for (_, value), times in self.labels.items():
            self.values.add(value, times)
        sentence = self.unread.sentence(source)
        if self.how.asking.lists is None and self.lists:
            raise self._asked_for_lists(source)
        if "prompt" not in self.columns and self.how.asking.constant_prompt is None and self.answers:
            self._need_conversations(source)
        if self.system_beside_text and self.how.asking.chat == "given" and self.how.asking.lists != "turns":
            raise LabError(f"{source}: in {self.system_beside_text} rows {needs_chat(node)}")
        scale = self.how.scale.decided(self.values, source, self.label)
        told = scale.told(self.values)
        said = [f"{source}: {self.label}: {told}."] if told else []
        return replace(self.how, scale=scale), said if sentence is None else [*said, sentence]

    def _look_at_lists(self, raw: Mapping[str, Any], prompt: Any) -> None:
        columns = [self.columns["prompt"]] if texts_of(prompt) is not None else []
        # An answer counts only if it is a real list: a text that spells one may be what the prompt asked for.
        columns += [
            name for name in self.answering if isinstance(raw.get(name), list) and texts_of(raw[name]) is not None
        ]
        for column in columns:
            example, times = self.lists.get(column, (raw[column], 0))
            self.lists[column] = (example, times + 1)

    def _asked_for_lists(self, source: str) -> LabError:
        node = self.how.node
        found = [
            f"{times} of {self.rows} rows have a list of texts in {column!r}, such as {str(example)[:_SHOWN]!r}"
            for column, (example, times) in self.lists.items()
        ]
        return LabError(
            f"{source}: {'; '.join(found)}. Say what such a list is: {node}.lists=turns (prompts and answers are turns "
            f"of a conversation, and its last answer is judged), {node}.lists=alternatives (each is an answer with the "
            f"row's thumb), or {node}.lists=text (a text that happens to look like a list)."
        )

    def _need_conversations(self, source: str) -> None:
        if self.conversations:
            return
        node = self.how.node
        raise LabError(
            f"{source}: no column holds a prompt, and no answer is a whole conversation; the first is "
            f"{str(self.example)[:_SHOWN]!r}. KTO learns from prompts and answers: name the column of prompts with "
            f"{node}.columns.prompt. Thumbs of a comment box or a search page need what the person saw and what was "
            f"asked; where all answers answer the same prompt, give it as {node}.constant_prompt='...'."
        )


def _counted(labels: list[Any]) -> Counter[tuple[type, Any]] | None:
    """Labels that are words, truths or numbers, counted; None where there are others."""
    kinds = list(map(type, labels))
    return Counter(zip(kinds, labels, strict=True)) if LABEL_TYPES.issuperset(kinds) else None
