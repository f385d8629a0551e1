"""Two processes, under ddp and under fsdp, do what one does. gloo on CPUs; nothing here has seen a GPU."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from kto_lab.errors import LabError
from kto_lab.runs import command
from kto_lab.runs.record import RECORD, read_record
from kto_lab.training.callbacks import METRICS
from tests.small_runs import metrics, overrides, run
from tests.training.checkpoints import assert_holds_what_is_trained
from tests.training.pair_of_processes import Job, measured, run_as_pair

# Batches of five, in several micro-batches: neither can be shared evenly by two processes.
UNEVEN = (
    "optimization.batch_size=5",
    "optimization.micro_batch_tokens=16",
    "optimization.max_steps=3",
    "trainer.precision=32-true",
)
# What each process does a share of, outside of training.
EVALUATED = (
    "evaluation=quick",
    "evaluation.reward_examples=8",
    "evaluation.prompts=5",
    "evaluation.kl_prompts=3",
    "evaluation.max_new_tokens=3",
)
LORA = ("adapter=lora", "adapter.rank=4")
RUNS: dict[str, tuple[str, ...]] = {
    "kto": (*UNEVEN, *EVALUATED, "evaluation.lm_eval=[]"),
    "dpo": (*UNEVEN, "loss=dpo"),
    "sft": (*UNEVEN, "loss=sft"),
    "lora": (*UNEVEN, *LORA),
    "sgd": (*UNEVEN, "optimizer=sgd", "optimizer.momentum=0.9", "optimization.learning_rate=0.1"),
    "clipped and recomputed": (
        *UNEVEN,
        "optimization.clip_norm=0.05",
        "optimization.gradient_checkpointing=true",
    ),
    "bf16": (*UNEVEN, "trainer.precision=bf16-mixed"),
    # The trained policy is the base policy, and so has to do the same, bit for bit, however it is shared.
    "unmoved": (
        *UNEVEN,
        *EVALUATED,
        "optimization.learning_rate=1e-30",
        "evaluation.lm_eval=[kto_lab_neutral]",
        "evaluation.lm_eval_limit=3",
    ),
}
UNDER = [("ddp", "kto"), ("fsdp", "kto")]
SLOWLY_UNDER = [
    ("ddp", "dpo"),
    ("ddp", "sft"),
    ("ddp", "unmoved"),
    *(("fsdp", name) for name in ("dpo", "sft", "lora", "sgd", "clipped and recomputed", "unmoved")),
]
# What a resumed run has to bring back: dropout, the optimiser's state, and what the reference point remembers.
SIX = (
    "optimization.max_steps=6",
    "optimization.checkpoint_every=2",
    "trainer.precision=32-true",
    "reference_point@loss.reference_point=running_mean",
)
DROPOUT = (*SIX, *LORA, "adapter.dropout=0.1")


def words(folder: Path, *more: str) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return overrides(folder, *more)


def under(strategy: str) -> tuple[str, str]:
    return f"trainer={strategy}", "trainer.accelerator=cpu"


def job(folder: Path, strategy: str, name: str) -> Job:
    return Job(words(folder / strategy / name, *under(strategy), *RUNS[name]))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes that import once: that takes longer than the runs."""
    folder = tmp_path_factory.mktemp("pair")
    fsdp = under("fsdp")
    jobs = [
        *(job(folder, *each) for each in UNDER),
        Job(words(folder / "straight", *fsdp, *DROPOUT)),
        Job(words(folder / "measured", *fsdp, *UNEVEN), measured=str(folder / "measured.json")),
        Job(words(folder / "stopped", *fsdp, *DROPOUT), nan_at=4),
        # Its reference pass gathers the policy before the checkpoint is restored.
        Job(words(folder / "stopped", *fsdp, *DROPOUT, f"reference_store.folder={folder / 'another'}")),
        Job(words(folder / "handed over", *fsdp, *SIX), nan_at=5),
        Job(words(folder / "handed over with an adapter", *fsdp, *DROPOUT), nan_at=5),
        Job(words(folder / "at once", *fsdp, *SIX), nan_at=1),
    ]
    said = run_as_pair(jobs, folder, timeout=400)
    assert "going on from step 3 (stopped.ckpt)" in said
    assert [said.count(f"the reference is {kind}") for kind in ("whole", "in shards")] == [1, 8]
    # Before training; after it; and the samples of the KL, under policy and reference.
    assert [said.count(f"the evaluated model is {kind}") for kind in ("whole", "in shards")] == [4, 4]
    return folder


