"""The report on labels: counts, who gave them, how far they agree with existing thumbs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kto_lab import console
from kto_lab.judging.answer import Answer
from kto_lab.labeling.agreement import (
    SEED,
    Agreement,
    agreement,
    krippendorff_alpha,
    of_enough,
    pairwise_kappa,
    share_of,
)
from kto_lab.labeling.labels import Label, Labelled, NoLabel, Verdict
from kto_lab.statistics import Estimate, auc_interval, cluster_sums

# How many places the report has per reason.
PLACES = 20
# How many rules or principles are shown on the terminal.
SHOWN = 20


@dataclass(frozen=True)
class Decider:
    """A rule, a principle or a model that gave thumbs.

    Attributes:
        up: thumbs-up that it gave.
        down: thumbs-down that it gave.
        right: share of them that agree with the truth, where it is known.
    """

    up: int
    down: int
    right: Estimate


@dataclass(frozen=True)
class Report:
    """Everything but the configuration.

    Attributes:
        answers: how many were to be labelled.
        prompts: of how many prompts.
        up: thumbs-up given.
        down: thumbs-down given.
        left_out: by reason, how many answers got no thumb, and the first places.
        deciders: by name.
        truth: agreement with earlier thumbs, or None where there were none.
        auc: AUC of the score and each signal behind it, against those thumbs.
        kappa: Cohen's kappa of every pair of raters: the labeler, the truth, and the raters that the labeler used.
        alpha: Krippendorff's alpha of the raters that the labeler used, all at once.
        labeler: the labeler's own entries.
    """

    answers: int
    prompts: int
    up: int
    down: int
    left_out: dict[str, dict[str, Any]]
    deciders: dict[str, Decider]
    truth: Agreement | None
    auc: dict[str, Estimate]
    kappa: list[dict[str, Any]]
    alpha: Estimate | None
    labeler: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def report(answers: Sequence[Answer], labelled: Labelled, name: str) -> Report:
    """The report on the labels of answers.

    Args:
        answers: (N,) the answers that were labelled.
        labelled: what the labeler returned.
        name: the labeler's name.
    """
    thumbs = [verdict.desirable if isinstance(verdict, Label) else None for verdict in labelled.verdicts]
    truth = [answer.truth for answer in answers]
    prompts = [answer.prompt_id for answer in answers]
    others = {**labelled.raters, **({"truth": truth} if any(one is not None for one in truth) else {})}
    raters = {name: thumbs, **others}
    rows = list(zip(*labelled.raters.values(), strict=True))
    return Report(
        answers=len(answers),
        prompts=len(set(prompts)),
        up=sum(thumb is True for thumb in thumbs),
        down=sum(thumb is False for thumb in thumbs),
        left_out=_left_out(answers, labelled.verdicts),
        deciders=_deciders(labelled.verdicts, truth, prompts),
        truth=agreement(thumbs, truth, prompts),
        auc=_auc(labelled, truth, prompts),
        kappa=[{"raters": list(pair), **asdict(kappa)} for pair, kappa in pairwise_kappa(raters, prompts).items()]
        if labelled.raters
        else [],
        alpha=krippendorff_alpha(rows, prompts) if rows else None,
        labeler=labelled.numbers,
    )


def _left_out(answers: Sequence[Answer], verdicts: Sequence[Verdict]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for answer, verdict in zip(answers, verdicts, strict=True):
        if isinstance(verdict, NoLabel):
            entry = found.setdefault(verdict.reason, {"answers": 0, "first": []})
            entry["answers"] += 1
            if len(entry["first"]) < PLACES:
                entry["first"].append(answer.where)
    return found


def _deciders(verdicts: Sequence[Verdict], truth: Sequence[bool | None], prompts: Sequence[str]) -> dict[str, Decider]:
    """Who gave the thumbs, the busiest first."""
    gave: dict[str, list[int]] = {}
    for row, verdict in enumerate(verdicts):
        if isinstance(verdict, Label):
            gave.setdefault(verdict.by, []).append(row)
    found = {}
    for by, rows in sorted(gave.items(), key=lambda item: -len(item[1])):
        ups = Counter(_thumb(verdicts[row]) for row in rows)
        known = [row for row in rows if truth[row] is not None]
        right = Estimate(None, None, None, 0)
        if known:
            sums = cluster_sums(
                [[truth[row] == _thumb(verdicts[row]), 1] for row in known], [prompts[row] for row in known]
            )
            right = share_of(sums[:, 0], sums[:, 1])
        found[by] = Decider(ups[True], ups[False], right)
    return found


def _thumb(verdict: Verdict) -> bool | None:
    return verdict.desirable if isinstance(verdict, Label) else None


def _auc(labelled: Labelled, truth: Sequence[bool | None], prompts: Sequence[str]) -> dict[str, Estimate]:
    """Of the score, and of each signal behind it, over the answers that have it and a truth."""
    scores = [verdict.score if isinstance(verdict, Label) else None for verdict in labelled.verdicts]
    found = {}
    for name, values in {"score": scores, **labelled.signals}.items():
        known = [row for row, value in enumerate(values) if value is not None and truth[row] is not None]
        if known:
            rows: list[Any] = [values[row] for row in known]
            clusters = [prompts[row] for row in known]
            found[name] = of_enough(auc_interval(rows, [bool(truth[row]) for row in known], clusters, seed=SEED))
    return found


def show(found: Report) -> None:
    """The report on the terminal, in 80 columns."""
    labelled = found.up + found.down
    share = f", {found.up / labelled:.0%} up" if labelled else ""
    console.say(f"    {labelled} of {found.answers} answers have a thumb: {found.up} up, {found.down} down{share}")
    for reason, entry in found.left_out.items():
        console.say(f"    left out: {entry['answers']}  {reason} (first: {entry['first'][0]})")
    if found.deciders:
        _show_deciders(found.deciders)
    if found.truth is not None:
        console.stage("Agreement", "With the thumbs that there were; 95 % intervals over prompts.")
        _show_agreement(found.truth, found.auc)
    if found.kappa:
        _show_raters(found.kappa, found.alpha)


def _show_deciders(deciders: Mapping[str, Decider]) -> None:
    more = f"; the {SHOWN} busiest of {len(deciders)}" if len(deciders) > SHOWN else ""
    known = any(decider.right.value is not None for decider in deciders.values())
    table = console.plain_table(
        "Who gave the thumbs", f"right: share that is as the thumbs there were{more}" if known else more
    )
    table.add_column("by", ratio=1, overflow="fold")
    for heading in ("up", "down", *(["right [95 %]"] if known else [])):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, decider in list(deciders.items())[:SHOWN]:
        table.add_row(name, f"{decider.up:,}", f"{decider.down:,}", *([text(decider.right)] if known else []))
    console.show(table)


def text(estimate: Estimate) -> str:
    """An estimate and its interval in a cell."""
    if estimate.value is None:
        return "-"
    if estimate.low is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def _show_agreement(found: Agreement, auc: Mapping[str, Estimate]) -> None:
    table = console.plain_table(
        "Against the thumbs there were", "kappa: agreement above chance, 0 for none; AUC: 0.5 for none"
    )
    table.add_column("over", ratio=1, overflow="fold")
    table.add_column(f"{found.answers} answers", justify="right", no_wrap=True)
    rows = {
        "same thumb": found.accuracy,
        "Cohen's kappa": found.kappa,
        "truly up, labelled up": found.found_up,
        "truly down, labelled down": found.found_down,
    }
    rows |= {f"AUC of {'the score' if name == 'score' else name}": value for name, value in auc.items()}
    for name, value in rows.items():
        table.add_row(name, text(value))
    console.show(table)
    counts = found.confusion
    table = console.plain_table("Confusion", "")
    table.add_column("", ratio=1)
    for heading in ("truly up", "truly down"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("labelled up", f"{counts.up_up:,}", f"{counts.up_down:,}")
    table.add_row("labelled down", f"{counts.down_up:,}", f"{counts.down_down:,}")
    console.show(table)


def _show_raters(kappas: Sequence[Mapping[str, Any]], alpha: Estimate | None) -> None:
    of_all = f"all files at once, Krippendorff's alpha: {text(alpha)}" if alpha is not None else ""
    table = console.plain_table("Cohen's kappa of every two", of_all)
    table.add_column("raters", ratio=1, overflow="fold")
    table.add_column("kappa [95 %]", justify="right", no_wrap=True)
    for row in kappas:
        estimate = Estimate(row["value"], row["low"], row["high"], row["n"])
        table.add_row(" and ".join(row["raters"]), text(estimate))
    console.show(table)
