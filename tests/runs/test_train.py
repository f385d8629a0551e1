"""Whole runs on the tiny policy: what they write, and how they resume or refuse."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.errors import InstantiationException
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from kto_lab.errors import LabError
from kto_lab.models.load import tiny
from kto_lab.models.tiny import byte_tokenizer
from kto_lab.runs.record import RECORD
from kto_lab.training.checkpoints import LastCheckpoint
from tests.small_runs import metrics, run, thumbs, write_jsonl

EVALUATED = (
    "evaluation=quick",
    "evaluation.reward_examples=8",
    "evaluation.prompts=4",
    "evaluation.kl_prompts=2",
    "evaluation.max_new_tokens=3",
    "optimization.max_steps=3",
)
THREE = ("optimization.max_steps=3",)
IDS = torch.tensor([[20, 21, 22, 23]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("finished"), *EVALUATED)


def test_the_record_says_what_the_run_stood_on(finished: Path) -> None:
    record = json.loads((finished / RECORD).read_text())
    assert record["status"] == "finished" and len(record["run_id"]) == 16
    assert record["config"]["loss"]["beta"] == 0.1 and record["seeds"] == {"seed": 0}
    assert record["data"]["counts"]["train"] == {
        "examples": 36,
        "prompts": 18,
        "desirable": 18,
        "undesirable": 18,
        "flipped": 0,
    }
    assert len(record["data"]["fingerprint"]) == 16
    assert record["model"]["name"].startswith("tiny") and record["model"]["trainable"] > 1e6
    training = record["training"]
    assert (training["steps"], training["examples_seen"], training["pairs_seen"]) == (3, 12, 0)
    assert training["reference"]["computed"] > 0 == training["reference"]["found"]
    assert training["tokens_seen"] == sum(float(row["tokens"]) for row in metrics(finished))
    assert {"training", "evaluation before", "evaluation after", "feedback", "model"} <= set(record["timings"])
    assert record["peak_memory"]["process"] > 1e8
    environment = record["environment"]
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["cpu"]["cores"] and "git" in environment
    assert {"answers", "rewards", "kl"} <= set(record["metrics"])

    def leaves(node: Any) -> list[Any]:
        children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else None
        return [node] if children is None else [leaf for child in children for leaf in leaves(child)]

    assert all(math.isfinite(leaf) for leaf in leaves(record) if isinstance(leaf, float))
    for file in record["files"].values():
        assert (finished / file).exists(), file
    assert str(Path.home()) not in (finished / RECORD).read_text()


def test_the_folder_holds_what_it_should_and_nothing_half_done(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        "config.yaml",
        "curves.png",
        "evaluation",
        "metrics.csv",
        "policy",
        "record.json",
        "run.json",
    }
    assert not [path for path in finished.rglob("*") if path.name.startswith(".") or path.suffix in (".bin", ".pt")]
    assert [row["step"] for row in metrics(finished)] == ["1", "2", "3"]
    assert yaml.safe_load((finished / "config.yaml").read_text())["seed"] == 0


def test_the_saved_policy_is_the_trained_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = LastCheckpoint.on_train_end

    def keeping(self: Any, *arguments: Any) -> None:
        ended(self, *arguments)
        shutil.copyfile(tmp_path / "run" / "checkpoints" / "step=3.ckpt", tmp_path / "trained.ckpt")

    monkeypatch.setattr(LastCheckpoint, "on_train_end", keeping)
    finished = run(tmp_path, *EVALUATED)
    policy = AutoModelForCausalLM.from_pretrained(finished / "policy")
    tokenizer = AutoTokenizer.from_pretrained(finished / "policy")
    state = torch.load(tmp_path / "trained.ckpt", weights_only=True)["state_dict"]
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(dict(policy.named_parameters())[name], state[f"policy.{name}"])
    assert not torch.equal(logits(policy), logits(tiny("random", 0).model))
    assert tokenizer("1+2=")["input_ids"] == byte_tokenizer()("1+2=")["input_ids"]
    assert tokenizer.chat_template == byte_tokenizer().chat_template


def test_a_finished_run_is_not_run_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / RECORD).stat().st_mtime_ns
    run(finished.parent, *EVALUATED)
    assert "nothing to do" in capsys.readouterr().out
    assert (finished / RECORD).stat().st_mtime_ns == before


@pytest.mark.parametrize("loss", ["dpo", "sft"])
def test_the_same_thumbs_train_the_other_losses(tmp_path: Path, loss: str) -> None:
    folder = run(tmp_path, f"loss={loss}", *EVALUATED)
    record = json.loads((folder / RECORD).read_text())
    assert record["training"]["loss"] == loss
    assert record["training"]["pairs_seen"] == (12 if loss == "dpo" else 0)
    assert record["training"]["examples_seen"] == (24 if loss == "dpo" else 12)
    first, *_, last = metrics(folder)
    assert float(last["loss"]) < float(first["loss"]) or loss == "dpo"
    assert ("reward_margin" in first) == (loss == "dpo") and "z0" not in first


def test_a_saved_adapter_loads_on_its_base(tmp_path: Path) -> None:
    folder = run(tmp_path, "adapter=lora", "adapter.rank=4", *EVALUATED)
    assert {path.name for path in (folder / "policy").glob("adapter*")} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    base = tiny("random", 0).model
    before = logits(base)
    policy = PeftModel.from_pretrained(base, folder / "policy")
    assert not torch.allclose(logits(policy), before, atol=1e-4)
    with policy.disable_adapter():
        torch.testing.assert_close(logits(policy), before)
    record = json.loads((folder / RECORD).read_text())
    assert 0 < record["model"]["trainable"] < record["model"]["parameters"] / 5


def test_a_merged_adapter_is_the_same_policy(tmp_path: Path) -> None:
    for name, merge in (("apart", "false"), ("merged", "true")):
        (tmp_path / name).mkdir()
        run(tmp_path / name, "adapter=lora", "adapter.rank=4", f"adapter.merge={merge}", *THREE)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged" / "run" / "policy")
    apart = PeftModel.from_pretrained(tiny("random", 0).model, tmp_path / "apart" / "run" / "policy")
    torch.testing.assert_close(logits(merged), logits(apart), rtol=1e-4, atol=1e-5)


def test_the_same_command_gives_the_same_numbers(finished: Path, tmp_path: Path) -> None:
    again = run(tmp_path, *EVALUATED)
    assert (again / "metrics.csv").read_bytes() == (finished / "metrics.csv").read_bytes()
    mine, theirs = (json.loads((folder / RECORD).read_text()) for folder in (again, finished))
    assert mine["metrics"] == theirs["metrics"]
    assert mine["data"] == theirs["data"]


def unfinished(tmp_path: Path, *more: str) -> Path:
    folder = run(tmp_path, *THREE, *more)
    (folder / RECORD).unlink()
    return folder


def test_another_configuration_is_refused_by_its_keys(tmp_path: Path) -> None:
    unfinished(tmp_path)
    with pytest.raises(LabError, match=r"another loss\.beta, optimization\.learning_rate\. Give"):
        run(tmp_path, *THREE, "optimization.learning_rate=3e-4", "loss.beta=0.2")


def test_what_does_not_change_the_result_may_change(tmp_path: Path) -> None:
    unfinished(tmp_path)
    same = ["trainer=auto", "trainer.accelerator=cpu", "trainer.precision=32-true", "reference_store.max_mb=5"]
    assert (run(tmp_path, *THREE, *same) / RECORD).exists()


def test_another_number_format_is_another_run(tmp_path: Path) -> None:
    unfinished(tmp_path)
    with pytest.raises(LabError, match="another precision"):
        run(tmp_path, *THREE, "trainer.precision=bf16-mixed")


def test_what_has_no_reference_is_not_compared_with_samples_against_it(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="the loss kto_reference_free has none"):
        run(tmp_path, "loss=kto_reference_free", "reference_point@loss.reference_point=sampled")
    assert not (tmp_path / "run").exists()


def test_other_data_under_the_same_path_are_refused(tmp_path: Path) -> None:
    unfinished(tmp_path)
    rows = thumbs()
    rows[0]["label"], rows[1]["label"] = False, True
    write_jsonl(tmp_path / "thumbs.jsonl", rows)
    with pytest.raises(LabError, match="other examples"):
        run(tmp_path, *THREE)


def test_a_run_that_fails_on_its_data_leaves_its_folder_free(tmp_path: Path) -> None:
    with pytest.raises(InstantiationException, match="nosuch"):
        run(tmp_path, *THREE, "feedback.columns.label=nosuch")
    assert (run(tmp_path, *THREE) / RECORD).exists()


def test_wandb_offline_keeps_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    folder = run(tmp_path, "logger=wandb", "logger.group=cells", *EVALUATED)
    (log,) = folder.glob("wandb/offline-run-*/*.wandb")
    run_id = json.loads((folder / RECORD).read_text())["run_id"]
    assert run_id in log.name
    content = log.read_bytes()
    for word in (b"cells", b"train/loss", b"learning_rate", b"reward_accuracy"):
        assert word in content, word
    assert list(folder.glob("wandb/offline-run-*/files/media/**/*.png"))


def test_pairs_are_read_as_given_and_a_measured_flip_rate_is_theirs(tmp_path: Path) -> None:
    ranked = [("Apple.", "A stone."), ("Pear.", "Apple."), ("Pear.", "A hat.")]
    rows = [
        {"prompt": f"{n}", "chosen": good, "rejected": bad, "split": "test" if n > 8 else "train"}
        for n in range(10)
        for good, bad in ranked
    ]
    words = [f"feedback.columns.{name}={name}" for name in ("chosen", "rejected")]
    noise = ["corruption=label_noise", "corruption.rate=0.3", "optimization.max_steps=2", "loss=rdpo"]
    write_jsonl(tmp_path / "thumbs.jsonl", rows)
    record = json.loads((run(tmp_path, *words, *noise, "loss.flip_rate=measured") / RECORD).read_text())
    found = record["training"]
    assert found["given_pairs"] == {
        "whole": found["units_available"],
        "agreeing": 27 - found["units_available"],
        "alone": 0,
    }
    assert 0 < found["pair_swap_share"] < 0.3 and found["pair_same_share"] == 0
    assert record["config"]["loss"]["flip_rate"] == "measured"
    with pytest.raises(LabError, match=r"loss\.flip_rate=measured needs thumbs whose noise is known"):
        run(tmp_path, *words, "loss=rdpo", "loss.flip_rate=measured", f"run_dir={tmp_path / 'logs'}")
    assert not (tmp_path / "logs").exists(), "said before a model is loaded"
