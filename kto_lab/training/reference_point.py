"""The reference point of a step: the log-ratios that it is estimated from, over all micro-batches and processes."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor

from kto_lab.losses.objective import Estimator, Sampling
from kto_lab.losses.reference_points import Completions, Evidence, ReferencePoint, State
from kto_lab.models.adapted import is_adapted
from kto_lab.models.adapters import Policy
from kto_lab.models.ending import Ending
from kto_lab.models.generate import sample_tokens
from kto_lab.models.logps import evaluating, score
from kto_lab.models.placing import placed
from kto_lab.models.reference import ReferencePolicy
from kto_lab.models.sequences import Tokens
from kto_lab.training.steps import MicroBatch, Step


class PolicySamples:
    """Completions that the policy samples during training, and their log-ratios to the reference.

    Make it while the policy still has its first weights: where those are the reference's, a policy without an adapter
    is copied.
    """

    def __init__(
        self, policy: Policy, reference: ReferencePolicy, *, pad_id: int, ending: Ending, token_budget: int, seed: int
    ) -> None:
        """Keep the reference.

        Args:
            policy: as it is before its first step.
            reference: of the policy; a model that it loads is kept.
            pad_id: any valid token id.
            ending: how a completion ends.
            token_budget: padded tokens per batch of scoring.
            seed: of the sampling, with the number of the step.
        """
        self.reference = reference
        self.model: Policy | None = None
        if not (reference.inside and is_adapted(policy)):
            # Every step asks both, so both stay on the device.
            self.model = copy.deepcopy(policy) if reference.inside else reference.load()
            self.model.requires_grad_(False).eval()
        self.pad_id = pad_id
        self.ending = ending
        self.token_budget = token_budget
        self.seed = seed

    def logratios(self, policy: Policy, step: Step, sampled: Sampling) -> Tensor:
        """(samples,) log pi - log pi_ref of fresh completions of the step's first prompts, nats.

        Every process draws the same ones, so nothing depends on their number.
        """
        prompts = [step.prompts[place % len(step.prompts)] for place in range(sampled.samples)]
        own = torch.Generator().manual_seed(self.seed * 1_000_003 + step.number)
        with evaluating(policy):
            drawn = sample_tokens(
                policy,
                prompts,
                pad_id=self.pad_id,
                ended=self.ending.reached,
                max_new_tokens=sampled.max_new_tokens,
                chances=torch.rand(len(prompts), sampled.max_new_tokens, dtype=torch.float64, generator=own),
            )
        sequences = [Tokens(prompt, tuple(ids)) for prompt, ids in zip(prompts, drawn, strict=True)]
        under_policy = score(policy, sequences, pad_id=self.pad_id, token_budget=self.token_budget)
        with self.reference.of(policy) if self.model is None else nullcontext(self.model) as reference:
            return under_policy - score(reference, sequences, pad_id=self.pad_id, token_budget=self.token_budget)


@torch.no_grad()
def estimate(
    estimator: Estimator,
    step: Step,
    state: State,
    *,
    policy: Policy,
    logps: Callable[[MicroBatch], Tensor],
    uses_reference: bool,
    samples: PolicySamples | None,
    sum_over_processes: Callable[[Tensor], Tensor],
    device: torch.device,
) -> ReferencePoint:
    """The reference point of a step, the same on every process, on the CPU.

    Args:
        estimator: says which completions, and makes z0 of their log-ratios.
        step: as this process sees it.
        state: what the estimator handed over at the step before.
        policy: put into eval mode meanwhile.
        logps: maps a micro-batch to its (sequences,) log pi(y|x), nats.
        uses_reference: whether outcomes are log-ratios; without, they are log pi(y|x).
        samples: draws completions, for an estimator that asks for it.
        sum_over_processes: adds up a tensor over all processes.
        device: of the micro-batches' tensors.
    """
    if estimator.completions is Completions.SAMPLED:
        assert samples is not None
        logratios = samples.logratios(policy, step, cast(Sampling, estimator))
    elif estimator.completions is Completions.NONE:
        logratios = torch.zeros(step.units)
    else:
        matched = estimator.completions is Completions.MATCHED
        own = torch.zeros(step.units, device=device)
        with evaluating(policy):
            for micro_batch in step.micro_batches if matched else step.mismatched:
                # Each process fills in its own places; the sum has them all, in the same order whatever the cut.
                reference = micro_batch.reference if uses_reference else 0.0
                own.index_copy_(0, placed(torch.tensor(micro_batch.places), device), logps(micro_batch) - reference)
        # A few numbers, read once: what an estimator makes of them would make a GPU wait for each.
        logratios = sum_over_processes(own).cpu()
    return estimator.estimate(Evidence(logratios, step.desirable), state)
