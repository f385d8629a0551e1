"""Final metrics as tables in the terminal, and a few answers to look at."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kto_lab import console
from kto_lab.console import Comparison
from kto_lab.evaluation.metrics import learn, metric_of

EXAMPLES = 3
POLICIES = ("base", "trained")


def show_metrics(metrics: Mapping[str, Any], declared: Mapping[str, Mapping[str, Any]] | None = None) -> None:
    """Print the metrics of a record: base against trained policy, then by group, then lm-eval.

    Args:
        metrics: of the record.
        declared: of the record, too.
    """
    learn([declared or {}])
    answers, rewards = metrics.get("answers", {}), metrics.get("rewards", {})
    single = {**rewards, "kl": metrics.get("kl")}
    rows = [
        _compared(_name(name), values, metric_of(name).decimals)
        for name, values in answers.items()
        if metric_of(name).in_table
    ]
    rows += [
        Comparison(_name(name), None, value, None, metric_of(name).decimals)
        for name, value in single.items()
        if metric_of(name).in_table
    ]
    _show_comparisons(rows, "Held-out prompts, never trained on")
    for name in filter(lambda name: metric_of(name).by_group, answers):
        groups = [
            _compared(group, found[name], metric_of(name).decimals)
            for group, found in metrics.get("groups", {}).items()
            if name in found
        ]
        if len(groups) > 1:
            title = f"{metric_of(name).title.capitalize()} by group"
            console.show(console.group_table(groups, title=title, group="group"))
    tasks = metrics.get("lm_eval", {"base": {}, "trained": {}})
    rows = [
        Comparison(_two_lines(task, name), tasks["base"][task].get(name), value, None)
        for task, values in tasks["trained"].items()
        for name, value in values.items()
    ]
    _show_comparisons(rows, "lm-eval")


def show_single(metrics: Mapping[str, Any], declared: Mapping[str, Mapping[str, Any]], *, name: str) -> None:
    """Print the metrics of one policy that is compared with none; `declared` as in `show_metrics`."""
    learn([declared])
    found = {_name(key): value for key, value in metrics["answers"].items() if metric_of(key).in_table}
    found |= {
        _two_lines(task, key): value for task, values in metrics["lm_eval"].items() for key, value in values.items()
    }
    filled = {label: estimate for label, estimate in found.items() if estimate["value"] is not None}
    if filled:
        console.show(console.estimate_table(filled, title=f"Held-out prompts: {name}"))


def show_examples(answers: Sequence[Mapping[str, Any]]) -> None:
    """Print a few answers of both policies, from `answers.side_by_side`.

    Such as changed their score; where no answer has one, such as changed, beside held-out answers that got a thumb.
    """
    if all(row["base_score"] is None for row in answers):
        _show_unscored([row for row in answers if row["base"] != row["trained"]], len(answers))
        return
    better = [row for row in answers if _change(row) > 0]
    worse = [row for row in answers if _change(row) < 0]
    if not better and not worse:
        return
    console.stage("Examples", f"Of {len(answers)} answers {len(better)} score better than before, {len(worse)} worse.")
    # One that got worse is among them where there is one: the reader should see both.
    worst = worse[: max(1, EXAMPLES - len(better))]
    _show_rows(
        {"prompt": row["prompt"]} | {f"{name} ({round(row[f'{name}_score'], 2):g})": row[name] for name in POLICIES}
        for row in [*better[: EXAMPLES - len(worst)], *worst]
    )


def _show_unscored(changed: Sequence[Mapping[str, Any]], count: int) -> None:
    """Print a few answers that changed, of so many, and what people thought of others to the same prompts."""
    if not changed:
        return
    console.stage(
        "Examples", f"Of {count} answers {len(changed)} are not as before. Nothing checks them: look at some."
    )
    held_out = {"held out, up": "thumbs_up", "held out, down": "thumbs_down"}
    _show_rows(
        {name: row[name] for name in ("prompt", *POLICIES)}
        | {label: row[name] for label, name in held_out.items() if row[name] is not None}
        for row in changed[:EXAMPLES]
    )


def _show_rows(rows: Iterable[Mapping[str, str]]) -> None:
    """Texts row by row, a blank line between."""
    for place, texts in enumerate(rows):
        if place:
            console.say("")
        console.show_texts(texts)


def _change(row: Mapping[str, Any]) -> float:
    scores = (row["base_score"], row["trained_score"])
    return 0.0 if None in scores else scores[1] - scores[0]


def _show_comparisons(rows: Iterable[Comparison], title: str) -> None:
    """A table of the rows that say something."""
    filled = [row for row in rows if any(part and part["value"] is not None for part in (row.base, row.trained))]
    if filled:
        console.show(console.comparison_table(filled, title=title))


def _name(name: str) -> str:
    """A metric's label, its unit on a line of its own."""
    found = metric_of(name)
    return _two_lines(found.title, found.unit) if found.unit else found.title


def _two_lines(first: str, second: str) -> str:
    return f"{first}\n  {second}"


def _compared(label: str, values: Mapping[str, Any], decimals: int | None) -> Comparison:
    return Comparison(label, values["base"], values["trained"], values["difference"], decimals)
