"""The settings of a column mapping, checked: which column holds what, and how its values are read."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from kto_lab.errors import LabError
from kto_lab.feedback.asked import LISTS, Asking
from kto_lab.feedback.paths import from_root, opened, opened_blocks
from kto_lab.feedback.rows import Block, Raw
from kto_lab.feedback.scale import Labels, Scale, scale_of
from kto_lab.feedback.times import Times, zone_of
from kto_lab.feedback.unread import ignored
from kto_lab.feedback.whole import READ

THUMB = ("completion", "label", "score")
PAIR = ("chosen", "rejected", "chosen_wins", "score_chosen", "score_rejected")
ASKED = ("prompt", "system", "input")
TOOLS = "tools"
ANSWERS = ("completion", "chosen", "rejected")
FIELDS = (*ASKED, TOOLS, *THUMB, *PAIR, "rater", "timestamp", "group", "split", "finished", "certainty", "checks")

# The columns of a file that is in no tool's format, as conf/ names them.
DEFAULT_COLUMNS = {"prompt": "prompt", "completion": "completion", "label": "label"}


class Settings(TypedDict):
    """The settings that every reader of tables has, by their keys; `layout` explains them."""

    columns: Mapping[str, str | None]
    labels: Labels | None
    up_from: float | None
    down_to: float | None
    timezone: str
    day_first: bool | None
    constant_prompt: str | None
    lists: Literal["turns", "alternatives", "text"] | None
    ignore: Sequence[str]
    cut_at: int | None


@dataclass(frozen=True)
class Layout:
    """How raw rows are read; made and checked by `layout`.

    Attributes:
        columns: the raw column of each field that is read, or a path to it; see `paths`.
        rows_at: the path of the list of rows in a file that is an object; None: found.
        fields: all fields that can be mapped.
        scale: what a label means.
        asking: how prompts and answers are put together.
        times: how the column of times is read.
        ignore: columns, and keys of messages, that are left out by name.
        min_certainty: rows whose `certainty` is lower are left out.
        cut_at: the tool that wrote the rows cuts texts at so many characters; None: it does not.
        bad_rows: stop at a malformed row, or drop it and count it.
        formats: the reader has a key `format`, which is offered where the rows look like those of a tool.
    """

    columns: dict[str, str]
    rows_at: str | None
    fields: tuple[str, ...]
    scale: Scale
    asking: Asking
    times: Times
    ignore: frozenset[str]
    min_certainty: float | None
    cut_at: int | None
    bad_rows: Literal["error", "drop"]
    formats: bool

    @property
    def paired(self) -> bool:
        """Whether a raw row holds two completions."""
        return "chosen" in self.columns

    def open(self, raws: Callable[[], Iterable[Raw]]) -> Callable[[], Iterator[Raw]]:
        """Raw rows with a column for each path that is mapped; see `paths.opened`."""
        return opened(raws, list(self.columns.values()), self.rows_at, node=self.node)

    def open_blocks(self, blocks: Callable[[], Iterable[Block]]) -> Callable[[], Iterable[Block]]:
        """The same, in blocks; see `paths.opened_blocks`."""
        return opened_blocks(blocks, list(self.columns.values()), self.rows_at, node=self.node)

    @property
    def message_keys(self) -> tuple[str, ...]:
        """The keys of chat messages that are read."""
        return tuple(key for key in READ if key not in self.ignore)

    @property
    def node(self) -> str:
        """The node of the configuration, for messages."""
        return self.asking.node


def layout(
    columns: Mapping[str, str | None],
    *,
    rows_at: str | None = None,
    labels: Labels | None = None,
    up_from: float | None = None,
    down_to: float | None = None,
    timezone: str = "UTC",
    day_first: bool | None = None,
    chat: Literal["given", "system", "all"] = "given",
    constant_prompt: str | None = None,
    lists: Literal["turns", "alternatives", "text"] | None = None,
    ignore: Iterable[str] | None = None,
    min_certainty: float | None = None,
    cut_at: int | None = None,
    bad_rows: Literal["error", "drop"] = "error",
    formats: bool = False,
    fields: tuple[str, ...] = FIELDS,
    node: str = "feedback",
) -> Layout:
    """Check the settings of a source and make its layout.

    Args:
        columns: field name to column name; None for a field that the data lacks. Where `chosen` and `rejected` are
            named, `completion` and `label` are not read. A column may be a path; see `paths`.
        rows_at: see `Layout`.
        labels: what label values mean, beyond the words that are known; None for values that leave a row out. See
            `scale.scale_of`.
        up_from: a numeric label of at least this is a thumbs-up; None: the user is asked where it matters.
        down_to: a numeric label of at most this is a thumbs-down; labels in between are neutral.
        timezone: the zone of times that name none.
        day_first: the order of day and month in numeric dates; None: as the column of times has it.
        chat: see `asked.Asking`.
        constant_prompt: the prompt that all answers answer; only where no column holds one.
        lists: what a list of texts is: turns of a conversation whose last answer is judged, alternatives that share
            the row's thumb, or a text that looks like a list. None: the user is asked where there is one.
        ignore: see `Layout`.
        min_certainty: see `Layout`.
        cut_at: see `Layout`.
        bad_rows: see `Layout`.
        formats: see `Layout`.
        fields: the fields that this reader can map.
        node: the node of the configuration, for messages.

    Raises:
        LabError: a field is unknown or missing, or two settings contradict each other.
    """
    if unknown := sorted(set(columns) - set(fields)):
        raise LabError(f"{node}.columns has no field {unknown[0]!r}. Known: {', '.join(fields)}.")
    named, rows_at = from_root(
        {field: column for field, column in columns.items() if column is not None}, rows_at, node=node
    )
    paired = any(field in named for field in PAIR)
    wanted = ("chosen", "rejected") if paired else ("completion", "label")
    if missing := [field for field in wanted if field not in named]:
        raise LabError(
            f"{node}.columns.{missing[0]} names no column. Name {wanted[0]} and {wanted[1]}, both"
            f"{', or leave out all of ' + ', '.join(PAIR) if paired else ''}."
        )
    if paired and "score" in named:
        raise LabError(f"{node}.columns.score is for rows with one completion. Use score_chosen and score_rejected.")
    if paired and "chosen_wins" not in named and (labels is not None or up_from is not None):
        raise LabError(
            f"{node}.labels, {node}.up_from and {node}.down_to say what a label means, and pairs have none. "
            "Set them to null."
        )
    if (min_certainty is None) != ("certainty" not in named):
        raise LabError(f"{node}.min_certainty and {node}.columns.certainty go together: give both, or neither.")
    if bad_rows not in ("error", "drop"):
        raise LabError(f"{node}.bad_rows is {bad_rows!r}; it must be 'error' or 'drop'.")
    _check_asking(named, constant_prompt, lists, paired=paired, node=node)
    if cut_at is not None and cut_at < 1:
        raise LabError(f"{node}.cut_at is {cut_at}; it must be a number of characters, or null.")
    of_others = THUMB if paired else PAIR
    kept = {field: column for field, column in named.items() if field not in of_others}
    return Layout(
        columns=kept,
        rows_at=rows_at,
        fields=tuple(field for field in fields if field not in of_others),
        scale=scale_of(labels, up_from, down_to, node=node),
        asking=Asking(chat, constant_prompt, lists, node),
        times=Times(zone_of(timezone, f"{node}.timezone"), day_first, node=node),
        ignore=ignored(ignore, kept.values(), node=node),
        min_certainty=min_certainty,
        cut_at=cut_at,
        bad_rows=bad_rows,
        formats=formats,
    )


def _check_asking(
    named: Mapping[str, str], constant_prompt: str | None, lists: str | None, *, paired: bool, node: str
) -> None:
    if lists is not None and lists not in LISTS:
        raise LabError(f"{node}.lists is {lists!r}; it must be one of {', '.join(LISTS)}, or null.")
    if lists == "alternatives" and paired:
        raise LabError(f"{node}.lists=alternatives is for rows with one thumb, not for pairs.")
    if constant_prompt is not None and "prompt" in named:
        raise LabError(
            f"{node}.constant_prompt is the prompt of all answers, but {node}.columns.prompt names a column of prompts."
            " Set one of them to null."
        )
    if constant_prompt is not None and not constant_prompt.strip():
        raise LabError(f"{node}.constant_prompt is empty. Give the prompt that all answers answer, or null.")
    if "input" in named and "prompt" not in named:
        raise LabError(f"{node}.columns.input is appended to {node}.columns.prompt, which names no column.")


def no_column(where: str, field: str, column: str, have: Iterable[str], *, node: str, offer: str = "") -> LabError:
    """The error that a column does not exist.

    Args:
        where: the place.
        field: what the column was to hold.
        column: its name.
        have: the columns that exist.
        node: the node of the configuration.
        offer: a sentence on what else the data may be.
    """
    names = list(map(str, have))
    more = ""
    if field == "prompt":
        more = (
            f" With {node}.columns.prompt=null, each answer holds the whole conversation; where all answers answer the "
            f"same prompt and no column has it (a comment box, a search page), give it as {node}.constant_prompt='...'."
        )
    return LabError(
        f"{where}: there is no column {column!r} for the {field}. There are: {', '.join(names[:20]) or 'none'}. "
        f"Name the right one with {node}.columns.{field}=<column>.{more}{offer}"
    )
