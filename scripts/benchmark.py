"""Measures kto-lab against the floor of a step and against TRL, side by side, and writes results/benchmarks.

python scripts/benchmark.py steps                     # a step of KTO: the floor, kto-lab, TRL
python scripts/benchmark.py steps --loss dpo --adapter lora --precision bf16
python scripts/benchmark.py sweep                     # nine cells: kto-lab sweep, and nine runs of TRL
python scripts/benchmark.py growth                    # cost against examples, lengths, batch and cells
python scripts/benchmark.py noise                     # what bf16 does to log-ratios and to z0
python scripts/benchmark.py keys "trainer.compile=true"      # what keys of a run cost in a step
python scripts/benchmark.py generation                # greedy answers, beside transformers'
python scripts/benchmark.py reading                   # a million thumbs, beside pyarrow and datasets
python scripts/benchmark.py large                     # a run and an inspection of a million thumbs
python scripts/benchmark.py page                      # the page on what was measured
python scripts/benchmark.py all                       # all of these: hours; with --model tiny, minutes
python scripts/benchmark.py rounding --model smollm2-135m --learning-rate 5e-5    # docs/number_formats.md

TRL is whichever can be imported (put another release on PYTHONPATH); its version is recorded.
"""

import argparse
import importlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from benchmarks.steps import Settings

ROOT = Path(__file__).resolve().parent.parent
# Of this checkout, whichever kto-lab is installed.
sys.path.insert(0, str(ROOT))

Number = TypeVar("Number", int, float)


def main(words: Sequence[str]) -> None:
    """Run a command."""
    if words[:1] == ["contestant"]:
        contestant(words[1])
    elif words[:1] == ["reader"]:
        from benchmarks.reading import contestant as reader

        print(json.dumps(reader(words[1], Path(words[2]))))
    elif words[:1] == ["trl-run"]:
        from benchmarks import trl_run

        trl_run.main(json.loads(words[1]))
    else:
        os.environ["HF_HUB_OFFLINE"] = "1"
        arguments = parser().parse_args(words)
        arguments.run(arguments)


def contestant(job_line: str) -> None:
    """Be a contestant, in a process that the parent has started."""
    from benchmarks.jobs import FLOOR, OURS, Job

    job = Job.from_json(job_line)
    module = {FLOOR: "floor", OURS: "ours"}.get(job.contestant, "theirs")
    importlib.import_module(f"benchmarks.{module}").main(job)


def steps(arguments: argparse.Namespace) -> None:
    """Measure steps."""
    from benchmarks.jobs import CONTESTANTS
    from benchmarks.steps import main

    together = arguments.together or (len(CONTESTANTS) if arguments.model == "tiny" else 3)
    settings = settings_of_steps(arguments, contestants=tuple(arguments.contestants.split(",")), together=together)
    print(main(settings, arguments.out))


def keys(arguments: argparse.Namespace) -> None:
    """Measure what keys cost."""
    from benchmarks.keys import DEFAULT, main

    print(main(settings_of_steps(arguments), arguments.tried or DEFAULT, arguments.out))


def settings_of_steps(arguments: argparse.Namespace, **more: Any) -> "Settings":
    """What both of them are asked for."""
    from benchmarks.steps import Settings

    return Settings(
        model=arguments.model,
        loss=arguments.loss,
        adapter=arguments.adapter,
        precision=arguments.precision,
        dataset=arguments.dataset,
        batch=arguments.batch,
        rounds=arguments.rounds,
        warmup=arguments.warmup,
        threads=arguments.threads,
        overrides=tuple(arguments.override),
        **more,
    )


def generation(arguments: argparse.Namespace) -> None:
    """Measure greedy answers."""
    from benchmarks.generation import Settings, main

    settings = Settings(
        model=arguments.model,
        prompts=arguments.prompts,
        tokens=arguments.tokens,
        rounds=arguments.rounds,
        threads=arguments.threads,
    )
    print(main(settings, arguments.out))


def sweep(arguments: argparse.Namespace) -> None:
    """Measure a sweep."""
    from benchmarks.sweeps import STEPS, Settings, main

    settings = Settings(
        model=arguments.model,
        lambdas=numbers(arguments.lambdas, float),
        rates=numbers(arguments.rates, float),
        steps=arguments.steps or STEPS[arguments.model],
        threads=arguments.threads,
        evaluate=not arguments.no_evaluation,
        overrides=tuple(arguments.override),
    )
    print(main(settings, arguments.out))


