"""Runs and the reference store: what one has computed no other does, and the results are the same."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kto_lab.errors import LabError
from kto_lab.models import store_scorer
from kto_lab.models.store_disk import shards_in
from kto_lab.runs.command import train
from kto_lab.runs.record import RECORD
from kto_lab.training.callbacks import METRICS
from tests.small_runs import composed, metrics, overrides, run
from tests.training.pair_of_processes import Job, run_as_pair
from tests.training.token_losses import OF_TOKENS

TWO = ("optimization.max_steps=2",)


class StopError(Exception):
    """What stops a run in these tests."""


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sequences each call of `score` was given."""
    calls: list[int] = []
    score = store_scorer.score

    def counted(model: Any, sequences: Any, **how: Any) -> torch.Tensor:
        calls.append(len(sequences))
        return score(model, sequences, **how)

    monkeypatch.setattr(store_scorer, "score", counted)
    return calls


def into(folder: Path, name: str, *more: str) -> Path:
    """A run into a folder of its own, with the store of them all."""
    return run(folder, *TWO, f"run_dir={folder / name}", *more)


def use(folder: Path) -> tuple[int, int]:
    """Log-probabilities that a run found, and that it computed."""
    reference = json.loads((folder / RECORD).read_text())["training"]["reference"]
    assert reference["lookup_seconds"] >= 0 and reference["compute_seconds"] >= 0
    return reference["found"], reference["computed"]


