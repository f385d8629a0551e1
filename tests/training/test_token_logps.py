"""Losses that read the reference's per-token log-probabilities: by way of the store, and however a batch is cut."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from transformers import LlamaForCausalLM

from kto_lab.errors import LabError
from kto_lab.feedback.corruption import unchanged
from kto_lab.feedback.table import build_table
from kto_lab.losses import Feed, Needs
from kto_lab.models import store_scorer
from kto_lab.models.sequences import Tokens
from kto_lab.models.store_disk import shards_in
from kto_lab.models.store_shards import SUMS
from kto_lab.models.store_tokens import TOKENS
from kto_lab.models.tokens import Encoder
from kto_lab.runs.command import train
from kto_lab.runs.record import RECORD
from kto_lab.training.callbacks import METRICS
from kto_lab.training.data import TrainingData, fill_reference, prepare, reference_sequences
from kto_lab.training.steps import AlignmentData, make_step
from tests.small_runs import composed, overrides, run
from tests.training.test_module import BETA, WEIGHTS, one_step, settings
from tests.training.token_losses import OF_TOKENS

TWO = ("optimization.max_steps=2",)


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which forms were computed, once for each sequence."""
    calls: list[str] = []
    for name in ("score", "score_tokens"):
        original = getattr(store_scorer, name)

        def counted(model: Any, sequences: Any, *, name: str = name, original: Any = original, **how: Any) -> Any:
            calls.extend([name] * len(sequences))
            return original(model, sequences, **how)

        monkeypatch.setattr(store_scorer, name, counted)
    return calls


def into(folder: Path, name: str, *more: str) -> Path:
    return run(folder, *TWO, f"run_dir={folder / name}", *more)


def use(folder: Path) -> tuple[int, int]:
    reference = json.loads((folder / RECORD).read_text())["training"]["reference"]
    return reference["found"], reference["computed"]


def shards(folder: Path, suffix: str) -> dict[str, bytes]:
    (scorer,) = (folder / "store").iterdir()
    return {file.path.name: file.path.read_bytes() for file in shards_in(scorer) if file.path.suffix == suffix}


def test_a_run_without_the_store_is_the_run_with_it_and_the_next_finds_all(tmp_path: Path, scored: list[str]) -> None:
    (tmp_path / "apart").mkdir()
    words = overrides(tmp_path / "apart", *TWO, *OF_TOKENS)
    words = [word for word in words if not word.startswith("reference_store.")]
    without = train(composed([*words, "reference_store=none"]))
    assert {*scored} == {"score", "score_tokens"}
    first = into(tmp_path, "first", *OF_TOKENS)
    scored.clear()
    second = into(tmp_path, "second", *OF_TOKENS)
    assert scored == [] and use(first)[0] == 0 and use(second) == (use(first)[1], 0)
    for other in (first, second):
        assert (other / METRICS).read_bytes() == (without / METRICS).read_bytes()


def test_the_sums_of_such_a_run_are_there_for_losses_of_sums(tmp_path: Path, scored: list[str]) -> None:
    _, computed = use(into(tmp_path, "tokens", *OF_TOKENS))
    scored.clear()
    assert use(into(tmp_path, "kto")) == (computed, 0) and scored == []


def test_a_loss_of_sums_reads_and_keeps_what_it_did_before(tmp_path: Path, scored: list[str]) -> None:
    first = into(tmp_path, "first")
    assert {*scored} == {"score"} and shards(tmp_path, TOKENS.suffix) == {}
    before = shards(tmp_path, SUMS.suffix)
    # Sums are known, tokens are not: those are computed, and leave the sums as they are.
    found, computed = use(into(tmp_path, "tokens", *OF_TOKENS))
    assert found > 0 and computed > 0 and shards(tmp_path, SUMS.suffix) == before
    assert len(shards(tmp_path, TOKENS.suffix)) == 1
    again = into(tmp_path, "again")
    assert use(again)[1] == 0 and (again / METRICS).read_bytes() == (first / METRICS).read_bytes()


def test_a_token_that_is_no_number_names_its_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    score_tokens = store_scorer.score_tokens

    def broken(model: Any, sequences: Any, **how: Any) -> tuple[Tensor, Tensor]:
        sums, tokens = score_tokens(model, sequences, **how)
        tokens[-1] = -torch.inf
        return sums, tokens

    with monkeypatch.context() as patch:
        patch.setattr(store_scorer, "score_tokens", broken)
        with pytest.raises(LabError, match=r"log-probability of example \w{8,} is -inf\. Look at that example"):
            into(tmp_path, "run", *OF_TOKENS)
    found, computed = use(into(tmp_path, "run", *OF_TOKENS))
    assert computed == 1 and found > 8