@pytest.fixture(scope="module")
def slow_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slow_pair")
    runs = [*SLOWLY_UNDER, ("ddp", "bf16"), ("fsdp", "bf16")]
    run_as_pair([job(folder, *each) for each in runs], folder, timeout=500)
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "plot_curves", lambda *_: None)
        yield tmp_path_factory.mktemp("alone")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (folder / "policy").glob("*.safetensors")
    return load_file(file)


def assert_same(here: Path, there: Path) -> None:
    """Curves and final weights of two runs agree to rounding.

    A step moves a weight by about 1e-3. All weights together differ by less than 1e-6 (root mean square), and none by
    more than 1e-4: where a gradient is close to zero, Adam's first steps go by its sign.
    """
    rows, others = metrics(here), metrics(there)
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row.keys() == other.keys()
        for key, value in row.items():
            # Before the first step the policy is the reference, and the sign of what is left is rounding.
            if key == "z0_clamped" and abs(float(row["z0_raw"])) < 1e-5:
                continue
            assert float(other[key]) == pytest.approx(float(value), rel=1e-4, abs=1e-4), key
    mine, theirs = weights(here), weights(there)
    assert mine.keys() == theirs.keys()
    difference = torch.cat([(theirs[name] - value).flatten() for name, value in mine.items()])
    assert difference.abs().max() < 1e-4 and difference.square().mean().sqrt() < 1e-6


def assert_as_one(together: Path, alone: Path, strategy: str, name: str) -> None:
    folder = alone / name
    if not folder.exists():
        words(folder)
        run(folder, *RUNS[name])
    assert_same(folder / "run", together / strategy / name / "run")
    # Where it clips, it clips.
    assert all(float(row["grad_norm"]) > 0.05 for row in metrics(folder / "run"))
    # Nothing was trained yet.
    mine, theirs = (
        where / "evaluation" / "base.json" for where in (folder / "run", together / strategy / name / "run")
    )
    assert mine.exists() == theirs.exists() and (not mine.exists() or mine.read_bytes() == theirs.read_bytes())


@pytest.mark.parametrize(("strategy", "name"), UNDER)
def test_two_processes_do_what_one_does(pair: Path, alone: Path, strategy: str, name: str) -> None:
    assert_as_one(pair, alone, strategy, name)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "name"), SLOWLY_UNDER)
