"""`benchmark.py steps`: seconds of a step, side by side.

Every contestant is a process of its own, takes the same steps on the same tokens, and waits while another works. Each
ratio is of two contestants in one round, since a machine's speed drifts; what is reported is the median over the
rounds, with the smallest and the largest. Contestants that do not fit the memory together run in groups, each with the
floor and kto-lab.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import data, machine, showing
from benchmarks.contestants import Contestant, start_once, take_turns
from benchmarks.jobs import ABOUT, CONTESTANTS, FLOOR, MAX_LENGTH, OURS, Job
from kto_lab.files import write_json

# Data set to completions per prompt.
DATA = {"distinct": 1, "shared": 4}


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        model: "smollm2" or "tiny".
        loss: "kto" or "dpo".
        adapter: "none" or "lora".
        precision: "float32" or "bf16".
        dataset: "distinct" (one completion per prompt) or "shared" (four); pairs always share theirs.
        batch: sequences per step: thumbs, or two per pair.
        rounds: measured steps of each contestant.
        warmup: steps before.
        threads: of torch.
        contestants: who takes part.
        together: how many are in memory at once.
        scale: of all lengths.
        overrides: more words for `kto-lab train`.
    """

    model: str
    loss: str
    adapter: str
    precision: str
    dataset: str
    batch: int
    rounds: int
    warmup: int
    threads: int
    contestants: tuple[str, ...] = CONTESTANTS
    together: int = 3
    scale: float = 1.0
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if self.rounds < 1 or self.warmup < 1 or self.batch < 4 or self.batch % 4:
            raise SystemExit("--rounds and --warmup must be at least 1, and --batch a multiple of 4.")
        if unknown := set(self.contestants) - set(CONTESTANTS):
            raise SystemExit(f"There is no contestant {sorted(unknown)}; there are {', '.join(CONTESTANTS)}.")

    @property
    def name(self) -> str:
        """Of the file that holds the result."""
        parts = ["steps", self.model, self.loss, self.adapter, self.precision, self.dataset]
        return "-".join([*parts, f"batch{self.batch}", f"lengths{self.scale:g}"])


def main(settings: Settings, target: Path) -> Path:
    """Measure, print a table, and save it."""
    result = measure(settings)
    showing.show_steps(result)
    file = target / f"{settings.name}-{'cuda' if result['machine']['gpu'] else 'cpu'}.json"
    write_json(file, result)
    return file


def measure(settings: Settings) -> dict[str, Any]:
    """Measure the steps of all contestants; see `summary` for what comes back."""
    described = machine.described()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        job, facts = prepared(settings, Path(folder))
        rounds: dict[str, list[Contestant]] = {}
        starts: dict[str, Any] = {}
        if OURS in settings.contestants:
            starts = start_once(replace(job, contestant=OURS, folder=f"{folder}/{OURS}"))
        for number, group in enumerate(groups(settings.contestants, settings.together)):
            jobs = [
                replace(job, contestant=name, folder=f"{folder}/{number}-{name}", forgets=name == FLOOR)
                for name in group
            ]
            for contestant in take_turns(jobs, settings.warmup + settings.rounds):
                rounds.setdefault(contestant.job.contestant, []).append(contestant)
    return {
        "kind": "steps",
        "machine": described,
        "settings": {name: value for name, value in vars(settings).items() if name != "contestants"},
        "data": facts,
        "contestants": {name: summary(name, rounds, settings.warmup) for name in settings.contestants},
        "empty_store": starts and {key: starts[key] for key in ("start_seconds", "first_step_seconds")},
    }


