"""lm-eval computes what the scorer computes: in each number format, with and without an adapter."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import PreTrainedTokenizerFast

from kto_lab.evaluation.lm_eval import language_model
from kto_lab.models.adapters import FullFineTuning, Lora, Policy, attached
from kto_lab.models.generate import generate
from kto_lab.models.logps import score
from kto_lab.models.number_format import as_read
from kto_lab.models.sequences import Tokens
from kto_lab.models.tiny import random_llama
from kto_lab.models.tokens import Encoder

FORMATS = ("32-true", "bf16-mixed")
LORA = Lora(rank=4, alpha=8, dropout=0.0, target_modules="all-linear", merge=False)
PROMPTS = ["1+1=", "12+30=", "a longer prompt than the others:"]
ENDED = {"until": ["<|im_end|>"], "max_gen_toks": 8, "do_sample": False}


def asking(kind: Any, *arguments: Any) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def computing(number_format: str) -> Any:
    return nullcontext() if number_format == "32-true" else torch.autocast("cpu", torch.bfloat16)


def made(tokenizer: PreTrainedTokenizerFast, number_format: str, adapter: Any, dtype: torch.dtype) -> Policy:
    """A policy as a run has it; an adapter that has learned something."""
    model = random_llama(vocabulary=len(tokenizer), hidden=32, layers=2, intermediate=64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    as_read(model.to(dtype), number_format=number_format, trained=adapter.trains_the_model)
    torch.manual_seed(0)
    policy = attached(model, adapter, number_format=number_format)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return policy.eval()


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize(
    ("adapter", "dtype"),
    [(FullFineTuning(), torch.float32), (LORA, torch.float32), (LORA, torch.bfloat16)],
    ids=["full", "lora", "lora over bfloat16"],
)
def test_log_likelihoods_and_answers_are_the_labs(
    number_format: str,
    adapter: FullFineTuning | Lora,
    dtype: torch.dtype,
    tokenizer: PreTrainedTokenizerFast,
    encoder: Encoder,
) -> None:
    policy = made(tokenizer, number_format, adapter, dtype)
    context, text = "one and one", " are two, as everybody knows"
    ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    beginnings = [tuple(tokenizer(context, add_special_tokens=False)["input_ids"]), (tokenizer.eos_token_id,)]
    with computing(number_format):
        lm = language_model(policy, encoder, batch_size=2)
        lm.add_bos_token = False
        found = [lm.loglikelihood([asking("loglikelihood", context, text)], disable_tqdm=True)[0][0]]
        found += lm.loglikelihood_rolling([asking("loglikelihood_rolling", text)], disable_tqdm=True)
        answers = lm.generate_until([asking("generate_until", prompt, ENDED) for prompt in PROMPTS], disable_tqdm=True)
        sequences = [Tokens(beginning, ids) for beginning in beginnings]
        # One at a time, as lm-eval: products of other shapes add up in another order.
        wanted = score(policy, sequences, pad_id=encoder.pad_id, token_budget=1)
        own = generate(policy, encoder, PROMPTS, max_new_tokens=8)
    assert found == pytest.approx(wanted.tolist(), rel=1e-6)
    assert answers == [answer.text for (answer,) in own] and len(set(answers)) == 3


def test_what_lm_eval_has_used_is_as_it_was(tokenizer: PreTrainedTokenizerFast, encoder: Encoder) -> None:
    policy = made(tokenizer, "bf16-mixed", FullFineTuning(), torch.float32)
    before = dict(vars(policy.get_output_embeddings()))
    with computing("bf16-mixed"):
        language_model(policy, encoder, batch_size=2).loglikelihood([asking("loglikelihood", "1", "2")])
        logits = policy(torch.tensor([[1, 2]])).logits
    assert vars(policy.get_output_embeddings()) == before and logits.dtype == torch.bfloat16