def growth(arguments: argparse.Namespace) -> None:
    """Measure growth."""
    from benchmarks.growth import Settings, main

    settings = Settings(
        model=arguments.model,
        batches=numbers(arguments.batches, int),
        scales=numbers(arguments.scales, float),
        examples=numbers(arguments.examples, int),
        cells=numbers(arguments.cells, int),
        records=numbers(arguments.records, int),
        finished=numbers(arguments.finished, int),
        rounds=arguments.rounds,
        threads=arguments.threads,
        overrides=tuple(arguments.override),
    )
    print(main(settings, arguments.out))


def noise(arguments: argparse.Namespace) -> None:
    """Measure the noise of bf16."""
    import torch
    from benchmarks import machine
    from benchmarks.noise import noise as measure

    from kto_lab.files import write_json

    torch.set_num_threads(arguments.threads)
    name = {"smollm2": "smollm2-135m"}.get(arguments.model, arguments.model)
    found = measure(name, batch=arguments.batch, steps=arguments.steps)
    asked = {"batch": arguments.batch, "steps": arguments.steps}
    file = arguments.out / f"noise-{arguments.model}.json"
    write_json(file, {"kind": "noise", "machine": machine.described(), "settings": asked, "noise": found})
    print(file)


def rounding(arguments: argparse.Namespace) -> None:
    """Measure one update in each number format."""
    import torch
    from benchmarks.rounding import Settings, main

    torch.set_num_threads(arguments.threads)
    settings = Settings(
        model=arguments.model,
        adapter=arguments.adapter,
        learning_rate=arguments.learning_rate,
        batch=arguments.batch,
        steps=arguments.steps,
        seed=arguments.seed,
    )
    print(main(settings, arguments.out))


def reading(arguments: argparse.Namespace) -> None:
    """Measure the reading of thumbs."""
    from benchmarks.reading import Settings, main

    formats = tuple(arguments.formats.split(","))
    print(main(Settings(arguments.rows, arguments.characters, formats, arguments.rounds), arguments.out))


def large(arguments: argparse.Namespace) -> None:
    """Measure commands on a large file."""
    from benchmarks.large import Settings, main

    print(main(Settings(arguments.rows, arguments.characters, arguments.threads), arguments.out))


def page(arguments: argparse.Namespace) -> None:
    """Write the page."""
    from benchmarks.page import main

    print(main(arguments.out))


def everything(arguments: argparse.Namespace) -> None:
    """Measure all of it, and write the page."""
    base = ["--model", arguments.model, "--threads", str(arguments.threads), "--out", str(arguments.out)]
    overrides = [f"--override={word}" for word in arguments.override]
    precisions = ["float32", "bf16"]
    runs = [
        ["steps", "--loss", loss, "--adapter", adapter, "--precision", precision, "--dataset", dataset]
        for precision, loss, adapter, dataset in itertools.product(
            precisions, ("kto", "dpo"), ("none", "lora"), ("distinct", "shared")
        )
        # The completions of a pair always share their prompt.
        if not (loss == "dpo" and dataset == "shared")
    ]
    for words in [*runs, ["sweep"], ["growth"], ["keys"]]:
        main([*words, *base, *overrides])
    for words in (["noise"], ["generation"]):
        main([*words, *base])
    for name in ("reading", "large"):
        main([name, "--out", str(arguments.out)])
    page(arguments)


