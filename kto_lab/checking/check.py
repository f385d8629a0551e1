"""`kto-lab check`: whether this machine can run the lab, as a table with a row per check."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.table import Table
from rich.text import Text

from kto_lab import console, narration
from kto_lab.checking import devices, folders, programs
from kto_lab.checking.row import Row
from kto_lab.checking.settings import FULL, QUICK, Limits, Room, Size
from kto_lab.configuration import check_keys
from kto_lab.errors import LabError
from kto_lab.files import cache_dir, write_json
from kto_lab.keys import CHECK
from kto_lab.training.hardware import REPEATING, WORKSPACE

STYLES = {"ok": "green", "failed": "bold red", "note": "dim"}

# A check gives one row, or several that are measured together.
Check = Callable[[], Row | Sequence[Row]]


# What is computed, in modules that are imported only then: a torch that cannot be imported fails its own checks alone.
COMPUTED = {
    "numbers": "numbers.from_float64",
    "bf16-mixed": "numbers.in_bf16",
    "one update in bf16-mixed": "formats.bf16",
    "architectures": "layouts.architectures",
    "large vocabularies": "vocabularies.heads",
    "fast path": "kernels.fast_path",
    "ten steps": "curves.ten_steps",
    "repeats": "numbers.repeats",
    "resume": "endurance.resume",
    "memory": "endurance.growth",
    "greedy answers": "answers.greedy",
    "lm-eval": "answers.lm_eval",
    "reference store": "answers.store",
    "several processes": "processes.several",
    "torch.compile": "speed.torch_compile",
    "speed": "speed.over_the_floor",
    "waits": "speed.waits",
    "TRL": "speed.trl",
}


def checks(runs: Path, room: Room, limits: Limits, size: str) -> dict[str, Check]:
    """Every check, by what it is about, in the order of the table.

    Args:
        runs: where runs will be kept.
        room: gigabytes that must be free.
        limits: of differences.
        size: of what is computed: "quick", "full" or "auto".
    """
    return {
        "Python": programs.python,
        "torch": programs.torch,
        "lightning": programs.lightning,
        "transformers": programs.transformers,
        "other packages": programs.others,
        "devices": devices.devices,
        "GPUs": devices.gpus,
        "cache folder": partial(folders.room, "cache folder", cache_dir(), room.cache, key="KTO_LAB_CACHE"),
        "run folder": partial(folders.room, "run folder", runs, room.runs, key="runs_dir"),
        "leases": partial(folders.locks, runs),
        **{about: partial(_computed, where, size, limits) for about, where in COMPUTED.items()},
        "git": programs.git,
        "hub": programs.hub,
        "Weights & Biases": programs.wandb,
        "Slurm": programs.slurm,
    }


def check(cfg: DictConfig) -> None:
    """Check the machine, show a row per check, and write them as JSON where a file is named.

    Raises:
        LabError: a check failed; the message says which, and what to do.
    """
    check_keys(cfg, CHECK)
    # cuBLAS reads it with its first product, and a run that must repeat asks for it.
    os.environ.setdefault(WORKSPACE, REPEATING[0])
    made = checks(Path(cfg.runs_dir), instantiate(cfg.room), instantiate(cfg.limits), cfg.size)
    rows: list[Row] = []
    with narration.progress("checks", len(made)) as advance:
        for about, one in made.items():
            rows += _rows(about, one)
            advance(1, about)
    console.show(table(rows))
    if cfg.output is not None:
        write_json(Path(cfg.output), {"checks": [row.as_dict() for row in rows]})
        console.show_files({"as JSON": Path(cfg.output)})
    if failed := [row for row in rows if row.verdict == "failed"]:
        said = [f"  {row.name}: {row.measured}. {row.mend}" for row in failed]
        raise LabError("\n".join([f"{len(failed)} of {len(rows)} checks failed.", *said]))


def _computed(where: str, size: str, limits: Limits) -> Row | Sequence[Row]:
    """A check by the name of its module and function."""
    module, _, name = where.partition(".")
    made: Row | Sequence[Row] = getattr(import_module(f"kto_lab.checking.{module}"), name)(size_of(size), limits)
    return made


def size_of(size: str) -> Size:
    """The size of what is computed; "auto" is full on a GPU."""
    from kto_lab.checking.policies import device

    if size == "auto":
        size = "full" if device().type == "cuda" else "quick"
    return {"quick": QUICK, "full": FULL}[size]


def _rows(about: str, one: Check) -> Sequence[Row]:
    """What a check says. One that cannot be made has failed, and the others are made all the same."""
    try:
        found = one()
    except Exception as error:
        return [Row(about, f"{type(error).__name__}: {error}", "can be checked", "failed", "See the error.")]
    return [found] if isinstance(found, Row) else found


def table(rows: Sequence[Row]) -> Table:
    """The checks as a table, in the style of the other commands' tables."""
    made = console.plain_table("This machine")
    made.add_column("check", no_wrap=True)
    made.add_column("measured", ratio=1, overflow="fold")
    made.add_column("limit", overflow="fold", max_width=18)
    made.add_column("", no_wrap=True)
    for row in rows:
        style = STYLES[row.verdict]
        verdict = "" if row.verdict == "note" else row.verdict
        made.add_row(
            row.name,
            Text(row.measured, "" if row.verdict == "ok" else style),
            Text(row.limit, "dim"),
            Text(verdict, style),
        )
    return made
