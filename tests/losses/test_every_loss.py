"""What holds for every option of conf/loss, with every value function: composed and made as a run does it."""

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

import kto_lab.losses
from kto_lab import cli
from kto_lab.losses import Feed, Objective, Pairs, Thumbs
from tests.losses.loss_cases import VALUES

CONF = cli.config_dir()
# Token counts of the completions of a batch; each two in a row make a pair where pairs are asked for.
LENGTHS = (3, 1, 2, 4, 1, 2)
UP = (True, False, False, True, True, False)


@cache
def objective(option: str, value: str = "") -> Objective:
    """The option as a run would make it, and nothing else of the configuration."""
    words = [f"+loss={option}", *([f"value@loss.value={value}"] if value else [])]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose(None, words).loss)


def cases() -> list[tuple[str, str]]:
    """Every option, and those with a value function once with each."""
    assert {file.stem for file in (CONF / "value").glob("*.yaml")} == set(VALUES)
    found = []
    for file in sorted((CONF / "loss").glob("*.yaml")):
        values = VALUES if "/value@value" in file.read_text() else ("",)
        found += [(file.stem, value) for value in values]
    return found


each = pytest.mark.parametrize(("option", "value"), cases(), ids=lambda part: part or "-")


def inputs(
    feed: Feed,
    token_logps: Tensor,
    *,
    lengths: Sequence[int] = LENGTHS,
    reference: Tensor | None = None,
    up: Sequence[bool] = UP,
    weights: tuple[float, float] = (1.3, 0.6),
    z0: float = 0.4,
) -> Thumbs | Pairs:
    """A batch whose log-probabilities all come from those of its tokens.

    Args:
        feed: what the loss is fed with.
        token_logps: (sum of lengths,) log pi of all tokens, completion by completion.
        lengths: tokens of each completion.
        reference: log pi_ref of each completion; one nat a token where None.
        up: the thumbs, where the feed has both.
        weights: lambda_D and lambda_U.
        z0: the reference point.
    """
    policy = torch.stack([part.sum() for part in token_logps.split(list(lengths))])
    counts = torch.tensor(lengths)
    reference = -counts.to(policy.dtype) if reference is None else reference
    if feed is Feed.PAIRS:
        sides = (policy[0::2], policy[1::2], reference[0::2], reference[1::2])
        return Pairs(*sides, lengths_chosen=counts[0::2], lengths_rejected=counts[1::2])
    return Thumbs(
        policy=policy,
        reference=reference,
        desirable=torch.tensor([feed is Feed.DESIRABLE or thumb for thumb in up]),
        lambda_desirable=weights[0],
        lambda_undesirable=weights[1],
        z0=torch.tensor(z0, dtype=policy.dtype),
        token_logps=token_logps,
        lengths=counts,
    )


def some_tokens(dtype: torch.dtype = torch.float64, lengths: Sequence[int] = LENGTHS) -> Tensor:
    """Log-probabilities of tokens between -3 and -0.1, a leaf that takes gradients."""
    generator = torch.Generator().manual_seed(5)
    drawn = -0.1 - 2.9 * torch.rand(sum(lengths), generator=generator, dtype=torch.float64)
    return drawn.to(dtype).requires_grad_()


def losses_and_gradient(made: Objective, token_logps: Tensor, **changes: object) -> tuple[Tensor, Tensor]:
    """The losses of a batch, and the slopes of their sum in its tokens' log-probabilities."""
    losses = made.losses(inputs(made.needs.feed, token_logps, **changes))  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(losses.sum(), token_logps)
    return losses.detach(), gradient


@each
def test_gradients_are_those_of_finite_differences(option: str, value: str) -> None:
    made = objective(option, value)
    assert torch.autograd.gradcheck(lambda logps: made.losses(inputs(made.needs.feed, logps)), some_tokens())


@each
def test_at_policy_equal_reference_there_is_a_finite_loss_and_something_to_learn(option: str, value: str) -> None:
    made, tokens = objective(option, value), some_tokens(torch.float32)
    reference = torch.stack([part.sum() for part in tokens.detach().split(list(LENGTHS))])
    losses, gradient = losses_and_gradient(made, tokens, reference=reference, z0=0.0)
    assert torch.isfinite(losses).all() and torch.isfinite(gradient).all() and gradient.abs().max() > 1e-3


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("turn", [0, 1])
def test_extreme_log_ratios_give_finite_losses_and_gradients(
    option: str, value: str, dtype: torch.dtype, turn: int
) -> None:
    # 1e4 nats up or down in turn, for both classes and both sides of a pair, and in one pair both the same way. No
    # log-probability is above 0: it is the policy or the reference that all but rules a completion out.
    signs = [1, -1, -1, 1, 1, 1] if turn else [-1, 1, 1, -1, -1, -1]
    out = [1e4 if sign < 0 else 0.0 for sign in signs]
    each_token = [-(1.0 + far / n) for far, n in zip(out, LENGTHS, strict=True) for _ in range(n)]
    tokens = torch.tensor(each_token, dtype=dtype, requires_grad=True)
    reference = torch.tensor([-n - (0.0 if sign < 0 else 1e4) for sign, n in zip(signs, LENGTHS, strict=True)])
    losses, gradient = losses_and_gradient(objective(option, value), tokens, reference=reference.to(dtype))
    assert torch.isfinite(losses).all() and torch.isfinite(gradient).all()


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_certain_tokens_give_finite_losses_and_gradients(option: str, value: str, dtype: torch.dtype) -> None:
    # Log-probability 0, and the closest to it that float32 can tell apart.
    tokens = torch.tensor([0.0, -6e-8] * 6 + [0.0], dtype=dtype, requires_grad=True)
    losses, gradient = losses_and_gradient(objective(option, value), tokens)
    assert torch.isfinite(losses).all() and torch.isfinite(gradient).all()


