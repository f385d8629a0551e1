"""The command `kto-lab feedback review`: apply reviewers' decisions to the thumbs, and estimate how many are wrong.

A reviewer who looked at an example on its own is the best available truth. So a decision sets both `desirable`, which
the loss sees, and `desirable_clean`, which evaluation sees. The identities of examples stay, so that decisions from the
same audit still find them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from hydra.utils import instantiate
from omegaconf import DictConfig

from kto_lab import console
from kto_lab.auditing.exchange import Choice, Decision, read_decisions
from kto_lab.configuration import check_keys
from kto_lab.errors import LabError
from kto_lab.files import atomic_path, write_json
from kto_lab.keys import REVIEW
from kto_lab.statistics import Estimate, proportion_interval

Policy: TypeAlias = Literal["majority", "leave", "drop", "error"]
POLICIES = ("majority", "leave", "drop", "error")


@dataclass(frozen=True)
class Verdict:
    """What is done with one example.

    Attributes:
        choice: "keep", "flip" or "drop".
        shown: the thumb that the reviewers saw.
        reviewers: who decided it so.
        sampled_at_random: see `Decision`.
    """

    choice: Choice
    shown: bool
    reviewers: tuple[str, ...]
    sampled_at_random: bool

    @property
    def label(self) -> bool:
        """The right thumb, of an example that is not dropped."""
        return self.shown != (self.choice == "flip")


@dataclass(frozen=True)
class Settled:
    """All reviewers' decisions as one verdict per example.

    Attributes:
        verdicts: example_id to verdict.
        undecided: examples that everyone skipped.
        disputed: examples that reviewers differed on.
        left: those of them whose thumb stays as it is.
    """

    verdicts: dict[str, Verdict]
    undecided: int
    disputed: int
    left: int


def review_feedback(cfg: DictConfig) -> Path:
    """Write the table after the decisions, and their counts and rates beside it; say them, and return the table's path.

    Raises:
        LabError: a file exists, a decision is about no example of the table, or see the message.
    """
    check_keys(cfg, REVIEW)
    target = Path(cfg.output)
    summary = target.with_suffix(".review.json")
    if there := [file for file in (target, summary) if file.exists()]:
        raise LabError(f"{there[0]} exists. Choose another output, or remove it to review again.")
    console.stage("Feedback", "The thumbs as they were audited.")
    table: Dataset = instantiate(cfg.feedback)
    console.say(f"    {len(table)} examples")
    console.stage("Decisions", "What reviewers say of single thumbs.")
    decisions = read_decisions(cfg.decisions)
    settled = settle(decisions, cfg.conflicts)
    reviewed, changes = apply(table, settled.verdicts)
    rates = {
        "suspects": rates_of_suspects(settled.verdicts.values()),
        "sampled_at_random": rates_at_random(settled.verdicts.values()),
    }
    with atomic_path(target) as partial:
        pq.write_table(reviewed, partial, write_page_checksum=True)
    numbers = {
        "examples": {"before": len(table), "after": len(reviewed)},
        "decisions": dict(Counter(decision.choice for decision in decisions)),
        "reviewers": dict(Counter(decision.reviewer for decision in decisions)),
        "undecided": settled.undecided,
        "disputed": settled.disputed,
        "left": settled.left,
        "conflicts": cfg.conflicts,
        **changes,
        "rates": {part: {name: rate.as_dict() for name, rate in found.items()} for part, found in rates.items()},
    }
    write_json(summary, numbers)
    _say(settled, changes, len(set(numbers["reviewers"])))
    _show(rates)
    console.stage("Files", "The table after the review, and its numbers.")
    console.show_files({"thumbs": target, "numbers": summary})
    console.say(f"    train on it with feedback=collected feedback.path={target}")
    return target


def settle(decisions: Iterable[Decision], conflicts: Policy) -> Settled:
    """One verdict per example, from all reviewers' decisions.

    A reviewer's later decision on the same example replaces the earlier one, and a skip decides nothing.

    Args:
        decisions: in the order in which they came.
        conflicts: where reviewers differ: "majority" takes what most say, and leaves the example where that is a tie;
            "leave" leaves its thumb as it is, "drop" drops it, and "error" stops.

    Raises:
        LabError: no decision, reviewers who saw different thumbs of one example, or reviewers who differ and "error".
    """
    if conflicts not in POLICIES:
        raise LabError(f"conflicts is {conflicts!r}; it must be one of {', '.join(POLICIES)}.")
    last: dict[str, dict[str, Decision]] = {}
    for decision in decisions:
        last.setdefault(decision.example_id, {})[decision.reviewer] = decision
    if not last:
        raise LabError("There is no decision in what decisions names. Decide something, and download it again.")
    verdicts: dict[str, Verdict] = {}
    undecided = disputed = left = 0
    for identity, by_reviewer in last.items():
        votes = [decision for decision in by_reviewer.values() if decision.choice != "skip"]
        if not votes:
            undecided += 1
            continue
        disputed += len({decision.choice for decision in votes}) > 1
        choice = _of_votes(votes, conflicts)
        if choice is None:
            left += 1
            continue
        verdicts[identity] = _verdict(votes, choice)
    return Settled(verdicts, undecided, disputed, left)


def _of_votes(votes: Sequence[Decision], conflicts: Policy) -> Choice | None:
    """What is done with an example, None where its thumb is left as it is."""
    shown = {decision.desirable for decision in votes}
    if len(shown) > 1:
        raise LabError(
            f"{votes[-1].where}: the thumb of {votes[-1].example_id} was shown as up to one reviewer and as down to "
            "another. Give decisions from one audit at a time."
        )
    (most, count), *others = Counter(decision.choice for decision in votes).most_common()
    if not others:
        return most
    if conflicts == "error":
        said = ", ".join(f"{decision.choice} ({decision.reviewer})" for decision in votes)
        raise LabError(f"{votes[-1].where}: reviewers differ on {votes[-1].example_id}: {said}. Or set conflicts.")
    if conflicts == "drop":
        return "drop"
    return most if conflicts == "majority" and count > others[0][1] else None


def _verdict(votes: Sequence[Decision], choice: Choice) -> Verdict:
    agreeing = sorted({decision.reviewer for decision in votes if decision.choice == choice})
    at_random = any(decision.sampled_at_random for decision in votes)
    return Verdict(choice, votes[0].desirable, tuple(agreeing), at_random)


def apply(table: Dataset, verdicts: Mapping[str, Verdict]) -> tuple[pa.Table, dict[str, int]]:
    """The table after the verdicts, and how many examples they changed.

    Kept and flipped examples get the label that the reviewers found right, whatever label the table has: decisions that
    are applied again flip nothing back. A column `reviewed_by` says who decided, null where nobody did.

    Returns:
        The table, and the counts "kept", "flipped" and "dropped" of verdicts, "labels_changed" of the table, and
        "shown_otherwise": examples whose label is not what the reviewers were shown.

    Raises:
        LabError: a verdict is about no example of the table, or no example is left.
    """
    arrow = table.with_format("arrow")[:]
    identities = arrow["example_id"].to_pylist()
    if unknown := sorted(set(verdicts) - set(identities)):
        raise LabError(
            f"{len(unknown)} of {len(verdicts)} decided examples are not in the table, such as {unknown[0]}. Give "
            "feedback the table that was audited, with the same keys."
        )
    before = arrow["desirable"].to_pylist()
    clean = arrow["desirable_clean"].to_pylist()
    found = [verdicts.get(identity) for identity in identities]
    decided = [verdict if verdict and verdict.choice != "drop" else None for verdict in found]
    columns = {
        "desirable": [was if one is None else one.label for one, was in zip(decided, before, strict=True)],
        "desirable_clean": [was if one is None else one.label for one, was in zip(decided, clean, strict=True)],
    }
    for name, values in columns.items():
        arrow = arrow.set_column(arrow.column_names.index(name), name, pa.array(values, pa.bool_()))
    by = [", ".join(one.reviewers) if one else None for one in decided]
    arrow = arrow.append_column("reviewed_by", pa.array(by, pa.string()))
    stays = pa.array([verdict is None or verdict.choice != "drop" for verdict in found])
    after = arrow.filter(stays)
    if not len(after):
        raise LabError("The decisions drop every example: there is nothing left to train on.")
    choices = Counter(verdict.choice for verdict in verdicts.values())
    seen = [(one, was) for one, was in zip(found, before, strict=True) if one]
    counts = {
        "kept": choices["keep"],
        "flipped": choices["flip"],
        "dropped": choices["drop"],
        "labels_changed": sum(one is not None and one.label != was for one, was in zip(decided, before, strict=True)),
        "shown_otherwise": sum(one.shown != was for one, was in seen),
    }
    # Of the schema alone: the metadata that `datasets` leaves would not know the new column.
    return after.replace_schema_metadata(None), counts


def rates_of_suspects(verdicts: Iterable[Verdict]) -> dict[str, Estimate]:
    """How many of the doubted thumbs were wrong, by the thumb. The precision of the audit, not a rate of the table."""
    return _wrong([verdict for verdict in verdicts if not verdict.sampled_at_random])


def rates_at_random(verdicts: Iterable[Verdict]) -> dict[str, Estimate]:
    """How many thumbs of the table are wrong, from examples that were drawn at random: without bias.

    By the thumb, and by the truth: "flip_down" is P(thumb down | truly up) and "flip_up" P(thumb up | truly down), as
    robust losses take them. Dropped examples have no truth and are left out; so are skipped and disputed ones, which
    may differ from the others.
    """
    drawn = [verdict for verdict in verdicts if verdict.sampled_at_random and verdict.choice != "drop"]
    up, down = ([one for one in drawn if one.label is truth] for truth in (True, False))
    return {
        **_wrong(drawn),
        "flip_down": proportion_interval(sum(not one.shown for one in up), len(up)),
        "flip_up": proportion_interval(sum(one.shown for one in down), len(down)),
    }


def _wrong(verdicts: Sequence[Verdict]) -> dict[str, Estimate]:
    """Share of wrong thumbs among the thumbs up and among the thumbs down, with Wilson's interval."""
    decided = [verdict for verdict in verdicts if verdict.choice != "drop"]
    parts = {"wrong_up": True, "wrong_down": False}
    of_thumb = {name: [one for one in decided if one.shown is thumb] for name, thumb in parts.items()}
    return {
        name: proportion_interval(sum(one.choice == "flip" for one in part), len(part))
        for name, part in of_thumb.items()
    }


