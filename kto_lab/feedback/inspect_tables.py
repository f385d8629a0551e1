"""An inspection on the terminal: tables of 80 columns."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from kto_lab import console
from kto_lab.feedback.corruption import Change
from kto_lab.feedback.inspect_numbers import Advice, Balance, Classes, Description, Given

# So many of the largest groups are shown.
GROUPS_SHOWN = 12
NO_PAIR_GIVEN = Given(0, 0, 0, 0)

Views = Mapping[str, Description]


def show_tables(views: Views, training: Views) -> None:
    """Tables of everything but the weights.

    Args:
        views: the parts to describe, by name: the training split (before and after), the test split.
        training: the parts of the training split.
    """
    console.show(_counts(views))
    if len({name for view in views.values() for name in view.groups}) > 1:
        console.show(_groups(views))
    console.show(_flips(training))
    console.show(_repeats(views))
    console.show(_lengths(views))


def show_changes(changes: Sequence[Change]) -> None:
    """Say what each step of the corruption did."""
    for number, change in enumerate(changes, start=1):
        parameters = ", ".join(f"{name} {value}" for name, value in change.parameters.items())
        console.say(f"    {number}. {change.name}" + (f" ({parameters})" if parameters else ""))
        console.say(
            f"       {change.examples_before} -> {change.examples_after} examples, "
            f"{change.desirable_before} -> {change.desirable_after} desirable"
        )
        console.say(
            f"       {change.flipped_to_desirable} flipped to desirable, "
            f"{change.flipped_to_undesirable} to undesirable, {change.removed} removed"
        )
        if change.touched:
            console.say(f"       hash of the examples touched: {change.touched}")


def show_advice(balance: Balance | None) -> None:
    """Say the weights for the training ratio and for deployment's, each with the override to paste, and the reason."""
    if balance is None:
        console.say("    There is one class only: no weights can balance it.")
        return
    low, high = balance.range
    console.say(f"    By the training counts; equal weights would leave {balance.unweighted:.4g} : 1.")
    for item in balance.training:
        note = "recommended: what a run sets by itself" if item == balance.recommended else "an end of the range"
        _show_weights(item, note)
    share, wanted = balance.deployment_share, balance.importance
    console.say(f"    By deployment_ratio, what deployment will see: {share:.3g} up, {wanted.target:.4g} : 1.")
    chosen = balance.recommended_for_deployment
    inside = chosen == wanted
    _show_weights(wanted, f"importance weights, {'recommended: within' if inside else 'outside'} the range")
    if not inside:
        _show_weights(chosen, "recommended: the nearer end of the range")
    console.say("    Why: a class pulls with the sum of its weights. Left to the counts alone, the")
    console.say("    rarer one is drowned. The paper lets both pull alike, or the desirable one up to")
    console.say(f"    {high / low:g} times as much (4/3 in its first version). Its experiment on rare thumbs held")
    console.say("    the ratio at 4/3 and tried no other: take this as the place to start a sweep.")


def _show_weights(item: Advice, note: str) -> None:
    weights = f"lambda_D {item.lambda_desirable:.4g}, lambda_U {item.lambda_undesirable:.4g}"
    console.say(f"    to {item.target:<5.4g} {weights}   ({note})")
    console.say(f"             {item.override}")


def _table(title: str, caption: str, first: str, headings: Sequence[str]) -> Table:
    """An empty table in the style of this report: a first column of names, then numbers."""
    table = console.plain_table(title, caption)
    table.add_column(first, ratio=1, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _counts(views: Views) -> Table:
    headings = ("prompts", "examples", "desirable", "undesirable", "n_D / n_U")
    table = _table("Classes", "", "split", headings)
    for name, view in views.items():
        found = view.classes
        table.add_row(
            name,
            f"{view.prompts.prompts:,}",
            f"{found.examples:,}",
            f"{found.desirable:,}  {found.share:4.0%}",
            f"{found.undesirable:,}  {1 - found.share:4.0%}",
            "-" if found.ratio is None else f"{found.ratio:.3f}",
        )
    return table


def _groups(views: Views) -> Table:
    names = list(dict.fromkeys(name for view in views.values() for name in view.groups))
    shown = f"; the {GROUPS_SHOWN} largest of {len(names)}" if len(names) > GROUPS_SHOWN else ""
    table = _table("Groups", f"examples, and the share that is desirable{shown}", "group", list(views))
    for name in names[:GROUPS_SHOWN]:
        table.add_row(name, *(_count_and_share(view.groups.get(name)) for view in views.values()))
    return table


def _count_and_share(classes: Classes | None) -> str:
    return f"{classes.examples:,}  {classes.share:4.0%}" if classes else "-"


def _flips(views: Views) -> Table:
    headings = ("label desirable", "label undesirable", "flipped")
    table = _table("Flips", "flipped: P(another label | clean label)", "clean label", headings)
    for name, view in views.items():
        found = view.flips
        rows = (
            ("desirable", found.kept_up, found.flipped_down, found.rate_down),
            ("undesirable", found.flipped_up, found.kept_down, found.rate_up),
        )
        for clean, up, down, rate in rows:
            table.add_row(f"{clean}, {name}", f"{up:,}", f"{down:,}", "-" if rate is None else f"{rate:.1%}")
    return table


def _repeats(views: Views) -> Table:
    table = _table("Repeated texts, and pairs", "a text: a prompt with its completion", "", list(views))
    rows = {
        "different texts": [view.repeats.texts for view in views.values()],
        "texts of several examples": [view.repeats.repeated for view in views.values()],
        "  that agree": [view.repeats.one_label for view in views.values()],
        "  that contradict each other": [view.repeats.contradicting for view in views.values()],
        "examples beyond the first of their text": [view.repeats.spare for view in views.values()],
        "prompts with both classes": [view.prompts.both for view in views.values()],
        "prompts with desirable ones only": [view.prompts.only_desirable for view in views.values()],
        "prompts with undesirable ones only": [view.prompts.only_undesirable for view in views.values()],
        "pairs, for losses of pairs": [view.pairs for view in views.values()],
    }
    if any(view.given != NO_PAIR_GIVEN for view in views.values()):
        rows |= {
            "  given as pairs": [view.given.whole for view in views.values()],
            "given pairs with one thumb for both": [view.given.agreeing for view in views.values()],
            "given pairs without a half": [view.given.alone for view in views.values()],
            "answers that won here and lost there": [view.given.won_and_lost for view in views.values()],
        }
    for name, counts in rows.items():
        table.add_row(name, *(f"{count:,}" for count in counts))
    # Where no label differs from the clean one, nothing is known of the noise.
    noise = [view.pair_noise if view.flips.flipped_up + view.flips.flipped_down else None for view in views.values()]
    for name, shares in (
        ("pairs swapped, by the clean labels", [one and one.swapped for one in noise]),
        ("pairs of one class, by the clean labels", [one and one.same for one in noise]),
    ):
        table.add_row(name, *("-" if share is None else f"{share:.1%}" for share in shares))
    return table


def _lengths(views: Views) -> Table:
    headings = ("least", "25 %", "median", "75 %", "most")
    table = _table("Completion lengths", "characters", "class", headings)
    for kind in ("desirable", "undesirable"):
        for name, view in views.items():
            found = view.lengths[kind]
            numbers = (found.least, found.lower, found.median, found.upper, found.most) if found else ()
            table.add_row(f"{kind}, {name}", *(f"{number:,.0f}" for number in numbers))
    return table