@each
def test_half_precision_is_taken_as_float32(option: str, value: str) -> None:
    made = objective(option, value)
    for half in (torch.bfloat16, torch.float16):
        narrow = inputs(made.needs.feed, some_tokens(half).detach())
        wide = inputs(made.needs.feed, some_tokens(torch.float32).detach())
        # The same numbers, half precision's own sums included.
        same = {
            item.name: getattr(narrow, item.name).float()
            for item in fields(narrow)
            if isinstance(tensor := getattr(wide, item.name), Tensor) and tensor.is_floating_point()
        }
        raw = {name: tensor.to(half) for name, tensor in same.items()}
        assert all(tensor.dtype == half for tensor in raw.values()) and len(same) > 3
        found, wanted = made.losses(replace(wide, **raw)), made.losses(replace(wide, **same))
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted)


@each
def test_each_unit_has_its_own_loss_whatever_else_is_in_the_batch(option: str, value: str) -> None:
    """So a batch of one, and a batch without one of the classes, give what the whole batch gives for them."""
    made, tokens = objective(option, value), some_tokens()
    whole, slopes = losses_and_gradient(made, tokens)
    size = 2 if made.needs.feed is Feed.PAIRS else 1
    units = len(LENGTHS) // size
    assert whole.shape == (units,)
    batches = [[unit] for unit in range(units)]
    if size == 1:
        batches += [[unit for unit in range(units) if UP[unit] == thumb] for thumb in (True, False)]
    batches.append([2, 0, *range(3, units), 1])
    parts, apart = (list(tensor.split(list(LENGTHS))) for tensor in (tokens.detach(), slopes))
    for batch in batches:
        places = [size * unit + side for unit in batch for side in range(size)]
        losses, gradient = losses_and_gradient(
            made,
            torch.cat([parts[place] for place in places]).requires_grad_(),
            lengths=[LENGTHS[place] for place in places],
            up=[UP[place] for place in places],
        )
        torch.testing.assert_close(losses, whole[batch])
        torch.testing.assert_close(gradient, torch.cat([apart[place] for place in places]))


@each
def test_it_reads_what_it_declares_and_nothing_else(option: str, value: str) -> None:
    made, tokens = objective(option, value), some_tokens()
    losses, gradient = losses_and_gradient(made, tokens)
    reference = torch.linspace(-9, -1, len(LENGTHS), dtype=torch.float64)
    for what, declared, changes in (
        ("reference", made.needs.reference, {"reference": reference}),
        ("reference_point", made.needs.reference_point, {"z0": -1.7}),
        ("weighting", made.needs.weighting, {"weights": (0.9, 2.5)}),
    ):
        other_losses, other_gradient = losses_and_gradient(made, tokens, **changes)
        same = torch.equal(losses, other_losses) and torch.equal(gradient, other_gradient)
        assert same is not declared, f"{option} {what}"


@each
def test_a_small_step_down_its_gradient_sets_desirable_above_undesirable(option: str, value: str) -> None:
    made, tokens = objective(option, value), some_tokens()
    losses, gradient = losses_and_gradient(made, tokens)
    after = (tokens - 1e-3 * gradient / gradient.norm()).detach().requires_grad_()
    assert losses_and_gradient(made, after)[0].sum() < losses.sum()
    if made.needs.controls:
        return  # The classes are told apart by the prompt, and both become likelier.
    moved = torch.stack([part.sum() for part in (after - tokens).detach().split(list(LENGTHS))])
    up = torch.tensor(UP if made.needs.feed is Feed.THUMBS else [True, False] * 3)
    if made.needs.feed is Feed.DESIRABLE:
        assert (moved > 0).all()
    elif made.needs.feed is Feed.THUMBS:
        assert (moved[up] > 0).all() and (moved[~up] < 0).all()
    else:
        assert moved[up].sum() > moved[~up].sum()


def test_every_loss_has_an_option_and_rewards_are_reported_on_one_scale() -> None:
    made = [objective(option, value) for option, value in cases()]
    functions = {name for name in kto_lab.losses.__all__ if hasattr(getattr(kto_lab.losses, name), "needs")}
    assert functions == {one.name for one in made}
    assert {one.reward_beta for one in made} == {0.1}
