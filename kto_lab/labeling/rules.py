"""Labels by rules: the first rule that matches gives the thumb, and the label says which one.

A file of rules:

    otherwise: none            # what an answer gets that no rule matches: up, down or none
    rules:
      - name: refusal
        thumb: down
        when: {keywords: [as an AI language model]}

Rules are tried in the order of the file. All of them are tried on every answer, so that the report can say which match
and which contradict the one that decides; see `conditions.py` for the conditions.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kto_lab.errors import LabError
from kto_lab.judging.answer import Answer
from kto_lab.labeling.conditions import Condition, NoChecksError, Text, TooSlowError, condition
from kto_lab.labeling.labels import Label, Labelled, NoLabel, Verdict
from kto_lab.labeling.yaml_file import check_fields, named_items, read_yaml, shipped

if TYPE_CHECKING:
    import torch

OTHERWISE = "otherwise"
THUMBS = {"up": True, "down": False}
NO_RULE = "no rule matches"
NO_CHECKS = "a rule asks for the answer's own checker, and its row names none that passes or fails"
# A pattern that was too slow this often will be again, and the rest of a large file would take hours.
MOST_TIMEOUTS = 20


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: what its labels say.
        thumb: thumbs-up.
        when: its condition.
    """

    name: str
    thumb: bool
    when: Condition


@dataclass(frozen=True)
class RuleBook:
    """The rules of a file.

    Attributes:
        rules: in the order in which they are tried.
        otherwise: the thumb of an answer that no rule matches; None for none.
    """

    rules: tuple[Rule, ...]
    otherwise: bool | None


def read_rules(path: Path) -> RuleBook:
    """The rules of a YAML file.

    Raises:
        LabError: the file or a rule of it does not fit; the message names both and the place within.
    """
    found = read_yaml(path, "rules (labeler.path)")
    check_fields(found, str(path), ("rules",), (OTHERWISE, "rules"))
    otherwise = found.get(OTHERWISE, "none")
    if otherwise not in ("none", *THUMBS):
        raise LabError(f"{path}: '{OTHERWISE}' is {otherwise!r}; it must be up, down or none.")
    rules = []
    for item, place in named_items(found, "rules", path):
        check_fields(item, place, ("thumb", "when"), ("name", "thumb", "when"))
        if item["thumb"] not in tuple(THUMBS):
            raise LabError(f"{place}: the thumb is {item['thumb']!r}; it must be up or down.")
        if item["name"] == OTHERWISE:
            raise LabError(f"{place}: this name stands for answers that no rule matches. Choose another.")
        rules.append(Rule(item["name"], THUMBS[item["thumb"]], condition(item["when"], f"{place}, when")))
    return RuleBook(tuple(rules), THUMBS.get(str(otherwise)))


@dataclass(frozen=True)
class Rules:
    """The labeler.

    Attributes:
        path: the YAML file, or "example" for the rules that ship.
        seconds: how long a regular expression may take on one answer. One that takes longer has no outcome there, and
            the answer gets no label unless an earlier rule gives it one.
    """

    path: str
    seconds: float
    name = "rules"

    def label(self, answers: Sequence[Answer], thumbs: Sequence[Answer], device: "torch.device") -> Labelled:
        """See `Labeler`; rules learn nothing.

        Raises:
            LabError: the rules do not fit, or a pattern is too slow too often.
        """
        if self.seconds <= 0:
            raise LabError(f"labeler.seconds is {self.seconds}; it must be above 0.")
        book = read_rules(shipped("rules_example.yaml") if self.path == "example" else Path(self.path).expanduser())
        slow: Counter[str] = Counter()
        outcomes = [self._try(book, answer, slow) for answer in answers]
        verdicts = [_decide(book, found) for found in outcomes]
        return Labelled(verdicts, {"rules": _counts(book, outcomes, verdicts)})

    def _try(self, book: RuleBook, answer: Answer, slow: Counter[str]) -> list[bool | NoLabel]:
        """Whether each rule matches, or why that cannot be said."""
        seen = Text(answer.words, answer, self.seconds)
        found: list[bool | NoLabel] = []
        for rule in book.rules:
            try:
                found.append(rule.when(seen))
            except NoChecksError:
                found.append(NoLabel(NO_CHECKS))
            except TooSlowError as error:
                slow[rule.name] += 1
                if slow[rule.name] > MOST_TIMEOUTS:
                    raise LabError(
                        f"{error}: the pattern took longer than {self.seconds:g} s on more than {MOST_TIMEOUTS} "
                        f"answers, last on {answer.where}. Repeats within repeats, such as (a+)+, take exponential "
                        "time: rewrite the pattern, or allow more labeler.seconds."
                    ) from error
                found.append(NoLabel(f"the pattern of rule {rule.name!r} took too long"))
        return found


def _decide(book: RuleBook, found: Sequence[bool | NoLabel]) -> Verdict:
    """The verdict of the first rule that matches. What a rule before it would say must be known."""
    matching = {rule.name: 1.0 for rule, matches in zip(book.rules, found, strict=True) if matches is True}
    for rule, matches in zip(book.rules, found, strict=True):
        if isinstance(matches, NoLabel):
            return matches
        if matches:
            return Label(rule.thumb, rule.name, scores=matching)
    return NoLabel(NO_RULE) if book.otherwise is None else Label(book.otherwise, OTHERWISE)


def _counts(
    book: RuleBook, outcomes: Sequence[Sequence[bool | NoLabel]], verdicts: Sequence[Verdict]
) -> dict[str, dict[str, Any]]:
    """Of each rule: its thumb, how many answers it matches, decides, and would have given the other thumb."""
    counts = {
        rule.name: {"thumb": "up" if rule.thumb else "down", "matches": 0, "decides": 0, "contradicted": 0}
        for rule in book.rules
    }
    for found, verdict in zip(outcomes, verdicts, strict=True):
        for rule, matches in zip(book.rules, found, strict=True):
            if matches is not True:
                continue
            count: dict[str, Any] = counts[rule.name]
            count["matches"] += 1
            if isinstance(verdict, Label):
                count["decides"] += verdict.by == rule.name
                count["contradicted"] += verdict.desirable != rule.thumb
    return counts
