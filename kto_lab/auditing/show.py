"""What an audit says on the terminal."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from kto_lab import console
from kto_lab.auditing.advice import Advice, span
from kto_lab.auditing.audit import Audit
from kto_lab.auditing.bounds import Bounds
from kto_lab.auditing.measured import FIRST, Found
from kto_lab.auditing.raters import Record
from kto_lab.auditing.rates import Rates
from kto_lab.statistics import Estimate

ABOUT = {
    "noise_aware": "all signals; interval: what they leave open",
    "confident_learning": "cleanlab, out-of-fold text",
    "raters": "several thumbs on one answer",
    "reviewed": "reviewed random examples",
}
SAMPLES = 3
RATERS_SHOWN = 8


def show_signals(audit: Audit) -> None:
    """How much each signal can say, and how often it would have the other thumb."""
    table = console.plain_table("Signals", "against: examples to whose other thumb it gives more than 1/2")
    table.add_column("signal", ratio=1)
    for heading in ("speaks of", "against"):
        table.add_column(heading, justify="right", no_wrap=True)
    labels = audit.examples.labels
    for signal in audit.signals:
        against = int((signal.known & (signal.suspicion(labels) > 0.5)).sum())
        table.add_row(signal.name, f"{int(signal.known.sum()):,}", f"{against:,}")
    table.add_row("combined", f"{len(labels):,}", f"{int((audit.combined.suspicion > 0.5).sum()):,}")
    console.show(table)
    for name in audit.silent:
        console.say(f"    {name} can say nothing: no answer has a second thumb or a near-duplicate")
    if audit.flagged is not None:
        console.say(f"    cleanlab would correct {int(audit.flagged.sum()):,} labels, by the out-of-fold signal alone")


def show_raters(found: Sequence[Record]) -> None:
    """The error rates of the raters who gave most thumbs; nothing where raters are not named."""
    if not any(record.name for record in found):
        return
    table = console.plain_table(
        "Raters", "wrong thumbs on truly good and bad answers (Dawid, Skene); -: cannot be told, too few shared"
    )
    table.add_column("rater", ratio=1, overflow="fold")
    for heading in ("thumbs", "shared", "down on good", "up on bad"):
        table.add_column(heading, justify="right", no_wrap=True)
    for record in found[:RATERS_SHOWN]:
        name = Text(record.name or "(not named)")
        counts = (f"{record.thumbs:,}", f"{record.shared:,}")
        table.add_row(name, *counts, _two(record.missed), _two(record.false))
    console.show(table)


def show_bounds(bounds: Bounds) -> None:
    """How often thumbs can be wrong at most, and how far that answers to further flips."""
    table = console.plain_table("At most", "by the signals; then with a further share of all thumbs turned round")
    table.add_column("thumbs", ratio=1)
    for heading in ("AUC", "down on good", "up on bad"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("as they are", _two(bounds.auc), f"{bounds.desirable:.1%}", f"{bounds.undesirable:.1%}")
    for trial in bounds.trials:
        auc = "-" if trial.auc is None else f"{trial.auc:.2f}"
        table.add_row(f"{trial.rate:.0%} turned round", auc, f"{trial.desirable:.1%}", f"{trial.undesirable:.1%}")
    console.show(table)


def show_rates(rates: Sequence[Rates], truth: tuple[float, float] | None) -> None:
    """The estimated flip rates, beside the true ones where they are known."""
    table = console.plain_table("Flip rates", console.INTERVAL)
    table.add_column("from", ratio=1, overflow="fold")
    for heading in ("down on good", "up on bad"):
        table.add_column(heading, justify="right", no_wrap=True)
    for found in rates:
        table.add_row(ABOUT[found.method], span(found.desirable), span(found.undesirable))
    if truth is not None:
        table.add_row("the clean labels", f"{truth[0]:.1%}", f"{truth[1]:.1%}")
    console.show(table)


def show_found(found: Mapping[str, Found], wrong: int) -> None:
    """How well wrong labels were found."""
    table = console.plain_table(f"Against the clean labels: {wrong:,} are wrong", console.INTERVAL)
    table.add_column("signal", ratio=1)
    for heading in ("AUC", f"of the first {wrong:,}", f"of the first {FIRST}"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, item in found.items():
        table.add_row(name, *(_two(part) for part in (item.auc, item.precision, item.precision_first)))
    console.show(table)


def show_advice(advice: Sequence[Advice]) -> None:
    """What to set, with the words to paste."""
    for item in advice:
        lines = textwrap.wrap(f"{item.about}: {item.text}", 80, initial_indent="    ", subsequent_indent="      ")
        for line in lines:
            console.say(line)
        if item.override:
            console.say(f"        {item.override}")


def show_suspects(rows: Sequence[Mapping[str, Any]]) -> None:
    """The first suspects in words."""
    for row in rows[:SAMPLES]:
        prompt = row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][-1]["content"]
        console.say(
            f"    {row['rank']}. suspicion {row['suspicion']:.2f}, thumbs-{'up' if row['desirable'] else 'down'}"
        )
        console.show_texts({"prompt": prompt, "answer": row["completion"], "why": row["why"]})


def _two(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
