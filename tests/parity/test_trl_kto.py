"""KTO and its anchored variant against TRL's KTOTrainer."""

import pytest
from trl import KTOConfig, KTOTrainer

from kto_lab.losses import apo_zero_unpaired, kto
from kto_lab.losses.reference_points import Batch, Evidence
from kto_lab.losses.values import logistic
from kto_lab.models.sequences import Tokens
from tests.parity.side_by_side import THUMBS, Bench, Outcome, assert_same, collate, cut, real_tokens, theirs, thumb_rows

BETA = 0.3


def trl_outcome(
    bench: Bench, loss: str, weights: tuple[float, float], expected: list[Tokens], mismatched: list[Tokens]
) -> tuple[Outcome, float]:
    """TRL's outcome and its z0, after checking that it sees these sequences and these mismatched pairs."""
    trainer = bench.trainer(
        KTOTrainer,
        KTOConfig,
        thumb_rows(),
        loss_type=loss,
        beta=BETA,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
    )
    batch = collate(trainer)
    assert real_tokens(batch["input_ids"], batch["attention_mask"], batch["completion_mask"]) == expected
    assert batch["label"].tolist() == [desirable for _, _, desirable in THUMBS]
    assert ("KL_input_ids" in batch) is bool(mismatched)
    if mismatched:
        kl = (batch["KL_input_ids"], batch["KL_attention_mask"], batch["KL_completion_mask"])
        assert real_tokens(*kl) == mismatched
    # One example at a time, but with the reference point of the whole batch.
    outcome = theirs(trainer, batch, cut(batch, len(THUMBS), whole=("KL_",)))
    return outcome, trainer._metrics["train"]["kl"][0]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.5, 0.7)])
@pytest.mark.parametrize("clamped", [False, True])
def test_kto_agrees_with_trl(bench: Bench, weights: tuple[float, float], clamped: bool) -> None:
    bench = bench.swapped() if clamped else bench
    sequences = [bench.encode(prompt, completion) for prompt, completion, _ in THUMBS]
    # TRL rotates the completions of a batch by one.
    mismatched = [
        Tokens(x.prompt, y.completion) for x, y in zip(sequences, sequences[-1:] + sequences[:-1], strict=True)
    ]
    thumbs = bench.thumbs(weights=weights)
    point = Batch().estimate(Evidence(bench.logratios(mismatched), thumbs.desirable))
    assert (point.raw < 0) is clamped and abs(point.raw) > 0.1
    outcome, z0 = trl_outcome(bench, "kto", weights, sequences, mismatched)
    assert point.z0.item() == pytest.approx(z0, abs=1e-5)
    thumbs = bench.thumbs(z0=point.z0, weights=weights)
    assert_same(bench.ours(kto(thumbs, beta=BETA, value=logistic)), outcome)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.5, 0.7)])
def test_apo_zero_unpaired_agrees_with_trl(bench: Bench, weights: tuple[float, float]) -> None:
    sequences = [bench.encode(prompt, completion) for prompt, completion, _ in THUMBS]
    outcome, z0 = trl_outcome(bench, "apo_zero_unpaired", weights, sequences, [])
    assert z0 == 0
    assert_same(bench.ours(apo_zero_unpaired(bench.thumbs(weights=weights), beta=BETA)), outcome)


def test_the_examples_lie_on_both_sides_of_the_reference(bench: Bench) -> None:
    rewards = BETA * bench.thumbs().logratio.detach()
    assert rewards.min() < -0.1 and rewards.max() > 0.1 and rewards.abs().max() < 4
