"""What an import did, in numbers: every row and every thumb is counted in exactly one line."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from kto_lab.importing.columns import Origin
from kto_lab.importing.guess import Guess
from kto_lab.importing.personal import MEANING, Kind, Search, find, pseudonym, redacted
from kto_lab.importing.repeats import Fate
from kto_lab.importing.screen import printable
from kto_lab.importing.stage import Stage
from kto_lab.importing.tallies import Balance, Ratio, balances, ratios
from kto_lab.importing.thumbs import LeftOut, Reason

_EXAMPLES = "FROM examples e CROSS JOIN thumbs t ON t.number = e.number"
# Among indistinguishable thumbs, those beyond the first.
_ANONYMOUS = (
    "SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM thumbs WHERE rater IS NULL AND identity IS NULL "
    "GROUP BY prompt_key, completion_key, other_key, desirable, signal, time, unread)"
)
_WON_AND_LOST = (
    f"SELECT count(*) FROM (SELECT 1 {_EXAMPLES} WHERE e.pair_id IS NOT NULL "
    "GROUP BY t.prompt_key, t.completion_key HAVING min(t.desirable) < max(t.desirable))"
)
# Characters shown of a place, of what was found there, and of a name.
SHOWN = 160
# A share of thumbs up with a wider interval is too uncertain to weight by; about a hundred thumbs are enough.
CLOSE = 0.2


@dataclass(frozen=True)
class Line:
    """Why something is left out.

    Attributes:
        reason: the reason, in words.
        count: how often it occurs.
        rows: how many rows give nothing for this reason (the first, where a row has several); None where the reason is
            not about rows.
        places: the first places, each with what was found there.
    """

    reason: str
    count: int
    rows: int | None
    places: list[str]


@dataclass
class Reading:
    """What reading gave, counted row by row.

    Attributes:
        most_places: places kept per reason.
        rows: rows of the source.
        rows_taken: rows that gave at least one thumb.
        thumbs: thumbs that the reader gave.
        refused: thumbs among these that cannot be examples.
        left_out: how often each reason occurs.
        rows_left_out: how many rows give nothing for each reason.
        places: the first places of each reason.
        notes: remarks on the source as a whole: how labels were read, what was not read.
        cut: answers that the tool cut.
        settled: see `Report`.
    """

    most_places: int
    rows: int = 0
    rows_taken: int = 0
    thumbs: int = 0
    refused: int = 0
    left_out: Counter[Reason] = field(default_factory=Counter)
    rows_left_out: Counter[Reason] = field(default_factory=Counter)
    places: dict[Reason, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    cut: int = 0
    settled: dict[str, Any] = field(default_factory=dict)

    def row(self, given: int, left_out: Sequence[LeftOut], refused: int) -> None:
        """Count one row.

        Args:
            given: how many thumbs the reader gave.
            left_out: what gives no thumb or no example, and why.
            refused: how many of the thumbs are among what is left out.
        """
        self.rows += 1
        self.thumbs += given
        self.refused += refused
        if given > refused:
            self.rows_taken += 1
        else:
            self.rows_left_out[left_out[0].reason] += 1
        for one in left_out:
            self.left_out[one.reason] += 1
            places = self.places.setdefault(one.reason, [])
            if len(places) < self.most_places:
                places.append(_without_personal_data(f"{one.where}: {one.detail}" if one.detail else one.where))

    def lines(self) -> list[Line]:
        """A line for every reason, the most frequent first."""
        return [
            Line(reason.value, count, self.rows_left_out[reason], self.places[reason])
            for reason, count in self.left_out.most_common()
        ]


@dataclass(frozen=True)
class Near:
    """Near duplicates among the examples.

    Attributes:
        threshold: the minimum similarity.
        same: examples that are near one with the same thumb.
        dropped: how many of these were left out.
        contradicting: examples that are near one with the opposite thumb, and none with the same.
        places: the first places, each with what it is near to.
    """

    threshold: float
    same: int
    dropped: int
    contradicting: int
    places: list[str]


@dataclass(frozen=True)
class Report:
    """An import in numbers.

    Attributes:
        source: what was read.
        settings: the import's settings.
        rows, rows_taken, thumbs, refused: see `Reading`.
        notes: remarks on the source as a whole.
        reasons: why rows, or thumbs of rows, are left out.
        fates: why thumbs did not become examples of their own.
        examples: examples in the table.
        prompts: different prompts among them.
        made_chat: thumbs whose plain prompt became one user message.
        unread_times: thumbs whose time cannot be read; None where there are none.
        anonymous: thumbs with neither a rater nor an identity that equal an earlier one in all that is known.
        pairs: pairs of two compared answers, among the examples.
        won_and_lost: answers that won one pair and lost another, and so have thumbs both up and down.
        near: near duplicates, where they were looked for.
        personal: kinds of personal data, where it was looked for: meaning, finds, thumbs with them and places.
        balances: see `tallies.balances`.
        ratios: see `tallies.ratios`.
        settled: what a first look at all rows decided: thresholds, words of labels, the order of day and month.
        origin: the tool, its version, and what became of each column; None where only rows were given.
        guessed: what was guessed, and the columns that told it so; None where the tool was named.
        request: the settings with which the import runs again; None where only rows were given.
    """

    source: str
    settings: dict[str, Any]
    rows: int
    rows_taken: int
    thumbs: int
    refused: int
    notes: list[str]
    reasons: list[Line]
    fates: list[Line]
    examples: int
    prompts: int
    made_chat: int
    unread_times: Line | None
    anonymous: int
    pairs: int
    won_and_lost: int
    near: Near | None
    personal: list[dict[str, Any]] | None
    balances: dict[str, list[Balance]]
    ratios: list[Ratio]
    settled: dict[str, Any] = field(default_factory=dict)
    origin: Origin | None = None
    guessed: Guess | None = None
    request: dict[str, Any] | None = None

    @property
    def deployment(self) -> str | None:
        """The override that weighs the examples for the newest thumbs that people gave; None where these are one-sided.

        None, too, where they are so few that their share is not known within CLOSE. Where deployment is judged as the
        product was, its thumbs come in the ratio of these.
        """
        share = self.ratios[0].share
        if share.value is None or share.low is None or share.high is None or not 0 < share.value < 1:
            return None
        if share.high - share.low > CLOSE:
            return None
        return f"weighting@loss.weighting=deployment loss.weighting.desirable_share={share.value:.3f}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for a file."""
        return {**asdict(self), "deployment": self.deployment}