def prepared(settings: Settings, folder: Path) -> tuple[Job, dict[str, Any]]:
    """Write model and data, and say what they are."""
    tokenizer = data.save_model(settings.model, folder / "model")
    thumbs, steps = folder / "thumbs.jsonl", folder / "steps.json"
    pairs = settings.loss == "dpo"
    count = settings.warmup + settings.rounds
    completions = 2 if pairs and settings.dataset == "distinct" else DATA[settings.dataset]
    data.write_thumbs(
        thumbs,
        tokenizer,
        prompts=count * settings.batch // completions,
        completions=completions,
        scale=settings.scale,
    )
    units = settings.batch // 2 if pairs else settings.batch
    max_length = max(16, round(MAX_LENGTH * settings.scale))
    words = data.overrides(
        model=folder / "model",
        thumbs=thumbs,
        run_dir=folder / "unused",
        loss=settings.loss,
        adapter=settings.adapter,
        batch=units,
        steps=count,
        max_length=max_length,
    )
    cfg = data.composed([*words, *settings.overrides])
    facts = data.write_steps(steps, cfg, tokenizer)
    own = (f"{data.STORE_KEY}.folder={folder / 'store'}",) if data.has_store() else ()
    job = Job(
        contestant=OURS,
        folder=str(folder / "unused"),
        model=str(folder / "model"),
        thumbs=str(thumbs),
        steps=str(steps),
        loss=settings.loss,
        adapter=settings.adapter,
        precision=settings.precision,
        threads=settings.threads,
        batch=units,
        max_length=max_length,
        warmup=settings.warmup,
        overrides=(*own, *settings.overrides),
    )
    return job, facts


def groups(contestants: Sequence[str], together: int) -> Iterator[list[str]]:
    """The contestants in groups of at most so many, each with the floor and kto-lab."""
    always = [name for name in (FLOOR, OURS) if name in contestants]
    others = [name for name in contestants if name not in always]
    room = max(1, together - len(always))
    for at in range(0, max(1, len(others)), room):
        yield [*always, *others[at : at + room]]


def summary(name: str, rounds: dict[str, list[Contestant]], warmup: int) -> dict[str, Any]:
    """A contestant's figures.

    Returns:
        `seconds` a step (median, range, every one), `tokens_per_second` (real ones), `over` each other contestant the
        ratio of seconds within a round, `peak_memory` in bytes, `padding` as a share of the positions fed,
        `positions_per_token` over all passes, and what it took to start.
    """
    runs = rounds[name]
    steps = [step for run in runs for step in run.steps[warmup:]]
    seconds = [step["seconds"] for step in steps]
    positions, padding = (sum(step[key] for step in steps) for key in ("positions", "padding"))
    tokens = sum(step["tokens"] for step in steps)
    more = {key: steps[-1][key] for key in ("way", "ways") if key in steps[-1]}
    return more | {
        "about": ABOUT[name],
        "device": runs[0].facts["device"],
        "seconds": spread(seconds) | {"each": seconds},
        "tokens_per_second": tokens / sum(seconds),
        "over": {other: spread(ratios(runs, rounds[other], warmup)) for other in rounds if other != name},
        "peak_memory": max(run.steps[-1]["peak"] for run in runs),
        "peak_memory_cuda": max(run.steps[-1].get("peak_cuda", 0) for run in runs),
        "padding": padding / positions,
        "positions_per_token": positions / tokens,
        "start_seconds": runs[0].facts["start_seconds"],
        "first_step_seconds": runs[0].steps[0]["seconds"],
        "loss": [step["loss"] for step in runs[0].steps if "loss" in step],
    }


def ratios(ours: Sequence[Contestant], others: Sequence[Contestant], warmup: int) -> list[float]:
    """Seconds of one over seconds of another, round by round, in the groups that have both."""
    found = []
    for run in ours:
        for other in others:
            if Path(run.job.folder).name.split("-")[0] == Path(other.job.folder).name.split("-")[0]:
                both = zip(run.steps[warmup:], other.steps[warmup:], strict=True)
                found += [mine["seconds"] / theirs["seconds"] for mine, theirs in both]
    return found


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and range; empty where there is nothing."""
    return {"median": median(values), "low": min(values), "high": max(values), "n": len(values)} if values else {}
