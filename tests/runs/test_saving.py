"""What a run saves is the policy that it judged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from kto_lab.errors import LabError
from kto_lab.runs import saving
from kto_lab.runs.command import train
from kto_lab.runs.record import read_record
from kto_lab.runs.saving import check_same
from tests.small_runs import composed

RUN = ["scale=tiny", "optimization.max_steps=3", "optimization.learning_rate=2e-3", "reference_store=none"]
RUN += ["evaluation.prompts=0", "evaluation.reward_examples=16", "evaluation.kl_prompts=0"]


def trained(folder: Path, *words: str) -> dict[str, Any]:
    """The record of a run of three steps."""
    return read_record(train(composed([*RUN, f"run_dir={folder}", *words])))


@pytest.mark.parametrize("targets", ["[q_proj,lm_head]", "[q_proj,embed_tokens]"])
@pytest.mark.parametrize("merge", ["true", "false"])
@pytest.mark.filterwarnings("ignore")
def test_an_adapter_on_tied_embeddings_is_saved_as_it_was_judged(tmp_path: Path, targets: str, merge: str) -> None:
    record = trained(tmp_path / "run", "adapter=lora", f"adapter.target_modules={targets}", f"adapter.merge={merge}")
    assert record["model"]["saved_difference"] < (1e-3 if merge == "true" else 1e-6)
    if merge == "true":
        whole = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "policy")
        assert not whole.config.tie_word_embeddings
        assert not torch.equal(whole.get_input_embeddings().weight, whole.get_output_embeddings().weight)


def zeroed(save: Callable[..., None]) -> Callable[..., None]:
    """A `save_policy` that writes another policy than the one it was given."""

    def wrong(policy: torch.nn.Module, *rest: Any, **more: Any) -> None:
        with torch.no_grad():
            for parameter in policy.parameters():
                if parameter.requires_grad:
                    parameter.mul_(0.5)
        save(policy, *rest, **more)

    return wrong


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_policy_that_is_saved_otherwise_than_judged_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    monkeypatch.setattr(saving, "save_policy", zeroed(saving.save_policy))
    with pytest.raises(LabError, match=r"policy is not the policy that was judged: \d of 4 log-probs are off, one by"):
        trained(tmp_path / "run", f"adapter={adapter}")
    assert not (tmp_path / "run" / "record.json").exists()


def test_nothing_held_out_is_no_reason_not_to_look(tmp_path: Path) -> None:
    assert trained(tmp_path / "run", "evaluation.reward_examples=0")["model"]["saved_difference"] == 0


@pytest.mark.parametrize(
    ("number_format", "found", "off"),
    [
        ("32-true", [-10.0, -1.0], False),
        ("32-true", [-10.001, -1.0], False),
        ("32-true", [-10.01, -1.0], True),
        ("bf16-mixed", [-10.2, -1.1], False),
        ("bf16-mixed", [-10.5, -1.0], True),
        ("32-true", [-10.0, float("nan")], True),
    ],
)
def test_only_rounding_is_let_pass(number_format: str, found: list[float], off: bool) -> None:
    def check() -> None:
        wanted = torch.tensor([-10.0, -1.0])
        check_same(wanted, torch.tensor(found), Path("policy"), number_format=number_format, merge=True)

    if not off:
        check()
        return
    with pytest.raises(LabError, match=r"1 of 2 log-probs are off, .*Merging the adapter changed it"):
        check()
