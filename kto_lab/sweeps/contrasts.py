"""The contrasts of a study: the few comparisons that answer its question, named before its runs.

contrasts:
  - name: kto_bears_noise            # for the report
    of: {arm: kto}                   # this,
    against: {arm: dpo}              # compared with this,
    where: {corruption.rate: 0.4}    # in these runs,
    metric: pass_rate                # by this metric: `of` - `against`
    expect: greater                  # greater, less or equal
    margin: 0.05                     # by more than so much; for equal: by less than so much
    choose: {over: [loss.beta], by: pass_rate}   # where settings are searched, as a table says it

`expect: greater` is confirmed by a difference that is significantly above the margin, and refuted by one that is
significantly below it; `less` the other way round. `equal` is confirmed by an interval that lies within the margin on
both sides, and refuted by one that lies outside. All else leaves it open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from kto_lab.errors import LabError
from kto_lab.evaluation.metrics import DECLARED, higher_is_better, is_declared, metric_of

GREATER, LESS, EQUAL = "greater", "less", "equal"
EXPECTED = (GREATER, LESS, EQUAL)
# More would need a difference so large to be shown that a study of a few seeds shows nothing.
MOST = 8


@dataclass(frozen=True)
class Choose:
    """A search of which the best setting is shown; see `kto_lab.reports.selection`.

    Attributes:
        over: choices whose values make a setting, such as the learning rate.
        by: the metric that is best on the validation prompts; each prompt has a score of it.
    """

    over: Sequence[str]
    by: str


@dataclass(frozen=True)
class Contrast:
    """A comparison that a study named.

    Attributes:
        name: of it.
        of: choice to value; the runs that have these values.
        against: choice to value; what they are compared with.
        metric: by which; the difference is that of `of` less that of `against`.
        expect: "greater", "less" or "equal": what the study expects of the difference.
        margin: how far beyond 0 it must be; for "equal", how far from 0 it may be.
        where: choice to the value, or list of values, that runs of both must have.
        choose: what is searched over; None where nothing is.
    """

    name: str
    of: Mapping[str, Any]
    against: Mapping[str, Any]
    metric: str
    expect: str
    margin: float = 0.0
    where: Mapping[str, Any] | None = None
    choose: Choose | None = None

    def __post_init__(self) -> None:
        """Refuse what compares nothing, and what nothing could confirm."""
        what = f"contrast {self.name}"
        for key, side in (("of", self.of), ("against", self.against)):
            if not isinstance(side, Mapping) or not side:
                raise LabError(f"{what}: {key} is a mapping of choices to values, as {{arm: kto}}.")
        if self.where is not None and not isinstance(self.where, Mapping):
            raise LabError(f"{what}: where is a mapping of choices to values, as {{corruption.rate: 0.4}}.")
        if self.of.keys() != self.against.keys():
            raise LabError(
                f"{what}: of names {', '.join(self.of)}, and against {', '.join(self.against)}. Name the same choices "
                "in both, and in `where` those that both share."
            )
        if self.of == self.against:
            raise LabError(f"{what}: of and against are the same runs. Name the two that are compared.")
        if self.expect not in EXPECTED:
            raise LabError(f"{what}: expect is {self.expect!r}. Write one of {', '.join(EXPECTED)}.")
        if isinstance(self.margin, bool) or not isinstance(self.margin, int | float) or self.margin < 0:
            raise LabError(f"{what}: margin is {self.margin!r}. Write a number of at least 0, in units of the metric.")
        if self.expect == EQUAL and self.margin == 0:
            raise LabError(
                f"{what}: no experiment shows that two things are exactly equal. Write with `margin` which difference "
                "would not matter, such as margin: 0.05."
            )

    @property
    def what(self) -> str:
        """What it is called in messages."""
        return f"contrast {self.name}"

    @property
    def metrics(self) -> Sequence[str]:
        """The metrics that it needs."""
        return (self.metric,)

    @property
    def keys(self) -> Sequence[str]:
        """The choices that tell the two sides apart."""
        return tuple(self.of)


def read_contrasts(nodes: Any, where: str) -> list[Contrast]:
    """The contrasts of a study's file, or of its `study.json`.

    Args:
        nodes: what the key `contrasts` holds.
        where: whose, for messages.

    Raises:
        LabError: a key is missing or unknown, a value does not fit, two have one name, or there are too many.
    """
    if not isinstance(nodes, list | tuple):
        raise LabError(f"study.contrasts of {where} is a list; each has the keys name, of, against, metric and expect.")
    found = [_read(node) for node in nodes]
    names = [one.name for one in found]
    if twins := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise LabError(f"study.contrasts of {where}: two are called {twins[0]}. Give one another name.")
    if len(found) > MOST:
        raise LabError(
            f"study.contrasts of {where} has {len(found)}. Name at most {MOST}: each makes all others harder to show. "
            "Tables show every other comparison."
        )
    return found


def check_keys(what: str, node: Any, spec: type) -> None:
    """LabError where a node is not made of the fields of a specification."""
    known = {one.name: one.default is MISSING for one in fields(spec)}
    if not isinstance(node, Mapping):
        raise LabError(f"{what}: it is a mapping with the keys {', '.join(known)}.")
    if unknown := sorted(node.keys() - known.keys()):
        raise LabError(f"{what}: the key {unknown[0]!r} is unknown. Keys are {', '.join(known)}.")
    if missing := [name for name, required in known.items() if required and name not in node]:
        raise LabError(f"{what}: the key {missing[0]!r} is missing.")


def matches(choices: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a cell has these values; of a list one is enough."""
    return all(
        key in choices and choices[key] in (value if isinstance(value, list | tuple) else [value])
        for key, value in wanted.items()
    )


