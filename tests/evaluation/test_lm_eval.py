import copy
import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, config
from lm_eval.models.huggingface import HFLM
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from kto_lab.evaluation.answers import answer_prompts
from kto_lab.evaluation.lm_eval import run_lm_eval, write_tasks
from kto_lab.evaluation.lm_eval_tasks import LOCAL_TASKS
from kto_lab.evaluation.metrics import higher_is_better
from kto_lab.feedback.checkers import arithmetic_checks
from kto_lab.feedback.table import build_table
from kto_lab.models.tiny import byte_tokenizer, random_llama
from kto_lab.models.tokens import Encoder, Prompt
from kto_lab.statistics import Estimate, proportion_interval
from tests.small_tokenizers import dated, end_and_more, end_as_text, end_not_eos, ending_each, instructions
from tests.taught import taught

ROOT = Path(__file__).parents[2]
TOKENS = 12


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A policy whose answers differ from prompt to prompt, some ended early, with some letters and spaces in them."""
    model = random_llama(vocabulary=len(tokenizer), seed=2, hidden=32, layers=2, intermediate=64)
    vocabulary = tokenizer.get_vocab()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight *= 15
        model.lm_head.weight[[vocabulary[token] for token in ("<|im_end|>", "Ġ", *"etao")]] *= 3
    return model


def table(prompts: list[Prompt], answers: list[str] | None = None) -> Dataset:
    """Held-out prompts whose right answers are the ones given; without answers they carry no checks."""
    rows: list[dict[str, Any]] = [
        {
            "prompt": prompt,
            "completion": "x",
            "desirable": True,
            "checks": "" if answers is None else arithmetic_checks(answers[number].strip()),
            "split": "test",
        }
        for number, prompt in enumerate(prompts)
    ]
    return build_table(rows, source="questions", held_out=0.0)


def half_right(model: LlamaForCausalLM, encoder: Encoder, prompts: list[Prompt]) -> Dataset:
    """A table whose right answer is the model's own greedy one for every other prompt, and wrong for the rest."""
    found = answer_prompts(
        model, encoder, table(prompts), prompts=len(prompts), max_new_tokens=TOKENS, batch_tokens=400, seed=0
    )
    own = {str(answer.prompt): answer.answer for answer in found}
    assert len(set(own.values())) > 1 and any(answer.split() for answer in own.values())
    return table(prompts, [own[str(prompt)] + ("" if place % 2 else "!") for place, prompt in enumerate(prompts)])


def questions(count: int) -> list[Prompt]:
    system = {"role": "system", "content": "Answer in one word."}
    asked = [{"role": "user", "content": f"{number} and {'more ' * number}{number * 7}?"} for number in range(count)]
    return [[system, turn] if number % 3 else [turn] for number, turn in enumerate(asked)]


def evaluate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tasks: list[str], data: Dataset, run: Path, **more: Any
) -> dict[str, dict[str, Estimate]]:
    settings = {"max_new_tokens": TOKENS, "limit": None, "batch_size": 4, "num_fewshot": None, "seed": 0, **more}
    found = run_lm_eval(model, Encoder(tokenizer), tasks, table_test=data, folder=run / "lm_eval", **settings)
    for task in {*LOCAL_TASKS} & found.higher_is_better.keys():
        # What the lab declares of its own tasks is what these say.
        declared = {name: higher_is_better(f"{task}.{name}") for name in found.estimates[task]}
        assert found.higher_is_better[task] == declared
    return found.estimates


@pytest.mark.slow
def test_the_command_line_returns_the_same_numbers(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, encoder: Encoder, tmp_path: Path
) -> None:
    tasks = ["kto_lab_checks", "kto_lab_neutral"]
    found = evaluate(model, tokenizer, tasks, half_right(model, encoder, questions(12)), tmp_path)
    model.save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    command = (
        f"-m lm_eval run --model hf --model_args pretrained={moved}/policy --include_path {moved}/lm_eval --tasks "
        f"{','.join(tasks)} --apply_chat_template --batch_size 4 --device cpu --output_path {moved}/out"
    )
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(moved / "cache"),
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, *command.split()], cwd=moved, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = moved.glob("out/*/results_*.json")
    results = json.loads(file.read_text())["results"]
    for task, metrics in found.items():
        theirs = {key.removesuffix(",none"): value for key, value in results[task].items() if key.endswith(",none")}
        ours = {name: estimate.value for name, estimate in metrics.items()}
        assert ours == pytest.approx({name: theirs[name] for name in ours}, rel=1e-6), task
    assert found["kto_lab_checks"]["pass_rate"] == proportion_interval(6, 12)
    assert found["kto_lab_checks"]["answer_words"].value > 0