def table() -> Dataset:
    """Eight thumbs of four prompts; prompts and completions of several lengths, so that rows are padded."""
    rows = []
    for number in range(4):
        for letter, good in (("a", True), ("b", False)):
            completion = letter * (1 + 3 * number + 2 * good)
            rows.append({"prompt": f"{number}" * (3 + number), "completion": completion, "desirable": good})
    return build_table(rows, source="test", held_out=0)


def filled(data: TrainingData) -> TrainingData:
    """With a made-up reference, per token where it is trained on."""
    draw = torch.Generator().manual_seed(0)
    sequences = reference_sequences(data)
    tokens = {each: -7 + torch.randn(len(each.completion), generator=draw) for each in sequences}
    sums = {sequence: values.sum().item() for sequence, values in tokens.items()}
    trained = {sequence: tokens[sequence] for sequence in data.tokens.values()}
    fill_reference(data, sums, trained)
    return data


def of_each_token(model: LlamaForCausalLM, tokens: Tokens) -> Tensor:
    ids = torch.tensor([tokens.prompt + tokens.completion])
    logps = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    return logps[len(tokens.prompt) - 1 :]


def by_hand(model: LlamaForCausalLM, data: TrainingData, loss: str) -> dict[str, Tensor]:
    """Gradients of the step straight from the formulas, sequence by sequence."""
    model, reference = copy.deepcopy(model), data.reference_tokens
    members = [data.plan.units[unit] for unit in data.plan.steps[0]]

    def logratios(example: int) -> Tensor:
        return of_each_token(model, data.tokens[example]) - reference[data.tokens[example]]

    if loss == "kto":
        with torch.no_grad():
            pairs = data.mismatched_tokens(0)
            wanted = zip(pairs, data.reference_mismatched[0], strict=True)
            z0 = torch.stack([of_each_token(model, pair).sum() - logp for pair, logp in wanted]).mean()
        assert z0 > 0.5, "the clamp would hide a mistake"
        terms = []
        for (example,) in members:
            r, up = logratios(example), data.desirable[example]
            gain = BETA * (r - z0 / len(r)) * (1 if up else -1)
            terms.append((WEIGHTS.desirable if up else WEIGHTS.undesirable) * torch.sigmoid(-gain).mean())
    else:
        margins = [logratios(up).min() - logratios(down).min() for up, down in members]
        terms = [-torch.nn.functional.logsigmoid(BETA * margin) for margin in margins]
    torch.stack(terms).mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("share", [False, True], ids=["apart", "shared"])
@pytest.mark.parametrize(("loss", "function"), [("kto", "kto_of_tokens"), ("dpo", "worst_token")])
def test_the_gradient_is_that_of_the_formula_however_the_batch_is_cut(
    model: LlamaForCausalLM, encoder: Encoder, loss: str, function: str, share: bool, packed: bool
) -> None:
    function = f"loss.function=tests.training.token_losses.{function}"
    data = filled(prepare(unchanged(table()), encoder, *settings(loss, 64, function), seed=0))
    wanted = by_hand(model, data, loss)
    cuts, padded = set(), 0.0
    for budget in (16, 64, 512):
        made = settings(loss, budget, function)
        step = AlignmentData(data, *made, share_prompts=share, packed=packed).make_step(0)
        cuts.add(len(step.micro_batches))
        padded = max(padded, step.padding)
        spy, _ = one_step(model, data, made, share, packed)
        assert spy.gradients.keys() == wanted.keys()
        for name, gradient in spy.gradients.items():
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=2e-6, msg=f"{name}, {budget} tokens")
    assert 1 in cuts and len(cuts) == 3 and (padded > 0.1) == (not packed)


def test_losses_of_sums_are_given_no_reference_tokens(encoder: Encoder) -> None:
    made = settings("kto", 64)
    data = prepare(unchanged(table()), encoder, *made, seed=0)
    fill_reference(data, dict.fromkeys(reference_sequences(data), 0.0))
    step = make_step(data, *made, 0, share_prompts=False)
    assert all(len(micro_batch.reference_tokens) == 0 for micro_batch in step.micro_batches)


def test_a_declaration_that_contradicts_itself_says_so() -> None:
    with pytest.raises(LabError, match=r"reference_token_logps=True\): per-token .* Leave one of the two out"):
        Needs(Feed.THUMBS, reference=False, reference_token_logps=True)
