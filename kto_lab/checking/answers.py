"""Checks of what reads a policy beside training: greedy answers, lm-eval, and the reference's log-probability store."""

import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM

from kto_lab.checking.comparing import ADVICE, difference, within
from kto_lab.checking.policies import device, enlarge, llama, logps, sequences
from kto_lab.checking.row import Row, judged
from kto_lab.checking.runs import thumbs
from kto_lab.checking.settings import Limits, Size
from kto_lab.evaluation.lm_eval import language_model
from kto_lab.evaluation.lm_eval_tasks import printing_to
from kto_lab.models.adapters import moved
from kto_lab.models.generate import generate
from kto_lab.models.store import ReferenceStore
from kto_lab.models.store_scorer import scorer_of
from kto_lab.models.tiny import byte_tokenizer
from kto_lab.models.tokens import Encoder

NEW_TOKENS = 24


def _policy(encoder: Encoder, size: Size) -> LlamaForCausalLM:
    model = llama(size, vocabulary=len(encoder.tokenizer))
    enlarge(model)
    moved(model, device())
    return model


def greedy(size: Size, limits: Limits) -> Row:
    """Greedy answers of a batch against transformers' own, prompt by prompt."""
    encoder = Encoder(byte_tokenizer())
    model, prompts = _policy(encoder, size), sorted({row["prompt"] for row in thumbs()}, key=len)
    found = generate(model, encoder, prompts, max_new_tokens=NEW_TOKENS)
    unlike = 0
    for prompt, (answer,) in zip(prompts, found, strict=True):
        ids = torch.tensor([encoder.prompt(prompt)], device=model.device)
        right = model.generate(  # type: ignore[misc]
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False
        )
        unlike += list(answer.tokens) != right[0, ids.shape[1] :].tolist()
    said = f"{unlike} of {len(prompts)} answers differ" if unlike else f"the same {len(prompts)} answers"
    return judged("greedy answers", said, limit="transformers' own", holds=not unlike, mend=ADVICE)


def lm_eval(size: Size, limits: Limits) -> Row:
    """lm-eval's log-likelihoods of completions against the lab's log-probabilities."""
    from lm_eval.api.instance import Instance

    encoder = Encoder(byte_tokenizer())
    model, rows = _policy(encoder, size), thumbs()
    asked = [(row["prompt"], row["completion"]) for row in rows]
    tokens = [encoder.encode(prompt, completion, finished=False) for prompt, completion in asked]
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(asked)]
    with tempfile.TemporaryDirectory() as scratch, printing_to(Path(scratch) / "lm_eval.log"):
        judge = language_model(model, encoder, 4)
        judge.add_bos_token = False
        theirs = torch.tensor([value for value, _ in judge.loglikelihood(requests, disable_tqdm=True)])
    with torch.no_grad():
        ours = logps(model, [one for one in tokens if one is not None], packed=True)
    return within("lm-eval from log-probs", difference(theirs, ours), limits.lm_eval)


def store(size: Size, limits: Limits) -> Row:
    """Log-probabilities that come back from the store bit for bit, and of no other sequence."""
    encoder = Encoder(byte_tokenizer())
    model, tokens = _policy(encoder, size), sequences(size)
    scorer = scorer_of(model, name="check", number_format="32-true", device=device())
    with torch.no_grad():
        values = logps(model, tokens).cpu().numpy()
    kept, other = tokens[:-1], tokens[-1:]
    with tempfile.TemporaryDirectory() as scratch:
        written, read = (ReferenceStore(scratch, max_mb=64).logp_cache(scorer) for _ in range(2))
        assert written is not None and read is not None
        written.put(kept, values[:-1])
        found = read.lookup([*kept, *other])
        there = any(Path(scratch).rglob("*"))
    same = np.array_equal(found[:-1], values[:-1]) and np.isnan(found[-1])
    said = "bit for bit the same" if same else "other values came back"
    return judged("reference store", said, limit="bit for bit", holds=bool(same and there), mend=ADVICE)