def report_of(
    stage: Stage,
    reading: Reading,
    search: Search | None,
    near: Near | None,
    *,
    source: str,
    settings: dict[str, Any],
    made_chat: int,
) -> Report:
    """The report of an import whose thumbs are settled.

    Raises:
        AssertionError: a row or a thumb is in no line, or in two.
    """
    settled = fates(stage, reading.most_places)
    assert reading.rows == reading.rows_taken + sum(reading.rows_left_out.values()), "a row is in no line"
    assert reading.thumbs == stage.thumbs + reading.refused, "a thumb was lost before it was staged"
    assert stage.thumbs == stage.examples + sum(line.count for line in settled), "a thumb has no fate, or two"
    shown = {name: [_named(row) for row in rows] for name, rows in balances(stage).items()}
    return Report(
        source=printable(source),
        settings=settings,
        rows=reading.rows,
        rows_taken=reading.rows_taken,
        thumbs=reading.thumbs,
        refused=reading.refused,
        notes=[_redacted(note) for note in reading.notes],
        reasons=reading.lines(),
        fates=settled,
        examples=stage.examples,
        prompts=stage.query(f"SELECT count(DISTINCT t.prompt_key) {_EXAMPLES}")[0][0],
        made_chat=made_chat,
        unread_times=_unread(stage, reading.most_places),
        anonymous=stage.query(_ANONYMOUS)[0][0],
        pairs=stage.query("SELECT count(DISTINCT pair_id) FROM examples")[0][0],
        won_and_lost=stage.query(_WON_AND_LOST)[0][0],
        near=near,
        personal=None if search is None else [_personal(search, kind) for kind in Kind],
        balances=shown,
        ratios=ratios(stage, settings["recent_days"]),
        settled=reading.settled,
    )


def fates(stage: Stage, most_places: int) -> list[Line]:
    """Why thumbs are no example of their own: a line for every reason that there is."""
    counts: Sequence[tuple[Any, ...]] = stage.query("SELECT fate, count(*) FROM fates GROUP BY fate")
    found = dict(counts)
    return [
        Line(
            fate.value,
            found[fate.value],
            None,
            [
                _without_personal_data(place)
                for (place,) in stage.query(
                    "SELECT place FROM fates f JOIN thumbs t ON t.number = f.number WHERE fate = ? "
                    "ORDER BY f.number LIMIT ?",
                    (fate.value, most_places),
                )
            ],
        )
        for fate in Fate
        if fate.value in found
    ]


def _unread(stage: Stage, most_places: int) -> Line | None:
    count = stage.query("SELECT count(unread) FROM thumbs")[0][0]
    first = stage.query(
        "SELECT place, unread FROM thumbs WHERE unread IS NOT NULL ORDER BY number LIMIT ?", (most_places,)
    )
    places = [_without_personal_data(f"{place}: {unread}") for place, unread in first]
    return Line("times that cannot be read", count, None, places) if count else None


def _personal(search: Search, kind: Kind) -> dict[str, Any]:
    return {
        "kind": kind.value,
        "meaning": MEANING[kind],
        "finds": search.finds[kind],
        "thumbs": search.thumbs[kind],
        "places": [_without_personal_data(place) for place in search.places.get(kind, [])],
    }


def _named(row: Balance) -> Balance:
    """The row under a name that holds no personal data: a report is passed on more easily than a table."""
    return Balance(pseudonym(row.name, None)[:SHOWN], row.up, row.down, row.examples_up, row.examples_down)


def _without_personal_data(text: str) -> str:
    return _redacted(printable(text)[:SHOWN])


def _redacted(text: str) -> str:
    shown = printable(text)
    return redacted(shown, find(shown, None))


def notes(report: Report) -> list[str]:
    """What was assumed of the thumbs, each with the key that changes it, and what is particular about them."""
    said = []
    if report.unread_times is not None:
        line = report.unread_times
        first = f" (first: {line.places[0]})" if line.places else ""
        said.append(
            f"{line.count:,} times could not be read{first}. Which of two opposite thumbs came last, they do not say."
        )
    if report.anonymous and report.settings["anonymous"] == "keep":
        said.append(
            f"{report.anonymous:,} thumbs are like another in all that is known, and neither a rater nor an id tells "
            "them apart: they are taken for other people's (duplicates.anonymous=drop takes them for the same)."
        )
    if report.pairs:
        said.append(
            f"{report.pairs:,} pairs stay pairs: losses of pairs read them as they are, all others both halves."
        )
    if report.won_and_lost:
        said.append(
            f"{report.won_and_lost:,} answers won one pair and lost another: losses of single thumbs see them both up "
            "and down."
        )
    return said
