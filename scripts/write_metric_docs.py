"""Writes docs/metrics.md from the declarations in kto_lab/evaluation/metrics.py, so that it cannot drift.

python scripts/write_metric_docs.py
"""

from pathlib import Path

from kto_lab.evaluation.measuring import Metric
from kto_lab.evaluation.metrics import ENDS, SECTIONS
from kto_lab.files import write_text

TARGET = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"
SIDES = {"up": "more", "down": "less", None: "–"}

PREAMBLE = """\
# Metrics

<!-- Written by scripts/write_metric_docs.py from kto_lab/evaluation/metrics.py. Do not edit: `make docs`. -->

Names are those of a report's columns, of the `metrics` of tables and the axes of figures, and of W&B. *Better* says
which side of a metric is: where neither is, nothing is printed bold, and nothing can be chosen by it. Of metrics *per
prompt* a run keeps the score of each held-out prompt (`evaluation/scores.json`), so that settings can be chosen by them
on the validation prompts (`choose.by`, and the `metric` of a search).

A metric of your own is one declaration in a module of yours, which `evaluation.metrics=[my_metrics.EXCLAMATIONS]`
names; the docstring of [metrics.py](../kto_lab/evaluation/metrics.py) tells how. Records carry its declaration, and the
better sides that lm-eval's tasks give their metrics, so reports need neither the module nor the task.
"""


def main() -> None:
    """Write the page."""
    write_text(TARGET, page())


def page() -> str:
    """docs/metrics.md as it should be."""
    parts = [PREAMBLE]
    for heading, metrics in SECTIONS.items():
        parts.append(f"## {heading}\n")
        parts.append("| name | what it is | unit | better | range | per prompt |\n|---|---|---|---|---|---|")
        parts.append("\n".join(map(_row, metrics)) + "\n")
    parts.append("## Ends of names\n")
    parts.append("| end | in words |\n|---|---|")
    parts.append("\n".join(f"| `{end}` | {words.removeprefix(', ')} |" for end, words in ENDS.items()) + "\n")
    parts.append(
        "A name alone is of the trained policy. `_low`, `_high` and `_n` are the ends of its 95 % interval and the\n"
        "number of prompts behind it. `groups.<group>.` before a name is of the prompts of one group. Steps also have\n"
        "the rewards of each class and their margin, of the examples of the step.\n"
    )
    return "\n".join(parts)


def _row(metric: Metric) -> str:
    per_prompt = "yes" if metric.per_prompt else "no"
    cells = [f"`{metric.name}`", metric.about, metric.unit or "–", SIDES[metric.better], _range(metric), per_prompt]
    return f"| {' | '.join(cells)} |"


def _range(metric: Metric) -> str:
    low, high = metric.bounds
    if low is None and high is None:
        return "–"
    return f"from {low:g}" if high is None else f"to {high:g}" if low is None else f"{low:g} to {high:g}"


if __name__ == "__main__":
    main()