def check_contrasts(contrasts: Sequence[Contrast], cells: Sequence[Mapping[str, Any]]) -> None:
    """See that both sides of each contrast are among the cells that a study describes, at whatever scale.

    Args:
        contrasts: of the study.
        cells: the choices of its cells.

    Raises:
        LabError: a contrast names a choice or a value that no cell has; the message lists those that there are.
    """
    for one in contrasts:
        for key, side in (("of", one.of), ("against", one.against)):
            wanted = {**side, **(one.where or {})}
            if any(matches(cell, wanted) for cell in cells):
                continue
            for place, values in ((key, side), ("where", one.where or {})):
                _explain(one, place, values, cells)
            raise LabError(f"{one.what}: no run of the study has all of {_words(wanted)}. Name runs that there are.")
        for over in one.choose.over if one.choose else ():
            _explain(one, "choose.over", {over: None}, cells)


def check_direction(one: Contrast) -> None:
    """LabError where neither more nor less of a contrast's metric is better."""
    if higher_is_better(one.metric) is None:
        sided = ", ".join(name for name, found in DECLARED.items() if found.better is not None)
        raise LabError(
            f"{one.what}: of {one.metric} neither more nor less is better, so nothing can be better or worse by it. "
            f"Name a metric with a better side, such as {sided}, and show {one.metric} in a table."
        )


def check_choosing(what: str, by: str) -> None:
    """LabError where nothing can be chosen by a metric; `what` asks, for the message."""
    found = metric_of(by)
    if found.better is not None and found.per_prompt:
        return
    fitting = ", ".join(one.name for one in DECLARED.values() if one.better is not None and one.per_prompt)
    if not is_declared(by):
        lacks = "which no finished run declares"
    elif found.better is None:
        lacks = "of which neither more nor less is better"
    else:
        lacks = "which has no score for each prompt"
    raise LabError(
        f"{what}: choose.by is {by!r}, {lacks}. Choose by one of {fitting}, or by a metric of evaluation.metrics that "
        'is declared with better="up" or better="down".'
    )


def check_metrics(shown: Mapping[str, Sequence[Mapping[str, Any]]], where: str) -> list[str]:
    """See that what a study compares and chooses by has a better side, as far as its metrics are declared.

    Args:
        shown: from `kto_lab.sweeps.study.shown_at`.
        where: whose, for messages.

    Returns:
        The metrics that nobody has declared yet: of `evaluation.metrics`, or of tasks of lm-eval, which only the
        records of runs tell.

    Raises:
        LabError: a contrast is by a metric of which neither more nor less is better, or settings are chosen by one
            that cannot choose.
    """
    unknown = []
    for one in read_contrasts(shown["contrasts"], where):
        if is_declared(metric_of(one.metric).name):
            check_direction(one)
        else:
            unknown.append(one.metric)
    for kind, nodes in shown.items():
        for node in nodes:
            # What else is wrong with it, the report says.
            asked = node.get("choose") if isinstance(node, Mapping) else None
            by = asked.get("by") if isinstance(asked, Mapping) else None
            if by is not None and is_declared(by):
                check_choosing(f"{kind.removesuffix('s')} {node.get('name', 'without a name')}", by)
            elif by is not None:
                unknown.append(by)
    return unknown


def _explain(one: Contrast, place: str, wanted: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> None:
    """LabError that says which choice, or which of its values, there is not."""
    have = list(dict.fromkeys(key for cell in cells for key in cell if key != "seed"))
    for key, value in wanted.items():
        if key not in have:
            raise LabError(
                f"{one.what}: {place} names {key!r}, which is no choice of this study. Choices are {', '.join(have)}."
            )
        there = list(dict.fromkeys(cell[key] for cell in cells if key in cell))
        if value is not None and not any(matches({key: found}, {key: value}) for found in there):
            raise LabError(
                f"{one.what}: {place} names {key}={value}, which no run of the study has. There are "
                f"{', '.join(map(str, there))}."
            )


def _read(node: Any) -> Contrast:
    what = f"contrast {node.get('name', 'without a name') if isinstance(node, Mapping) else node}"
    check_keys(what, node, Contrast)
    if node.get("choose") is None:
        return Contrast(**node)
    check_keys(f"{what}, choose", node["choose"], Choose)
    return Contrast(**{**node, "choose": Choose(**node["choose"])})


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())
