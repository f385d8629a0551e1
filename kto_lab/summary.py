"""Final metrics as tables in the terminal."""

from collections.abc import Mapping
from typing import Any

from kto_lab import console
from kto_lab.console import Comparison

LABELS = {
    "pass_rate": "pass rate",
    "sentiment": "sentiment, -1 to 1",
    "answer_length": "answer length, tokens",
    "finished": "answers that end by themselves",
    "reward_accuracy": "implicit reward: accuracy",
    "reward_auc": "implicit reward: AUC",
    "pair_accuracy": "implicit reward: pairs ranked right",
    "reward_margin": "implicit reward: margin",
}


def show_metrics(metrics: Mapping[str, Any]) -> None:
    """Print the metrics of a record: base against trained policy, then by group, then lm-eval."""
    rows = [_compared(LABELS.get(name, name), values) for name, values in metrics.get("answers", {}).items()]
    rows += [
        Comparison(label, None, metrics["rewards"][name], None)
        for name, label in LABELS.items()
        if name in metrics.get("rewards", {})
    ]
    if "kl" in metrics:
        rows.append(Comparison("KL from the reference, nats an answer", None, metrics["kl"], None))
    if rows:
        console.show(console.comparison_table(rows, title="Held-out prompts, never trained on"))
    scored = [name for name in ("pass_rate", "sentiment") if name in metrics.get("answers", {})]
    for name in scored:
        groups = [_compared(group, values[name]) for group, values in metrics["groups"].items() if name in values]
        if len(groups) > 1:
            console.show(console.group_table(groups, title=f"{LABELS[name].capitalize()} by group", group="group"))
    tasks = metrics.get("lm_eval")
    if tasks:
        rows = [
            Comparison(f"{task}: {metric}", tasks["base"][task].get(metric), value, None)
            for task, values in tasks["trained"].items()
            for metric, value in values.items()
        ]
        console.show(console.comparison_table(rows, title="lm-eval"))


def show_single(metrics: Mapping[str, Any], *, name: str) -> None:
    """Print the metrics of one policy that is compared with none."""
    rows = [Comparison(LABELS.get(key, key), None, value, None) for key, value in metrics.get("answers", {}).items()]
    rows += [
        Comparison(f"{task}: {metric}", None, value, None)
        for task, values in metrics.get("lm_eval", {}).items()
        for metric, value in values.items()
    ]
    console.show(console.comparison_table(rows, title=f"Held-out prompts: {name}"))


def _compared(label: str, values: Mapping[str, Any]) -> Comparison:
    return Comparison(label, values["base"], values["trained"], values["difference"])