def numbers(text: str, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    """Numbers with commas between; none where there are none."""
    return tuple(kind(part) for part in text.split(",") if part)


def step_parser(shared: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """What is asked of a step."""
    one = argparse.ArgumentParser(add_help=False, parents=[shared])
    one.add_argument("--loss", choices=["kto", "dpo"], default="kto")
    one.add_argument("--adapter", choices=["none", "lora"], default="none")
    one.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    one.add_argument("--dataset", choices=["distinct", "shared"], default="distinct", help="shared: four a prompt")
    one.add_argument("--batch", type=int, default=8, help="sequences per step")
    one.add_argument("--rounds", type=int, default=6, help="measured steps of each contestant")
    one.add_argument("--warmup", type=int, default=2, help="steps before")
    return one


def number_format_parsers(commands: Any, base: argparse.ArgumentParser, out: argparse.ArgumentParser) -> None:
    """What is asked of number formats."""
    bf16 = commands.add_parser("noise", parents=[base], help="what bf16 does to log-ratios and to z0")
    bf16.add_argument("--batch", type=int, default=16, help="examples per step")
    bf16.add_argument("--steps", type=int, default=8, help="of a run in bf16 and of one in float32")
    bf16.set_defaults(run=noise)

    update = commands.add_parser("rounding", parents=[out], help="one update in each number format")
    update.add_argument("--model", choices=["smollm2-135m", "tiny"], default="smollm2-135m")
    update.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    update.add_argument("--adapter", choices=["none", "lora"], default="none")
    update.add_argument("--learning-rate", type=float, default=5e-5)
    update.add_argument("--batch", type=int, default=8, help="examples per step")
    update.add_argument("--steps", type=int, default=1, help="of float32, before formats are compared")
    update.add_argument("--seed", type=int, default=0, help="of the data, the adapters and the places in cells")
    update.set_defaults(run=rounding)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from benchmarks.jobs import CONTESTANTS

    whole = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out = argparse.ArgumentParser(add_help=False)
    out.add_argument("--out", type=Path, default=ROOT / "results" / "benchmarks", help="folder of the results")
    base = argparse.ArgumentParser(add_help=False, parents=[out])
    base.add_argument("--model", choices=["smollm2", "tiny"], default="smollm2")
    base.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    shared = argparse.ArgumentParser(add_help=False, parents=[base])
    shared.add_argument("--override", action="append", default=[], help="a word for kto-lab; may be repeated")
    commands = whole.add_subparsers(required=True)

    one = commands.add_parser("steps", parents=[step_parser(shared)], help="a step, side by side")
    one.add_argument("--contestants", default=",".join(CONTESTANTS), help="any of these, with commas between")
    one.add_argument("--together", type=int, help="contestants in memory at once; default: all of tiny, else 3")
    one.set_defaults(run=steps)

    each = commands.add_parser("keys", parents=[step_parser(shared)], help="what keys of a run cost in a step")
    each.add_argument("tried", nargs="*", help="words for kto-lab, those of one setting in quotes")
    each.set_defaults(run=keys)

    answers = commands.add_parser("generation", parents=[base], help="greedy answers beside transformers'")
    answers.add_argument("--prompts", type=int, default=64)
    answers.add_argument("--tokens", type=int, default=48, help="the most an answer has")
    answers.add_argument("--rounds", type=int, default=3)
    answers.set_defaults(run=generation)

    grid = commands.add_parser("sweep", parents=[shared], help="a grid: one kto-lab sweep, and runs of TRL")
    grid.add_argument("--lambdas", default="1,1.25,1.5", help="values of lambda_D")
    grid.add_argument("--rates", default="0,0.1,0.2", help="shares of wrong thumbs")
    grid.add_argument("--steps", type=int, help="of each cell; default: 50 of tiny, else 3")
    grid.add_argument("--no-evaluation", action="store_true", help="not a second time with kto-lab's evaluation")
    grid.set_defaults(run=sweep)

    more = commands.add_parser("growth", parents=[shared], help="what more of something costs; empty lists are skipped")
    more.add_argument("--batches", default="4,8,16,32", help="sequences per step")
    more.add_argument("--scales", default="0.25,0.5,1", help="of the lengths of texts, for the first of --batches")
    more.add_argument("--examples", default="64,256,1024", help="thumbs of a run")
    more.add_argument("--cells", default="3,9,27", help="of a sweep (the tiny policy)")
    more.add_argument("--records", default="100,1000,10000", help="of a report")
    more.add_argument("--finished", default="100,1000", help="cells of a sweep that finds all done")
    more.add_argument("--rounds", type=int, default=4, help="measured steps")
    more.set_defaults(run=growth)

    number_format_parsers(commands, base, out)
    files = commands.add_parser("reading", parents=[out], help="reading thumbs, beside pyarrow and datasets")
    files.add_argument("--rows", type=int, default=1_000_000)
    files.add_argument("--characters", type=int, default=900, help="of a completion")
    files.add_argument("--formats", default="jsonl,csv,parquet")
    files.add_argument("--rounds", type=int, default=3)
    files.set_defaults(run=reading)

    many = commands.add_parser("large", parents=[out], help="a run and an inspection of many thumbs")
    many.add_argument("--rows", type=int, default=1_000_000)
    many.add_argument("--characters", type=int, default=350, help="of a completion")
    many.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    many.set_defaults(run=large)

    written = commands.add_parser("page", parents=[out], help="the page on what was measured")
    written.set_defaults(run=page)
    commands.add_parser("all", parents=[shared], help="all of these but rounding").set_defaults(run=everything)
    return whole


if __name__ == "__main__":
    main(sys.argv[1:])
