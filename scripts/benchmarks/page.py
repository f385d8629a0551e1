"""`benchmark.py page`: results/benchmarks/README.md and its figure, from the JSON files beside them alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.jobs import ABOUT, CONTESTANTS, FLOOR, OURS, TRL, TRL_DEFAULT, TRL_PRECOMPUTED
from benchmarks.showing import number, over_ours, ranged, title
from benchmarks.sweeps import WITH_EVALUATION
from kto_lab.files import atomic_path, write_text

PAGE, FIGURE = "README.md", "steps.svg"
COLOURS = {FLOOR: "#999999", OURS: "#0072b2", TRL: "#d55e00", TRL_DEFAULT: "#e69f00", TRL_PRECOMPUTED: "#cc79a7"}
FLAGS = ("model", "loss", "adapter", "precision", "dataset", "batch", "rounds", "warmup")
OTHER_TRL = """\
TRL is whichever can be imported. The tests are pinned to an older one; for the one named above:
`pip install --no-deps --target FOLDER trl==VERSION`, and `PYTHONPATH=FOLDER` before a command."""
HOW = """\
Every contestant is a process of its own; they take turns, one step each, on the same examples in the same order, and
wait while another works. Every ratio is of two steps of one round; the median over the rounds is given, and in brackets
the smallest and the largest. Seconds are of the whole step as the user's loop takes it: data, KL estimate, forward,
backward, clipping, optimiser, callbacks. The floor is less than a step: forward and backward of the policy on the real
tokens, head on completion positions only, no padding, no reference, no KL estimate, no optimiser; it is the fastest of
several ways of doing that, tried in the warm-up. It runs a prompt with each of its completions; kto-lab runs it once
where it can, and may so end up below the floor. kto-lab's reference log-probs were in its store, as in every run of a
sweep but the first; what filling it costs is said below each table. `tokens fed` counts what goes through the network
in all passes, over the real tokens of the step. Peak memory is the largest resident size of the process."""


def main(folder: Path) -> Path:
    """Write the page.

    Raises:
        SystemExit: nothing was measured.
    """
    results = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    if not results:
        raise SystemExit(f"There are no results in {folder}. Run `python scripts/benchmark.py steps` first.")
    found = {
        kind: [one for one in results if one.get("kind") == kind]
        for kind in ("steps", "noise", "sweep", "keys", "generation", "growth")
    }
    lines = ["# Speed and memory: the floor, kto-lab, TRL", ""]
    lines += [
        "Written by `python scripts/benchmark.py page` from the JSON files beside this page; `python "
        "scripts/benchmark.py all` measures everything anew.",
        "",
        *machines([result for shown in found.values() for result in shown]),
    ]
    if found["steps"]:
        draw(found["steps"], folder / FIGURE)
        lines += [f"![Seconds of a step over the floor's]({FIGURE})", "", *verdicts(found["steps"], found["sweep"])]
        lines += [
            "## How a step is measured",
            "",
            HOW,
            "",
            OTHER_TRL,
            "",
            *(f"- **{name}**: {ABOUT[name]}" for name in CONTESTANTS),
            "",
        ]
        lines += ["## A step", ""]
    for result in found["steps"]:
        lines += steps_table(result)
    for result in found["noise"]:
        lines += noise_table(result)
    for result in found["sweep"]:
        lines += sweep_table(result)
    for result in found["keys"]:
        lines += keys_table(result)
    for result in found["generation"]:
        lines += generation_table(result)
    for result in found["growth"]:
        lines += growth_tables(result)
    write_text(folder / PAGE, "\n".join(lines).rstrip() + "\n")
    return folder / PAGE


def machines(results: Sequence[dict[str, Any]]) -> list[str]:
    """What it was measured on; each machine or set of versions once."""
    lines = []
    for result in results:
        found = result["machine"]
        sets = ", ".join(found["instruction_sets"]) or "none of AVX2, AVX-512, AMX"
        versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        gpu = f"; {found['gpu']}" if found["gpu"] else ""
        lines.append(
            f"Machine: {found['cpu']}, {found['cores']} cores ({sets}), {found['memory_gib']} GiB{gpu}. {versions}."
        )
    return [line for one in dict.fromkeys(lines) for line in (one, "")]


def name_of(result: dict[str, Any]) -> str:
    """A measurement of steps in a line."""
    found = result["machine"]["gpu"]
    return title(result["settings"]) + (f", {found}" if found else "")


def verdicts(measured: Sequence[dict[str, Any]], sweeps: Sequence[dict[str, Any]]) -> list[str]:
    """Who is faster, by how much, and what of it is waste: a row a measurement."""
    lines = [
        "## In short",
        "",
        "| | kto-lab over the floor | TRL over kto-lab | TRL, precomputed, over kto-lab | memory of TRL over kto-lab |",
        "|---|---|---|---|---|",
    ]
    for result in measured:
        every = result["contestants"]
        if OURS not in every:
            continue
        cells = [ranged(every[OURS]["over"].get(FLOOR, {}))]
        cells += [ranged(every[name]["over"].get(OURS, {})) if name in every else "" for name in (TRL, TRL_PRECOMPUTED)]
        memory = every[TRL]["peak_memory"] / every[OURS]["peak_memory"] if TRL in every else None
        cells.append("" if memory is None else f"{memory:.2f}")
        lines.append(f"| {name_of(result)} | " + " | ".join(cells) + " |")
    lines.append("")
    slower = [
        f"{name_of(result)}: {name}"
        for result in measured
        for name in (TRL, TRL_DEFAULT, TRL_PRECOMPUTED)
        if (one := result["contestants"].get(name)) and one["over"].get(OURS, {}).get("low", 2.0) < 1.0
    ]
    lines += [
        "Where kto-lab was not faster in every round: " + ("; ".join(slower) if slower else "nowhere") + ".",
        "",
        *why(measured),
    ]
    for result in sweeps:
        ours, theirs = result["ways"][OURS], result["ways"][TRL]["seconds"]
        ends = ", ".join(f"{one / theirs:.2f}" for one in sorted(ours["each"]))
        lines += [
            f"A sweep of {result['cells']} cells ({result['model']}) takes {ours['seconds'] / theirs:.2f} [{ends}] of "
            "the time of as many runs of TRL.",
            "",
        ]
    return lines


def why(measured: Sequence[dict[str, Any]]) -> list[str]:
    """Where the difference comes from, as far as it was counted."""
    both = [one["contestants"] for one in measured if OURS in one["contestants"] and TRL in one["contestants"]]
    if not both:
        return []
    fed = {name: median(one[name]["positions_per_token"] for one in both) for name in (OURS, TRL)}
    padding = {name: median(one[name]["padding"] for one in both) for name in (OURS, TRL)}
    return [
        f"Why: over the measurements (medians), TRL feeds {fed[TRL]:.1f} token positions for each real token of a "
        f"step, kto-lab {fed[OURS]:.1f}; of what is fed, {padding[TRL]:.0%} and {padding[OURS]:.0%} is padding. The "
        "rest is the head, which on a CPU TRL runs on every position, and the way of execution. Where kto-lab is above "
        "the floor, that is the KL estimate of KTO (a forward pass without gradient over the mismatched completions), "
        "the optimiser, and the loop around them.",
        "",
    ]


def steps_table(result: dict[str, Any]) -> list[str]:
    """A measurement of steps."""
    facts, settings = result["data"], result["settings"]
    lines = [
        f"### {name_of(result)}",
        "",
        f"{facts['tokens_a_step']:.0f} real tokens per step, {facts['completion_tokens_a_step']:.0f} of them of "
        f"completions; {settings['warmup']} steps of warm-up, then {settings['rounds']} rounds. Load of the machine "
        f"before: {result['machine']['load_average']:g}.",
        "",
        "| | s a step | tokens/s | over the floor | over kto-lab | peak GiB | padding | tokens fed | s to first step |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in result["contestants"].items():
        memory = f"{found['peak_memory'] / 2**30:.2f}"
        if found["peak_memory_cuda"]:
            memory += f" + {found['peak_memory_cuda'] / 2**30:.2f} GPU"
        cells = [
            ranged(found["seconds"]),
            f"{found['tokens_per_second']:.0f}",
            ranged(found["over"].get(FLOOR, {})),
            ranged(found["over"].get(OURS, {})),
            memory,
            f"{found['padding']:.1%}",
            f"{found['positions_per_token']:.2f}",
            f"{found['start_seconds'] + found['first_step_seconds']:.1f}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines.append("")
    if FLOOR in result["contestants"]:
        ways = result["contestants"][FLOOR]["ways"].items()
        tried = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in ways)
        lines += [f"The floor's way: {result['contestants'][FLOOR]['way']} (best of the warm-up: {tried})."]
    if empty := result["empty_store"]:
        whole = empty["start_seconds"] + empty["first_step_seconds"]
        lines += [f"kto-lab's first step ended after {whole:.1f} s when its store was empty."]
    lines += [f"Measured by `{command(result)}`."]
    if settings["overrides"]:
        lines += ["kto-lab with " + " ".join(f"`{word}`" for word in settings["overrides"]) + "."]
    return [*lines, ""]


def command(result: dict[str, Any]) -> str:
    """What measured it."""
    flags = {key: result["settings"][key] for key in FLAGS} | {"contestants": ",".join(result["contestants"])}
    return "python scripts/benchmark.py steps " + " ".join(f"--{key} {value}" for key, value in flags.items())


def noise_table(result: dict[str, Any]) -> list[str]:
    """What bf16 does to the numbers, which belongs beside its speed."""
    found, settings = result["noise"], result["settings"]
    start, z0 = found["logratio_at_start_max"], found["z0"]
    lines = [
        f"## The noise of bf16, {found['model']}",
        "",
        f"Two runs of KTO, {settings['steps']} steps of {settings['batch']} examples at a learning rate of "
        f"{found['learning_rate']:g}, that differ in the number format alone. Largest log-ratio before the first step: "
        f"{start['same_batches']:.2g} nats in the batches of the reference, {start['other_batches']:.2g} in others. Of "
        f"one update, the log-ratio of a completion ({found['tokens_per_completion']:.0f} tokens) is "
        f"{found['signal_per_sequence']:.3g} nats, and bf16 is off by {found['noise_per_sequence']:.3g} (both root "
        "mean square).",
        "",
        "| step | " + " | ".join(str(step + 1) for step in range(len(z0["float32"]))) + " |",
        "|---|" + "---|" * len(z0["float32"]),
    ]
    for name, words in (
        ("float32", "z0 in float32"),
        ("bf16", "z0 in bf16"),
        ("stderr", "standard error of float32's"),
    ):
        lines.append(f"| {words} | " + " | ".join(f"{value:.3g}" for value in z0[name]) + " |")
    return [*lines, ""]


def sweep_table(result: dict[str, Any]) -> list[str]:
    """A measurement of a sweep."""
    lines = [
        f"## A sweep of {result['cells']} cells, {result['model']}",
        "",
        f"lambda_D and label noise are varied; each cell has {result['steps']} steps of {result['batch']} examples, "
        "and saves its policy. One `kto-lab sweep` in one process with an empty store, against a process of TRL for "
        "each cell; the sweep is made before those and after them, and the mean is given, with both in brackets.",
        "",
        "| | s | over kto-lab | peak GiB |",
        "|---|---|---|---|",
    ]
    for name, found in result["ways"].items():
        memory = found["peak_memory"] / 2**30
        lines.append(f"| {name} | {found['seconds']:.1f} | {over_ours(result, name)} | {memory:.2f} |")
    flags = f"--model {result['model']} --steps {result['steps']}"
    flags += "".join(f" --{key} {','.join(map(str, result[key]))}" for key in ("lambdas", "rates"))
    flags += "" if WITH_EVALUATION in result["ways"] else " --no-evaluation"
    return [*lines, "", f"Measured by `python scripts/benchmark.py sweep {flags}`.", ""]


def keys_table(result: dict[str, Any]) -> list[str]:
    """What keys cost."""
    settings, rows = result["settings"], result["keys"]
    tried = " ".join(f'"{row["setting"]}"' for row in rows[1:])
    flags = " ".join(f"--{key} {settings[key]}" for key in FLAGS)
    return [
        f"## What keys cost: {name_of(result)}",
        "",
        "Of kto-lab alone, in steps after the warm-up; what compiling takes before the first step is not in them. The "
        "peak is of the process in those steps.",
        "",
        *rows_table(rows),
        f"Measured by `python scripts/benchmark.py keys {flags} {tried}`.",
        "",
    ]


def generation_table(result: dict[str, Any]) -> list[str]:
    """Answers of kto-lab beside those of transformers."""
    settings = result["settings"]
    flags = " ".join(f"--{key} {settings[key]}" for key in ("model", "prompts", "tokens", "rounds"))
    return [
        f"## Greedy answers, {settings['model']}, {settings['prompts']} prompts, at most {settings['tokens']} tokens",
        "",
        *rows_table(result["generation"]),
        f"Measured by `python scripts/benchmark.py generation {flags}`.",
        "",
    ]


def rows_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Rows that have the same columns."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    return [*lines, *("| " + " | ".join(map(number, row.values())) + " |" for row in rows), ""]


def growth_tables(result: dict[str, Any]) -> list[str]:
    """A measurement of growth."""
    lines = [f"## Growth, {result['settings']['model']}", ""]
    lines += [
        "KTO, float32, full fine-tuning. Sweeps and reports are of the tiny policy. Measured by `python "
        f"scripts/benchmark.py growth --model {result['settings']['model']}`, a part at a time: an empty list leaves a "
        "part out, as in `--cells ''`.",
        "",
    ]
    for name, rows in result["growth"].items():
        lines += [f"### {name.capitalize()}", "", *rows_table(rows)]
    return lines


def draw(measured: Sequence[dict[str, Any]], file: Path) -> None:
    """A bar a contestant and measurement: seconds of a step over the floor's, with the range over rounds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    measured = [one for one in measured if FLOOR in one["contestants"]]
    names = [name for name in CONTESTANTS if name != FLOOR and any(name in one["contestants"] for one in measured)]
    figure, axes = plt.subplots(figsize=(8, 0.8 + (0.25 * len(names) + 0.25) * max(1, len(measured))))
    height = 0.8 / max(1, len(names))
    for row, name in enumerate(names):
        for place, result in enumerate(measured):
            if name in result["contestants"]:
                over = result["contestants"][name]["over"][FLOOR]
                ends = [[over["median"] - over["low"]], [over["high"] - over["median"]]]
                at = place + (row - (len(names) - 1) / 2) * height
                axes.barh(
                    at, over["median"], height * 0.9, xerr=ends, color=COLOURS[name], label=name, ecolor="#333333"
                )
    axes.axvline(1, color=COLOURS[FLOOR], linestyle="--", linewidth=1)
    axes.set_yticks(range(len(measured)), [label(one) for one in measured], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("seconds of a step over the floor's (median of rounds, and range)")
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    axes.legend(
        handles.values(),
        handles.keys(),
        fontsize=7,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(names),
    )
    axes.spines[["top", "right"]].set_visible(False)
    with matplotlib.rc_context({"svg.hashsalt": "benchmark"}), atomic_path(file) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


def label(result: dict[str, Any]) -> str:
    """A measurement of steps in three short lines."""
    loss, adapter, precision, model, prompts, *_ = name_of(result).split(", ")
    return f"{loss}, {adapter}\n{precision}, {model}\n{prompts}"