def _say(settled: Settled, changes: Mapping[str, int], reviewers: int) -> None:
    by = f"by {reviewers} reviewer{'s' if reviewers > 1 else ''}"
    console.say(
        f"    {len(settled.verdicts)} examples decided {by}: {changes['kept']} kept, {changes['flipped']} flipped, "
        f"{changes['dropped']} dropped"
    )
    console.say(
        f"    {settled.undecided} skipped, {settled.disputed} disputed, {settled.left} of them left as they are"
    )
    console.say(f"    {changes['labels_changed']} labels of the table changed")
    if otherwise := changes["shown_otherwise"]:
        console.say(
            f"    {otherwise} labels are not what the reviewers were shown: the audit saw corrupted thumbs, or this "
            "table was reviewed before. The reviewers' word counts."
        )


_NAMES = {
    "wrong_up": "wrong, of thumbs up",
    "wrong_down": "wrong, of thumbs down",
    "flip_down": "thumb down, of truly up",
    "flip_up": "thumb up, of truly down",
}


def _show(rates: Mapping[str, Mapping[str, Estimate]]) -> None:
    console.stage("Rates", "Suspects: how often the audit is right. A random sample: how many thumbs are wrong.")
    for part, found in rates.items():
        named = {_NAMES[name]: rate.as_dict() for name, rate in found.items() if rate.n}
        if named:
            console.show(console.estimate_table(named, title=part.replace("_", " ").capitalize()))
    if not any(rate.n for rate in rates["sampled_at_random"].values()):
        console.say("    The suspects are no random sample, so these are no rates of the whole table. An audit can")
        console.say("    mix in examples that are drawn at random, which estimate them.")
