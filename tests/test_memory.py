"""Running out of memory is an error that a person can mend: at what, how much, and by which key."""

import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from kto_lab.configuration import config_dir
from kto_lab.errors import LabError
from kto_lab.evaluation import evaluate as evaluation
from kto_lab.memory import OutOfMemoryError, is_out_of_memory, within_memory
from kto_lab.messages import explain
from kto_lab.models import exact_rows
from kto_lab.models.sequences import Tokens
from kto_lab.runs import train as run_module
from kto_lab.runs.record import MENDS, Record
from kto_lab.training import reference as reference_pass
from tests.small_runs import composed, run

CUDA = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.15 GiB of which 1.03 GiB is free."
)
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "1073741824 bytes. Error code 12 (Cannot allocate memory)"
)
NUMPY = MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000000000,) and data type float64")


def raising(error: BaseException) -> Callable[..., Any]:
    def out(*args: Any, **more: Any) -> Any:
        raise error

    return out


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (CUDA, "2.5 GiB more were asked for; "),
        (CPU, "1 GiB more were asked for; "),
        (NUMPY, "7.45 GiB more were asked for; "),
        (MemoryError(), ""),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ""),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), ""),
    ],
    ids=["cuda", "cpu", "numpy", "python", "system", "cublas"],
)
def test_what_ran_out_how_much_was_asked_for_and_what_to_do(error: Exception, asked: str) -> None:
    size = r"[\d.e+]+ [KMGT]iB"
    with pytest.raises(OutOfMemoryError) as found, within_memory("greedy answers", "Lower evaluation.batch_tokens."):
        raise error
    state = rf"this machine has {size} of {size} free, and this process has held up to {size}"
    assert re.fullmatch(
        rf"Out of memory at greedy answers: {asked}{state}\. Lower evaluation\.batch_tokens\.", str(found.value)
    )
    assert found.value.__cause__ is error
    # ... and of a command that says nothing itself.
    said = explain(error)
    assert said is not None and said.startswith(f"Out of memory at what this command does: {asked}this machine has ")


def test_of_a_device_its_own_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 78 * 2**30)
    state = r"cuda:1 has 1 GiB of 80 GiB free, and this run has held up to 78 GiB of it"
    with pytest.raises(OutOfMemoryError, match=state), within_memory("training", ""):
        raise CUDA
    with pytest.raises(OutOfMemoryError, match="this machine has"), within_memory("training", ""):
        raise CPU


def test_other_errors_pass_and_the_innermost_block_speaks() -> None:
    for other in (RuntimeError("shapes differ"), LabError("ours is out of memory"), KeyError("out of memory")):
        assert not is_out_of_memory(other) and (explain(other) is None) == (not isinstance(other, LabError))
        with pytest.raises(type(other)) as found, within_memory("training", "x"):
            raise other
        assert found.value is other
    with (
        pytest.raises(OutOfMemoryError, match="at lm-eval: "),
        within_memory("training", "x"),
        within_memory("lm-eval", "y"),
    ):
        raise CPU


def test_what_was_taken_for_another_fault_is_still_a_lack_of_memory() -> None:
    def read() -> None:
        try:
            raise CPU
        except RuntimeError as error:
            raise LabError("The file cannot be read. Fetch it again.") from error

    with pytest.raises(OutOfMemoryError, match="at the stage 'model': 1 GiB"), within_memory("the stage 'model'", ""):
        read()
    with pytest.raises(LabError) as found:
        read()
    said = explain(found.value)
    assert said is not None and said.startswith("Out of memory at what this command does: 1 GiB")


def test_the_trial_of_layouts_does_not_take_it_for_the_architecture(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact_rows, "continuation_logps", raising(CPU))
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        exact_rows.find_exact_rows(model, longest=64)


ROWS, CHECKPOINTING = "optimization.micro_batch_tokens", "optimization.gradient_checkpointing"
STAGES = [
    (run_module, "read_examples", "the stage 'feedback'", "feedback.max_rows"),
    (run_module, "load_policy", "the stage 'model'", "adapter=lora"),
    (run_module, "plan", "the stage 'plan'", "lengths.max_length"),
    (evaluation, "answer_prompts", "greedy answers", "evaluation.batch_tokens", "evaluation.prompts=2"),
    (evaluation, "score_and_keep", "log-probabilities of", ROWS, "evaluation.reward_examples=4"),
    (evaluation, "sample_answers", "sampled answers", "evaluation.batch_tokens", "evaluation.kl_prompts=2"),
    (evaluation, "run_lm_eval", "lm-eval", "evaluation.lm_eval_batch_size", "evaluation.lm_eval=[kto_lab_neutral]"),
    (reference_pass, "score_and_keep", "the reference's log-probabilities", ROWS),
    (torch.Tensor, "backward", "the stage 'training'", CHECKPOINTING),
    (run_module, "save_and_compare", "the stage 'saving'", "adapter.merge", "optimization.max_steps=1"),
]


@pytest.mark.parametrize(
    "stage",
    [pytest.param(stage, id=stage[2], marks=() if "training" in stage[2] else pytest.mark.slow) for stage in STAGES],
)
def test_each_stage_names_itself_and_its_keys(
    stage: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, name, at, key, *words = stage
    monkeypatch.setattr(where, name, raising(CPU))
    with pytest.raises(OutOfMemoryError, match=rf"^Out of memory at {at}.*\b{re.escape(key)}\b"):
        run(tmp_path, "optimization.max_steps=2", *words)


@pytest.mark.parametrize(
    ("method", "arguments", "key"),
    [
        ("_answers", (None, "base"), "evaluation.batch_tokens"),
        ("_score", (None, [Tokens((1,), (2,))], "base", False), ROWS),
        ("_lm_eval", (None, "base"), "evaluation.lm_eval_batch_size"),
        ("_kl", (None, None), "evaluation.batch_tokens"),
    ],
)
def test_each_part_of_an_evaluation_names_its_keys(method: str, arguments: tuple[Any, ...], key: str) -> None:
    class Full:
        def __getattr__(self, name: str) -> Any:
            raise CUDA

    with pytest.raises(OutOfMemoryError, match=rf"\b{re.escape(key)}\b"):
        getattr(evaluation.Judge, method)(Full(), *arguments)


def test_the_mends_name_keys_that_there_are() -> None:
    assert MENDS.keys() <= {"feedback", "model", "plan", "training", "saving"}
    train = composed(["adapter=lora", "feedback=file", "model=hf", "model.name=x"])
    for text in (*MENDS.values(), evaluation.ANSWERING, evaluation.SCORING):
        named = re.findall(r"\b(?:\w+\.)+\w+\b", text)
        assert named, text
        for key in named:
            node: Any = train
            for part in key.split("."):
                assert part in node, key
                node = node[part]
    assert (config_dir() / "adapter" / "lora.yaml").exists() and (config_dir() / "trainer" / "fsdp.yaml").exists()


def test_a_stage_keeps_its_time_and_other_stages_their_words(tmp_path: Path) -> None:
    record = Record(tmp_path, "", {}, {}, {})
    with pytest.raises(OutOfMemoryError, match="at the stage 'evaluation': "), record.stage("evaluation"):
        raise NUMPY
    assert record.timings.keys() == {"evaluation"}
