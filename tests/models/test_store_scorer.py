"""Who the scorer is, and what is computed where the store knows nothing."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from kto_lab.models import store_scorer
from kto_lab.models.adapters import Lora
from kto_lab.models.logps import score
from kto_lab.models.scorer import Scorer
from kto_lab.models.sequences import Tokens
from kto_lab.models.store_scorer import known, not_finite, prompt_groups, score_and_keep, scorer_of, weights_hash
from tests.models.store_worker import cache_in

SEQUENCES = [
    Tokens(tuple(range(5, 5 + prompt)), tuple(range(40, 40 + length)))
    for prompt in (3, 9, 4, 20)
    for length in (1, 5, 12)
]
HOW = {"pad_id": 2, "token_budget": 40, "share_prompts": True}


def scorer(model: Any, number_format: str = "32-true") -> Scorer:
    return scorer_of(model, name="tiny", number_format=number_format, device=torch.device("cpu"))


def reloaded(model: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    model.save_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder)


def test_the_same_model_from_elsewhere_is_the_same_scorer(model: LlamaForCausalLM, tmp_path: Path) -> None:
    first, second = reloaded(model, tmp_path / "one"), reloaded(model, tmp_path / "two")
    assert scorer(first).key == scorer(second).key
    assert scorer(first).key == scorer(copy.deepcopy(first)).key


def one_weight(model: LlamaForCausalLM) -> None:
    model.get_parameter("model.layers.1.mlp.up_proj.weight").data[3, 4] += 1e-6


def another_dtype(model: LlamaForCausalLM) -> None:
    model.to(torch.bfloat16)


def another_configuration(model: LlamaForCausalLM) -> None:
    model.config.rms_norm_eps *= 2


def another_attention(model: LlamaForCausalLM) -> None:
    model.set_attn_implementation("eager")


@pytest.mark.parametrize("change", [one_weight, another_dtype, another_configuration, another_attention])
def test_what_changes_the_number_is_another_scorer(
    model: LlamaForCausalLM, change: Callable[[LlamaForCausalLM], None]
) -> None:
    before = scorer(model).key
    change(model)
    assert scorer(model).key != before


def test_another_number_format_device_or_code_is_another_scorer(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {scorer(model).key, scorer(model, "bf16-mixed").key}
    monkeypatch.setattr(store_scorer, "_kind", lambda device: "another")
    keys.add(scorer(model).key)
    monkeypatch.setattr(store_scorer, "scoring_code", lambda: "another")
    keys.add(scorer(model).key)
    monkeypatch.setattr(torch, "__version__", "1.0")
    keys.add(scorer(model).key)
    assert len(keys) == 5


def test_the_code_that_scores_is_followed_through_its_imports() -> None:
    found = store_scorer._modules(store_scorer.SCORING)
    assert "kto_lab.segment_sums" in found, "it adds up a completion, and is no part of kto_lab.models"
    assert {"kto_lab.models.logps", "kto_lab.models.rows", "kto_lab.models.sequences"} <= found.keys()
    assert not {f"kto_lab.models.{name}" for name in ("store", "generate", "load", "tokens")} & found.keys()


def test_weights_that_are_transposed_or_renamed_hash_otherwise() -> None:
    def holding(name: str, shape: tuple[int, int]) -> Any:
        module = torch.nn.Module()
        module.register_parameter(name, torch.nn.Parameter(torch.zeros(shape)))
        return module

    plain = weights_hash(holding("a", (2, 3)))
    assert len({plain, weights_hash(holding("a", (3, 2))), weights_hash(holding("b", (2, 3)))}) == 3
    assert weights_hash(holding("a", (2, 3))) == plain


def test_an_adapter_that_is_fresh_scores_what_full_fine_tuning_finds(model: LlamaForCausalLM, tmp_path: Path) -> None:
    logp_cache = cache_in(tmp_path, scorer=scorer(model))
    full = score_and_keep(model, SEQUENCES, logp_cache, advance=lambda _: None, **HOW)  # type: ignore[arg-type]
    adapter = Lora(rank=2, alpha=4, dropout=0.1, target_modules="all-linear", merge=False)
    lora = score_and_keep(adapter.attach(model), SEQUENCES, None, advance=lambda _: None, **HOW)  # type: ignore[arg-type]
    assert torch.equal(full, lora) and torch.equal(known(logp_cache, SEQUENCES), full)


def test_kept_is_what_is_scored_and_nothing_is_scored_twice(model: LlamaForCausalLM, tmp_path: Path) -> None:
    counted: list[int] = []
    logp_cache = cache_in(tmp_path)
    kept = score_and_keep(model, SEQUENCES, logp_cache, advance=counted.append, **HOW)  # type: ignore[arg-type]
    assert sum(counted) == len(SEQUENCES)
    torch.testing.assert_close(kept, score(model, SEQUENCES, **HOW), rtol=1e-5, atol=1e-4)  # type: ignore[arg-type]
    without = score_and_keep(model, SEQUENCES, None, advance=lambda _: None, **HOW)  # type: ignore[arg-type]
    assert torch.equal(kept, without)
    assert torch.equal(known(cache_in(tmp_path), SEQUENCES), kept)


def test_where_only_some_are_known_the_rest_differ_by_rounding_alone(model: LlamaForCausalLM, tmp_path: Path) -> None:
    """Float32: to 1e-5 of the value, or 1e-4 nats, as any other cut into batches."""
    logp_cache = cache_in(tmp_path)
    whole = score_and_keep(model, SEQUENCES, None, advance=lambda _: None, **HOW)  # type: ignore[arg-type]
    score_and_keep(model, SEQUENCES[1::3], logp_cache, advance=lambda _: None, **HOW)  # type: ignore[arg-type]
    logps = known(logp_cache, SEQUENCES)
    missing = not_finite(logps)
    assert len(missing) == 8
    rest = [SEQUENCES[index] for index in missing]
    logps[missing] = score_and_keep(model, rest, logp_cache, advance=lambda _: None, **HOW)  # type: ignore[arg-type]
    torch.testing.assert_close(logps, whole, rtol=1e-5, atol=1e-4)


def test_a_job_that_is_stopped_keeps_the_parts_that_it_had(
    model: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_scorer, "BATCHES_PER_PART", 1)
    done: list[int] = []

    def stop(count: int) -> None:
        done.append(count)
        if sum(done) > 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_and_keep(model, SEQUENCES, cache_in(tmp_path), advance=stop, **HOW)  # type: ignore[arg-type]
    left = not_finite(known(cache_in(tmp_path), SEQUENCES))
    assert 0 < len(left) < len(SEQUENCES)
    # Short ones come first, and a prompt's completions together.
    assert max(len(SEQUENCES[i]) for i in range(len(SEQUENCES)) if i not in left) <= max(
        len(SEQUENCES[i]) for i in left
    )


def test_sequences_are_grouped_by_prompt_and_length() -> None:
    groups = prompt_groups(SEQUENCES)
    assert groups == [[0, 1, 2], [6, 7, 8], [3, 4, 5], [9, 10, 11]]
    assert prompt_groups([]) == []