def test_so_they_do_for_other_runs(slow_pair: Path, alone: Path, strategy: str, name: str) -> None:
    assert_as_one(slow_pair, alone, strategy, name)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_evaluate_what_one_does(pair: Path, alone: Path, strategy: str) -> None:
    assert_as_one(pair, alone, strategy, "kto")
    folders = alone / "kto" / "run", pair / strategy / "kto" / "run"
    mine, theirs = (read_record(folder)["metrics"] for folder in folders)
    assert mine.keys() == theirs.keys() == {"answers", "groups", "rewards", "kl"}
    assert theirs["kl"]["value"] == pytest.approx(mine["kl"]["value"], abs=1e-4) and mine["kl"]["value"] != 0
    assert theirs["answers"] == mine["answers"]
    for key, estimate in mine["rewards"].items():
        assert theirs["rewards"][key] == pytest.approx(estimate, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_what_two_processes_share_is_what_one_does_bit_for_bit(slow_pair: Path, alone: Path, strategy: str) -> None:
    assert_as_one(slow_pair, alone, strategy, "unmoved")
    mine, theirs = (folder / "unmoved" / "run" for folder in (alone, slow_pair / strategy))
    for name in ("base.json", "trained.json"):
        assert (mine / "evaluation" / name).read_bytes() == (theirs / "evaluation" / name).read_bytes()
    metrics = read_record(mine)["metrics"]
    assert read_record(theirs)["metrics"] == metrics and metrics["lm_eval"]["base"]


@pytest.mark.slow
def test_shards_in_bf16_compute_what_the_whole_computes(slow_pair: Path) -> None:
    whole, shards = (slow_pair / strategy / "bf16" / "run" for strategy in ("ddp", "fsdp"))
    first, other = metrics(whole)[0], metrics(shards)[0]
    for key in ("loss", "z0_raw", "reward_desirable", "reward_undesirable", "saturated"):
        assert first[key] == other[key], "the forward pass is the same, bit for bit"
    # In the backward pass a float32 sum in another order makes another bfloat16 number here and there.
    for row, there in zip(metrics(whole), metrics(shards), strict=True):
        assert float(there["grad_norm"]) == pytest.approx(float(row["grad_norm"]), rel=2e-3)
        assert float(there["loss"]) == pytest.approx(float(row["loss"]), abs=1e-3)
    mine, theirs = weights(whole), weights(shards)
    difference = torch.cat([(theirs[name] - value).flatten() for name, value in mine.items()])
    assert difference.square().mean().sqrt() < 3e-5


def test_a_stopped_run_in_shards_goes_on_bit_for_bit(pair: Path) -> None:
    straight, stopped = pair / "straight" / "run", pair / "stopped" / "run"
    assert (straight / METRICS).read_bytes() == (stopped / METRICS).read_bytes()
    mine, theirs = weights(straight), weights(stopped)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    assert (stopped / RECORD).exists()


def test_one_process_goes_on_where_two_with_shards_stopped(pair: Path, alone: Path) -> None:
    stopped = pair / "handed over"
    assert len(metrics(stopped / "run")) == 4 and not (stopped / "run" / RECORD).exists()
    run(stopped, *SIX)
    words(alone / "six")
    assert_same(run(alone / "six", *SIX), stopped / "run")


def test_two_processes_drop_out_what_one_does(pair: Path, alone: Path) -> None:
    words(alone / "dropout")
    assert_same(run(alone / "dropout", *DROPOUT), pair / "straight" / "run")
    # The base is gathered neither for a checkpoint nor out of one.
    stopped = pair / "handed over with an adapter"
    assert_holds_what_is_trained(stopped / "run" / "checkpoints" / "stopped.ckpt", weights(pair / "straight" / "run"))
    assert_same(run(stopped, *DROPOUT), alone / "dropout" / "run")


def test_shards_answer_and_score_as_the_whole_does_whatever_each_process_is_asked(pair: Path) -> None:
    found = json.loads((pair / "measured.json").read_text())
    whole = measured(AutoModelForCausalLM.from_pretrained(pair / "measured" / "run" / "policy"), prompts=3)
    assert found["answers"] == whole["answers"]
    assert found["logps"] == pytest.approx(whole["logps"], abs=1e-4)


def test_before_the_first_step_there_is_nothing_to_keep(pair: Path) -> None:
    assert not list((pair / "at once" / "run").rglob("*.ckpt"))


@pytest.mark.slow
def test_the_command_line_trains_and_evaluates_in_shards(tmp_path: Path) -> None:
    two = words(tmp_path / "two", *under("fsdp"), *UNEVEN, *EVALUATED)
    done = subprocess.run(
        [sys.executable, "-m", "kto_lab.cli", "train", *two],
        capture_output=True,
        text=True,
        timeout=400,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("==> Training") == 1, "only the first process speaks"
    words(tmp_path / "one")
    one = run(tmp_path / "one", *UNEVEN, *EVALUATED)
    assert_same(one, tmp_path / "two" / "run")
    mine, theirs = (json.loads((folder / RECORD).read_text()) for folder in (one, tmp_path / "two" / "run"))
    for record in (mine, theirs):
        # How long it took differs from run to run.
        seconds = [record["training"]["reference"].pop(key) for key in ("lookup_seconds", "compute_seconds")]
        assert min(seconds) >= 0
    assert theirs["training"].pop("balance")["slowest_over_mean"] >= 1 and "balance" not in mine["training"]
    plans = [record["model"].pop("memory_plan")["stages"] for record in (mine, theirs)]
    assert plans[1].keys() - plans[0].keys() == {"loading", "saved policy"}
    for key in ("seeds", "data", "model", "training"):
        assert theirs[key] == mine[key], key
    assert theirs.keys() == mine.keys() and theirs["files"].keys() == mine["files"].keys()
    assert theirs["timings"].keys() == mine["timings"].keys()
    assert theirs["metrics"].keys() == mine["metrics"].keys()
    assert theirs["metrics"]["kl"]["value"] == pytest.approx(mine["metrics"]["kl"]["value"], abs=1e-4)
    assert theirs["metrics"]["kl"]["value"] != 0


def test_what_fsdp_cannot_do_is_said(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="reference_point=sampled generates from the policy"):
        run(tmp_path, *under("fsdp"), *UNEVEN, "reference_point@loss.reference_point=sampled")