def shards(folder: Path) -> list[Path]:
    return [file.path for scorer in sorted((folder / "store").iterdir()) for file in shards_in(scorer)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (folder / "policy").glob("*.safetensors")
    return load_file(file)


def test_a_second_run_computes_nothing_whatever_its_loss_or_adapter(
    tmp_path: Path, scored: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    found, computed = use(into(tmp_path, "kto"))
    assert found == 0 and sum(scored) == computed > 8
    assert f"reference: {computed} log-probs, 0 from the store" in capsys.readouterr().out
    scored.clear()
    for name, words in {
        "again": (),
        "noise": ("corruption=label_noise", "corruption.rate=0.3", "loss.beta=0.5"),
        "lora": ("adapter=lora", "adapter.rank=2"),
    }.items():
        assert use(into(tmp_path, name, *words)) == (computed, 0), name
    assert scored == []
    assert f"reference: {computed} log-probs, {computed} from the store" in capsys.readouterr().out
    # Another order has other mismatched pairs; a completion after its own prompt is known.
    found, computed = use(into(tmp_path, "seed", "seed=1"))
    assert found > 0 and computed == sum(scored) > 0
    (tmp_path / "other").mkdir()
    assert use(into(tmp_path, "weights", "model.seed=1"))[0] == 0


def test_a_run_with_the_store_is_the_run_without_it(tmp_path: Path, scored: list[int]) -> None:
    for name in ("without", "first", "second"):
        (tmp_path / name).mkdir()
    words = [word for word in overrides(tmp_path / "without", *TWO) if not word.startswith("reference_store.")]
    without = train(composed([*words, "reference_store=none"]))
    store = f"reference_store.folder={tmp_path / 'store'}"
    first = run(tmp_path / "first", *TWO, store)
    scored.clear()
    second = run(tmp_path / "second", *TWO, store)
    assert scored == [] and use(without)[0] == use(first)[0] == use(second)[1] == 0
    for other in (first, second):
        assert (other / METRICS).read_bytes() == (without / METRICS).read_bytes()
        assert all(torch.equal(value, weights(other)[name]) for name, value in weights(without).items())
    assert not (tmp_path / "without" / "store").exists()


def test_a_run_that_finds_some_differs_by_rounding_alone(tmp_path: Path) -> None:
    """Log-probabilities to 1e-5 of their value; so z0, rewards and the loss to 1e-4 nats."""
    alone = into(tmp_path, "alone", "seed=1")
    (tmp_path / "shared").mkdir()
    into(tmp_path / "shared", "before")
    shared = into(tmp_path / "shared", "after", "seed=1")
    found, computed = use(shared)
    assert found > 0 and computed > 0 and found + computed == use(alone)[1]
    for one, other in zip(metrics(alone), metrics(shared), strict=True):
        for name in ("train/loss", "train/z0_raw", "train/reward_desirable"):
            key = name if name in one else name.removeprefix("train/")
            assert float(one[key]) == pytest.approx(float(other[key]), abs=1e-4), name


def test_corrupt_shards_are_computed_again_with_the_same_result(
    tmp_path: Path, scored: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    before = into(tmp_path, "before")
    computed = use(before)[1]
    for shard in shards(tmp_path):
        shard.write_bytes(shard.read_bytes()[:-1])
    scored.clear()
    after = into(tmp_path, "after")
    assert use(after) == (0, computed) and sum(scored) == computed
    assert (after / METRICS).read_bytes() == (before / METRICS).read_bytes()
    assert "log-probs are computed again" in capsys.readouterr().out


def test_a_job_that_is_killed_while_scoring_keeps_what_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scored: list[int]
) -> None:
    monkeypatch.setattr(store_scorer, "BATCHES_PER_PART", 1)
    small = "optimization.micro_batch_tokens=64"
    with monkeypatch.context() as patch:
        counted = store_scorer.score

        def stopping(*arguments: Any, **how: Any) -> Any:
            if scored:
                raise StopError
            return counted(*arguments, **how)

        patch.setattr(store_scorer, "score", stopping)
        with pytest.raises(StopError):
            into(tmp_path, "run", small)
    had = sum(scored)
    assert had > 0
    found, computed = use(into(tmp_path, "run", small))
    assert found == had and computed > 0


def test_a_log_probability_that_is_no_number_names_its_example_and_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = store_scorer.score

    def broken(model: Any, sequences: Any, **how: Any) -> torch.Tensor:
        found = score(model, sequences, **how)
        found[0] = -torch.inf
        return found

    with monkeypatch.context() as patch:
        patch.setattr(store_scorer, "score", broken)
        with pytest.raises(LabError, match=r"log-probability of .*example \w{8,}.* is -inf\. Look at that example"):
            into(tmp_path, "run")
    found, computed = use(into(tmp_path, "run"))
    assert computed == 1 and found > 8


def test_the_base_policys_held_out_log_probs_are_the_references(tmp_path: Path, scored: list[int]) -> None:
    judged = ("evaluation=quick", "evaluation.reward_examples=8", "evaluation.prompts=0", "evaluation.kl_prompts=0")
    first = into(tmp_path, "first", *judged)
    assert scored[0] == 8
    scored.clear()
    second = into(tmp_path, "second", *judged)
    assert scored == [8]  # the trained policy's
    one, other = (json.loads((folder / RECORD).read_text()) for folder in (first, second))
    assert one["metrics"] == other["metrics"]


def test_two_processes_share_what_is_missing_and_find_what_is_not(tmp_path: Path) -> None:
    ddp = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32-true", "seed=1")
    into(tmp_path, "before")
    runs = {"partly": (), "all": (), "tokens": OF_TOKENS}
    jobs = [Job([*overrides(tmp_path, *TWO), f"run_dir={tmp_path / name}", *ddp, *more]) for name, more in runs.items()]
    run_as_pair(jobs, tmp_path, timeout=300)
    found, computed = use(tmp_path / "partly")
    assert found > 0 and computed > 0 and use(tmp_path / "all") == (found + computed, 0)
    # Per token, too: the mismatched pairs' sums are known, the tokens are computed and then known.
    mismatched, trained = use(tmp_path / "tokens")
    assert mismatched + trained == found + computed and trained > 0
    assert use(into(tmp_path, "tokens_again", "seed=1", *OF_TOKENS)) == (found + computed, 0)
    (tmp_path / "other").mkdir()
    alone = into(tmp_path / "other", "alone", "seed=1")
    assert use(alone) == (0, found + computed)
    for one, other, again in zip(metrics(alone), metrics(tmp_path / "partly"), metrics(tmp_path / "all"), strict=True):
        assert float(one["loss"]) == pytest.approx(float(other["loss"]), abs=1e-4)
        assert other == again
