"""Small runs for the tests: a file of thumbs, and `kto-lab train` on a tiny policy, in this process."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from kto_lab import cli
from kto_lab.runs.command import train
from kto_lab.training.callbacks import METRICS
from kto_lab.training.update_rule import UpdateRule

# A tiny policy, batches of four, and nothing evaluated.
SMALL = [
    "model=tiny",
    "model.weights=random",
    "feedback=file",
    "trainer=cpu",
    "evaluation=none",
    "optimization.batch_size=4",
    "optimization.learning_rate=1e-3",
]


def thumbs(prompts: int = 24) -> list[dict[str, Any]]:
    """Sums with a right and a wrong answer; every fourth prompt is held out."""
    rows = []
    for number in range(prompts):
        split = "test" if number % 4 == 3 else "train"
        for answer, label in ((str(3 * number), True), (str(3 * number + 10), False)):
            prompt = f"{number}+{2 * number}="
            rows.append({"prompt": prompt, "completion": answer, "label": label, "split": split})
    return rows


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def overrides(folder: Path, *more: str) -> list[str]:
    """The command line of a small run into `folder`/run, on thumbs and with a reference store beside it."""
    file = folder / "thumbs.jsonl"
    if not file.exists():
        write_jsonl(file, thumbs())
    own = [f"feedback.path={file}", "feedback.columns.split=split", f"run_dir={folder / 'run'}"]
    store = [f"reference_store.folder={folder / 'store'}"]
    return instead([*SMALL, *own, *store], *more)


def instead(words: Iterable[str], *more: str) -> list[str]:
    """A command line with more words, each in the place of an earlier one that sets its key."""
    keys = {word.partition("=")[0] for word in more}
    return [*(word for word in words if word.partition("=")[0] not in keys), *more]


def configuration(folder: Path, *more: str) -> DictConfig:
    return composed(overrides(folder, *more))


def composed(words: list[str], *, name: str = "train") -> DictConfig:
    with initialize_config_dir(str(cli.config_dir()), version_base="1.3"):
        return compose(name, words)


def adamw() -> UpdateRule:
    """The default optimiser and schedule."""
    return UpdateRule.of(composed([]))


def options(group: str) -> list[str]:
    """The options of a config group."""
    return sorted(path.stem for path in (cli.config_dir() / group).glob("*.yaml"))


def run(folder: Path, *more: str) -> Path:
    """A small run; returns its folder."""
    return train(configuration(folder, *more))


def metrics(run_folder: Path) -> list[dict[str, str]]:
    with (run_folder / METRICS).open() as file:
        return list(csv.DictReader(file))
