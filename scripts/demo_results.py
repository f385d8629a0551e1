"""What `make demo` reaches, over seeds: keeps the records of finished runs in results/demo and writes the page on them.

for seed in 0 1 2; do kto-lab train model.source=registry seed=$seed run_dir=runs/demo$seed; done
python scripts/demo_results.py runs/demo0 runs/demo1 runs/demo2

Without folders the page is written again from the records that are there.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from kto_lab.evaluation.metrics import bounds
from kto_lab.files import write_json, write_text
from kto_lab.reports.comparisons import Outcome, mean_over_seeds
from kto_lab.runs.record import read_record
from kto_lab.statistics import Estimate, mean_interval

TARGET = Path(__file__).resolve().parent.parent / "results" / "demo"


def main(folders: list[str]) -> None:
    """Keep the records of runs and write the page on all that are kept."""
    # All are read before one is kept.
    for record in [read_record(Path(folder)) for folder in folders]:
        write_json(TARGET / f"seed{record['seeds']['seed']}.json", record)
    write_text(TARGET / "README.md", page(kept()))


def kept() -> list[dict[str, Any]]:
    """The records beside the page, by seed."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in TARGET.glob("seed*.json")]
    return sorted(records, key=lambda record: record["seeds"]["seed"])


def page(records: list[dict[str, Any]]) -> str:
    """The page: one line per seed, their mean, and one line per constraint."""
    first = records[0]
    answers = [record["metrics"]["answers"]["pass_rate"] for record in records]
    lines = [
        "# What `make demo` reaches",
        "",
        f"{first['model']['name']}, aligned with KTO for {first['training']['steps']} steps of "
        f"{first['training']['batch_size']} thumbs ({first['training']['units_available']} in all). Pass rate of "
        f"greedy answers to {answers[0]['base']['n']} held-out prompts, the same for every seed and never trained on; "
        "95 % intervals, of the difference paired by prompt. Written by `scripts/demo_results.py`, whose docstring has "
        "the commands, from the records beside this page.",
        "",
        "| seed | base | trained | difference | KL, nats/answer |",
        "|---|---|---|---|---|",
    ]
    for record, answer in zip(records, answers, strict=True):
        lines.append(
            f"| {record['seeds']['seed']} | {_cell(answer['base'])} | {_cell(answer['trained'])} "
            f"| {_cell(answer['difference'], '+')} | {_cell(record['metrics']['kl'], digits=1)} |"
        )
    mean, gain = (
        mean_over_seeds(
            [Outcome(answer[which]["value"], own=Estimate(**answer[which])) for answer in answers], bounds(column)
        ).estimate.as_dict()
        for which, column in (("trained", "pass_rate"), ("difference", "pass_rate_difference"))
    )
    base = answers[0]["base"]["value"]
    lines += [
        f"| mean of {len(records)} seeds | {base:.2f} | {_cell(mean)} | {_cell(gain, '+')} | |",
        "",
        "The interval of the mean is over new seeds and new prompts: Student's over the seeds, and the runs' own over "
        "their prompts, in quadrature. These records keep no scores of single prompts, without which it is rather too "
        "wide than too narrow (`kto_lab/reports/comparisons.py`).",
        "",
        "## By constraint",
        "",
        "| constraint | prompts | base | trained, mean of seeds |",
        "|---|---|---|---|",
    ]
    gains = []
    for group, values in first["metrics"]["groups"].items():
        trained = np.mean([record["metrics"]["groups"][group]["pass_rate"]["trained"]["value"] for record in records])
        base = values["pass_rate"]["base"]
        gains.append(trained - base["value"])
        lines.append(f"| `{group}` | {base['n']} | {base['value']:.2f} | {trained:.2f} |")
    lines += [
        "",
        f"The {len(gains)} constraints are those that were trained on. Taken over them the gain is "
        f"{_cell(mean_interval(gains).as_dict(), '+')} (Student's over constraints).",
    ]
    lines += ["", "## What it costs", ""]
    ended = [record["metrics"]["answers"]["finished"] for record in records]
    after = " / ".join(f"{values['trained']['value']:.2f}" for values in ended)
    lines.append(
        f"- answers that end by themselves within 48 tokens: {ended[0]['base']['value']:.2f} before, {after} after"
    )
    for name, label in (("byte_perplexity", "perplexity a byte of neutral text"), ("answer_words", "words an answer")):
        lines.append(f"- {label}: {_before_and_after(records, name)}")
    return "\n".join(lines) + "\n"


def _before_and_after(records: list[dict[str, Any]], metric: str) -> str:
    tasks = records[0]["metrics"]["lm_eval"]["base"]
    task = next(task for task in tasks if metric in tasks[task])
    base = tasks[task][metric]["value"]
    trained = [record["metrics"]["lm_eval"]["trained"][task][metric]["value"] for record in records]
    return f"{base:.2f} before, {' / '.join(f'{value:.2f}' for value in trained)} after (lm-eval, `{task}`)"


def _cell(estimate: dict[str, Any], sign: str = "", digits: int = 2) -> str:
    value = f"{estimate['value']:{sign}.{digits}f}"
    if estimate["low"] is None:
        return value
    return f"{value} [{estimate['low']:{sign}.{digits}f}, {estimate['high']:{sign}.{digits}f}]"


if __name__ == "__main__":
    main(sys.argv[1:])
