"""A run that cannot fit is refused before its model is loaded, with the keys to change; a plan breaks none that can."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, PretrainedConfig

from kto_lab.errors import LabError
from kto_lab.memory import readable
from kto_lab.models.architecture import find_configuration
from kto_lab.models.tiny import random_llama
from kto_lab.runs import loading, memory_check
from kto_lab.runs.components import assemble
from kto_lab.runs.memory_check import hold
from kto_lab.runs.memory_plan import MemoryPlan, Stage
from kto_lab.runs.process_cache import NO_CACHE
from kto_lab.runs.record import read_record
from tests.runs.test_memory_plan import setting
from tests.small_runs import configuration, run

GIB = 2**30
HF = {"_target_": "kto_lab.models.load.hf"}


def plan_of(name: str, weights: float, tokens: float) -> MemoryPlan:
    return MemoryPlan([Stage(name, {"weights": round(weights * GIB), "activations": round(tokens * GIB)})])


@pytest.mark.parametrize(
    ("name", "weights", "tokens", "how", "says"),
    [
        (
            "training",
            100,
            1,
            {},
            "Use adapter=lora, or adapter=lora model.quantization=nf4, or trainer=fsdp on several GPUs.",
        ),
        (
            "training",
            100,
            1,
            {"adapter": "lora", "narrow": True},
            "Use model.dtype=bfloat16, or model.",
        ),
    ],
)
def test_what_cannot_fit_into_a_gpu_is_refused_with_the_keys_to_change(
    name: str, weights: float, tokens: float, how: dict[str, Any], says: str
) -> None:
    of = setting(**{"device_bytes": 80 * GIB, **how})
    with pytest.raises(LabError) as found:
        hold(plan_of(name, weights, tokens), of, 80 * GIB, "an H100", on_node=1)
    needed = readable(round(weights * GIB))
    said = f"The stage {name!r} needs {needed} before it has seen a token, and an H100 has 80 GiB. {says}"
    assert said in str(found.value)


@pytest.mark.parametrize(
    ("name", "weights", "tokens", "how", "says"),
    [
        ("training", 10, 90, {}, "Use optimization.gradient_checkpointing=true, or optimization.micro_"),
        ("training", 10, 90, {"checkpointing": True, "batch_size": 1}, "Use lengths.max_length below 160."),
        ("reference", 10, 90, {}, "Use optimization.micro_batch_tokens below 320."),
        ("answers", 10, 90, {}, "Use evaluation.batch_tokens below 384."),
        ("lm-eval", 10, 90, {}, "Use evaluation.lm_eval_batch_size below "),
    ],
)
def test_what_may_not_fit_into_a_gpu_is_said_and_tried(
    name: str, weights: float, tokens: float, how: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    of = setting(**{"device_bytes": 80 * GIB, **how})
    hold(plan_of(name, weights, tokens), of, 80 * GIB, "an H100", on_node=1)
    said = (
        f"memory: {name} does not fit into an H100 where sequences are as long as they may be. If it runs out: {says}"
    )
    assert said in capsys.readouterr().out


def test_on_a_cpu_the_weights_decide() -> None:
    hold(plan_of("training", 10, 90), setting(), 80 * GIB, "this machine", on_node=1)
    with pytest.raises(LabError, match="needs 100 GiB for the weights alone, and this machine has 80 GiB"):
        hold(plan_of("training", 50, 90), setting(), 80 * GIB, "this machine", on_node=2)


def test_a_run_is_refused_before_its_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "memory_of", lambda device: (2**20, "this machine"))
    monkeypatch.setattr(loading, "load_policy", None)
    with pytest.raises(LabError, match=r"needs 3\.88 MiB for the weights alone, and this machine has 1 MiB"):
        run(tmp_path)


def test_a_record_has_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = read_record(run(tmp_path, "optimization.max_steps=1"))["model"]["memory_plan"]
    assert plan["activations_known"] and list(plan["stages"]) == ["reference", "training"]
    training = plan["stages"]["training"]
    assert training["total"] == sum(size for name, size in training.items() if name != "total")
    assert f"memory: training up to {readable(training['total'])} of " in capsys.readouterr().out


def test_where_there_is_no_plan_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> None:
        raise RuntimeError("no such architecture\nTraceback")

    monkeypatch.setattr(memory_check, "sizes_of", fails)
    cfg = configuration(tmp_path)
    assert memory_check.check_memory(cfg, assemble(cfg), NO_CACHE) == {"unknown": "no such architecture"}


def test_the_shapes_of_a_model_are_read_from_its_folder_or_that_of_its_base(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    LlamaConfig(hidden_size=96, num_hidden_layers=3).save_pretrained(base)
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    for node in ({"name": str(base)}, {"name": str(adapter)}, {"name": str(adapter), "base": str(base)}):
        found = find_configuration(HF | node)
        assert isinstance(found, PretrainedConfig) and found.hidden_size == 96, node
    tiny = find_configuration({"_target_": "kto_lab.models.load.tiny"})
    assert tiny is not None and tiny.hidden_size == random_llama(vocabulary=259).config.hidden_size
    assert find_configuration(HF | {"name": str(tmp_path / "weights.gguf")}) is None
    assert find_configuration({"_target_": "mine.model"}) is None
    with pytest.raises(LabError, match=r"the shapes of reference\.model are not known"):
        memory_check.model_of({"_target_": "mine.model"}, "reference.model")
    assert memory_check.model_of(HF | {"name": str(base), "dtype": "bfloat16"}, "model").dtype == torch.bfloat16