def test_nothing_is_printed_and_everything_is_left_as_it_was(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    encoder: Encoder,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = half_right(model, encoder, questions(4))
    model.train()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    expected = (torch.rand(1).item(), random.random(), np.random.random())
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    for _ in range(2):
        found = evaluate(model, tokenizer, ["kto_lab_checks"], data, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert model.training
    assert (torch.rand(1).item(), random.random(), np.random.random()) == expected
    assert found["kto_lab_checks"]["pass_rate"].value == 0.5
    assert "generate_until" in (tmp_path / "lm_eval.log").read_text()


def test_plain_text_prompts_are_continued_without_a_chat_template(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, encoder: Encoder, tmp_path: Path
) -> None:
    data = half_right(model, encoder, [f"The film number {number} was" for number in range(8)])
    found = evaluate(model, tokenizer, ["kto_lab_checks"], data, tmp_path)
    assert found["kto_lab_checks"]["pass_rate"] == proportion_interval(4, 8)


def test_the_neutral_perplexity_is_the_models(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    found = evaluate(model, tokenizer, ["kto_lab_neutral"], table(questions(2)), tmp_path, limit=5)["kto_lab_neutral"]
    lines = (tmp_path / "lm_eval" / "neutral.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    assert len(texts) == len(set(texts)) == 60
    total = 0.0
    for text in texts[:5]:
        ids = torch.tensor([tokenizer.eos_token_id, *tokenizer(text)["input_ids"]])
        logps = model(ids[None, :-1]).logits[0].log_softmax(-1)
        total += logps.gather(1, ids[1:, None]).sum().item()
    words, size = sum(len(text.split()) for text in texts[:5]), sum(len(text.encode()) for text in texts[:5])
    assert found["word_perplexity"].value == pytest.approx(math.exp(-total / words), rel=1e-4)
    assert found["bits_per_byte"].value == pytest.approx(-total / size / math.log(2), rel=1e-5)
    assert found["byte_perplexity"].low < found["byte_perplexity"].value < found["byte_perplexity"].high
    assert all(estimate.n == 5 for estimate in found.values())


def test_a_task_file_of_ones_own_has_the_interval_of_its_standard_error(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    documents = [{"question": f"{n}:", "choices": [" ab", " cd"], "answer": n % 2} for n in range(8)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    (tmp_path / "own.yaml").write_text(
        "task: own\noutput_type: multiple_choice\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {tmp_path}/own.jsonl\ntest_split: test\ndoc_to_text: question\n"
        "doc_to_choice: choices\ndoc_to_target: answer\n"
    )
    found = evaluate(model, tokenizer, [str(tmp_path / "own.yaml")], table(questions(2)), tmp_path)
    accuracy = found["own"]["acc"]
    assert accuracy.n == 8
    error = math.sqrt(accuracy.value * (1 - accuracy.value) / 7)
    assert accuracy.low == pytest.approx(accuracy.value - 1.96 * error)
    assert accuracy.high == pytest.approx(accuracy.value + 1.96 * error)


def test_checks_hold_the_first_prompts_up_to_the_limit(
    tokenizer: PreTrainedTokenizerFast, encoder: Encoder, model: LlamaForCausalLM, tmp_path: Path
) -> None:
    data = table(questions(9), ["1"] * 9)
    for limit, expected in ((4, 4), (None, 9)):
        write_tasks(tmp_path / "tasks", encoder, data, max_new_tokens=3, limit=limit)
        lines = (tmp_path / "tasks" / "checks.jsonl").read_text().splitlines()
        assert len(lines) == expected
    answers = answer_prompts(model, encoder, data, prompts=4, max_new_tokens=1, batch_tokens=400, seed=0)
    assert [json.loads(line)["prompt_id"] for line in lines[:4]] == [answer.prompt_id for answer in answers]


def test_a_control_text_ends_a_plain_prompt_and_not_a_chat_message(encoder: Encoder, tmp_path: Path) -> None:
    asking = encoder.with_control("<|good|>")
    for prompts, wanted in ((["1+1="], "1+1=<|good|>"), (questions(1), questions(1)[0][-1]["content"])):
        write_tasks(tmp_path / "tasks", asking, table(prompts, ["1"]), max_new_tokens=3, limit=None)
        assert json.loads((tmp_path / "tasks" / "checks.jsonl").read_text())["text"] == wanted


def test_conversations_of_several_turns_do_not_hinder_other_tasks(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    found = evaluate(model, tokenizer, ["kto_lab_neutral"], table([turns], ["1"]), tmp_path, limit=2)
    assert found["kto_lab_neutral"]["bits_per_byte"].n == 2


@pytest.mark.parametrize("make", [byte_tokenizer, end_as_text, end_not_eos, instructions, ending_each, dated])
@pytest.mark.parametrize("chat", [True, False])
def test_the_policy_is_asked_with_the_ids_that_it_was_trained_with(
    make: Callable[[], PreTrainedTokenizerFast], chat: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(make())
    model = random_llama(vocabulary=len(encoder.tokenizer), hidden=32, layers=2, intermediate=64)
    asked: list[tuple[int, ...]] = []

    def listen(
        self: HFLM, context: torch.Tensor, *more: Any, attention_mask: torch.Tensor, **rest: Any
    ) -> torch.Tensor:
        asked.extend(tuple(ids[mask.bool()].tolist()) for ids, mask in zip(context, attention_mask, strict=True))
        return context

    monkeypatch.setattr(HFLM, "_model_generate", listen)
    prompts: list[Prompt] = [
        [{"role": "user", "content": text}] if chat else text for text in ("one", "<|im_end|> two")
    ]
    run_lm_eval(
        model,
        encoder,
        ["kto_lab_checks"],
        table_test=table(prompts, ["1", "2"]),
        folder=tmp_path / "lm_eval",
        max_new_tokens=2,
        limit=None,
        batch_size=4,
        num_fewshot=None,
        seed=0,
    )
    assert sorted(asked) == sorted(map(encoder.prompt, prompts))


@pytest.mark.parametrize("chat", [True, False])
def test_a_text_that_lm_eval_begins_has_one_beginning(
    chat: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = instructions()
    model = random_llama(vocabulary=len(tokenizer), hidden=32, layers=2, intermediate=64)
    seen: list[list[int]] = []
    call = HFLM._model_call

    def listen(self: HFLM, inps: torch.Tensor, **rest: Any) -> torch.Tensor:
        seen.extend(inps.tolist())
        return call(self, inps, **rest)

    monkeypatch.setattr(HFLM, "_model_call", listen)
    data = table(questions(2) if chat else ["1+1="])
    evaluate(model, tokenizer, ["kto_lab_neutral"], data, tmp_path, limit=2, batch_size=1)
    assert len(seen) == 2 and all(ids.count(tokenizer.bos_token_id) == 1 for ids in seen)


@pytest.mark.parametrize("make", [end_as_text, end_not_eos, end_and_more])
def test_an_answer_ends_for_lm_eval_where_it_does_for_us(
    make: Callable[[], PreTrainedTokenizerFast], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = make()
    encoder = Encoder(tokenizer)
    prompts, said = [questions(4)[0], questions(4)[3]], ["use <b>", "a longer answer!"]
    more = tuple(tokenizer("\nand on and on", add_special_tokens=False)["input_ids"])
    model = taught(
        tokenizer,
        [
            (encoder.prompt(prompt), encoder.completion(prompt, text, finished=True) + more)
            for prompt, text in zip(prompts, said, strict=True)
        ],
    )
    kept = copy.deepcopy(model.generation_config)
    found = evaluate(model, tokenizer, ["kto_lab_checks"], table(prompts, said), tmp_path, max_new_tokens=40)
    assert found["kto_lab_checks"]["answer_words"].value == 2.5
    assert found["kto_lab_checks"]["pass_rate"].value == 1
    assert model.generation_config.to_dict() == kept.to_dict()

    # A task that says nothing of ends stops at the same place.
    made: list[str] = []
    generate = HFLM._model_generate

    def listen(self: HFLM, context: torch.Tensor, *more: Any, **rest: Any) -> torch.Tensor:
        whole = generate(self, context, *more, **rest)
        made.extend(tokenizer.batch_decode(whole[:, context.shape[1] :]))
        return whole

    monkeypatch.setattr(HFLM, "_model_generate", listen)
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "own.jsonl").write_text("".join(json.dumps({"text": p[-1]["content"]}) + "\n" for p in prompts))
    (tmp_path / "own.yaml").write_text(
        "task: own\noutput_type: generate_until\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {tmp_path}/own.jsonl\ntest_split: test\ndoc_to_text: text\ndoc_to_target: ''\n"
        "generation_kwargs:\n  until: ['@@']\n  max_gen_toks: 40\nmetric_list:\n  - metric: exact_match\n"
    )
    evaluate(model, tokenizer, [str(tmp_path / "own.yaml")], table(prompts[:1], said), tmp_path)
    assert len(made) == 2 and all(text.partition("<|im_end|>")[0] in said for text in made)
    assert not any("and on" in text for text in made)
