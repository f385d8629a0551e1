"""What two processes find of models in shards is what one finds of the whole. gloo on CPUs; nothing here saw a GPU."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kto_lab.runs import command
from kto_lab.runs.command import train
from kto_lab.runs.record import read_record
from tests.small_runs import composed, instead, metrics, overrides
from tests.training.pair_of_processes import Job, run_as_pair

pytestmark = pytest.mark.slow

STEPS = ("optimization.max_steps=3", "optimization.batch_size=5", "optimization.micro_batch_tokens=16")
EVALUATED = ("evaluation=quick", "evaluation.reward_examples=8", "evaluation.kl_prompts=3")
# One process has an answer to give and a document to read, the other none.
FEW = (
    "evaluation.prompts=1",
    "evaluation.max_new_tokens=3",
    "evaluation.lm_eval=[kto_lab_neutral]",
    "evaluation.lm_eval_limit=1",
)
FSDP = ("trainer=fsdp", "trainer.accelerator=cpu")
ADAPTED = ("adapter=lora", "adapter.rank=4")


def words(folder: Path, name: str, base: Path) -> list[str]:
    """The command line of a run into folder/name/run; `base` holds an adapter."""
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    if name == "checks":
        own = ["scale=tiny", "trainer.precision=bf16-mixed", "evaluation.lm_eval=[kto_lab_checks]", *STEPS]
        own += ["evaluation.lm_eval_limit=5", "evaluation.max_new_tokens=4", "evaluation.prompts=5"]
        own += ["evaluation.kl_prompts=3", "evaluation.reward_examples=8", "trainer.accelerator=cpu"]
        return [*own, f"run_dir={folder / 'run'}", "reference_store=none"]
    more = {
        "another reference": ("reference=model", "model@reference.model=tiny"),
        "adapter": ("model.weights=arithmetic", *ADAPTED),
        "further": ("model=hf", f"model.name={base}", "model.saved_adapter=keep", *ADAPTED),
    }[name]
    precision = "bf16-mixed" if name == "further" else "32-true"
    line = overrides(folder, f"trainer.precision={precision}", *STEPS, *EVALUATED, *FEW, *more)
    return [word for word in line if name != "further" or not word.startswith("model.weights")]


NAMES = ("checks", "another reference", "adapter", "further")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Folders of runs of one process and of two."""
    alone, pair = (tmp_path_factory.mktemp(name) for name in ("alone", "pair"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "plot_curves", lambda *_: None)
        for name in ("adapter", *(other for other in NAMES if other != "adapter")):
            train(composed(words(alone, name, alone / "adapter" / "run" / "policy")))
    base = alone / "adapter" / "run" / "policy"
    said = run_as_pair([Job(instead(words(pair, name, base), *FSDP)) for name in NAMES], pair, timeout=500)
    assert "in shards" in said and "whole" not in said
    yield alone, pair


def assert_near(mine: Any, theirs: Any, off: float, name: str = "") -> None:
    """Two values as a record holds them differ by no more than `off`."""
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys(), name
        for key, value in mine.items():
            assert_near(value, theirs[key], off, f"{name}.{key}")
    elif isinstance(mine, float):
        assert theirs == pytest.approx(mine, rel=off, abs=off), name
    else:
        assert mine == theirs, name


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_and_evaluate_in_shards_what_one_does(runs: tuple[Path, Path], name: str) -> None:
    one, two = (folder / name / "run" for folder in runs)
    rows, others = metrics(one), metrics(two)
    assert len(rows) == len(others) == 3
    for row, other in zip(rows, others, strict=True):
        assert float(other["loss"]) == pytest.approx(float(row["loss"]), abs=1e-3)
        assert float(other["grad_norm"]) == pytest.approx(float(row["grad_norm"]), rel=5e-3)
    mine, theirs = read_record(one), read_record(two)
    # In bf16 a float32 sum of the backward pass in another order makes another number here and there.
    assert_near(mine["metrics"], theirs["metrics"], 1e-2 if name in ("checks", "further") else 2e-4)
    # Nothing was trained yet.
    before, there = (folder / "evaluation" / "base.json" for folder in (one, two))
    assert before.read_bytes() == there.read_bytes()
    assert mine["metrics"]["lm_eval"]["base"] and mine["metrics"]["kl"]["value"] != 0
    assert theirs["model"]["saved_difference"] < 1e-3
