"""Saving the trained policy, and whether what was saved is what was judged."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kto_lab.errors import LabError
from kto_lab.evaluation.evaluate import Judge
from kto_lab.models.adapters import Policy, load_saved, save_policy
from kto_lab.models.logps import score
from kto_lab.models.reference import on_the_host
from kto_lab.runs.loading import ModelSource
from kto_lab.training.data import TrainingData

# The folder of the trained policy in its run's.
POLICY = "policy"
# Completions that are scored again: enough to see a wrong policy, and next to nothing beside an evaluation.
EXAMPLES = 4
# By how much a log-probability (nats) may differ for each nat of it, and by how much at least, in each number format:
# what rounding explains where an adapter was merged. Where nothing was merged there is no difference.
TOLERANCE = {"32-true": (1e-4, 1e-3), "bf16-mixed": (2e-2, 0.2)}


def logps_of_a_few(policy: Policy, judge: Judge, data: TrainingData) -> Tensor:
    """(N,) what a policy gives to a few completions, nats.

    Args:
        policy: on its device; every process that has a shard of it has to call this.
        judge: of policies; its held-out examples are scored where it has any.
        data: what the policy was trained on; scored where nothing was held out.
    """
    with judge.autocast():
        return score(
            policy,
            (judge.held_out.tokens or list(data.tokens.values()))[:EXAMPLES],
            pad_id=judge.held_out.encoder.pad_id,
            token_budget=judge.token_budget,
            share_prompts=judge.share_prompts,
        )


def save_and_compare(
    policy: Policy,
    wanted: Tensor,
    judge: Judge,
    folder: Path,
    *,
    source: ModelSource,
    data: TrainingData,
    load: Callable[[], Policy],
) -> float:
    """Write the policy, read it again, and compare what it then gives to a few completions.

    Args:
        policy: the trained one; where its adapter is merged, it is merged here, too.
        wanted: `logps_of_a_few` of it as it was judged.
        judge: what judged it.
        folder: to write into.
        source: of the model that it was trained from.
        data: what it was trained on.
        load: loads that model, onto the device.

    Returns:
        The largest difference, nats.

    Raises:
        LabError: it is more than rounding explains; or the policy cannot be written or read.
    """
    adapter, number_format = source.adapter, source.hardware.number_format
    save_policy(policy, judge.held_out.encoder.released, folder, merge=adapter.merge, ending=data.ending)
    with on_the_host(policy):
        saved = load_saved(
            folder,
            policy,
            adapter,
            load,
            device=source.hardware.device,
            number_format=number_format,
            reference_without_adapter=source.reference.without_adapter,
        )
        found = logps_of_a_few(saved, judge, data)
        del saved
    check_same(wanted, found, folder, number_format=number_format, merge=adapter.merge)
    return float((found - wanted).abs().max())


def check_same(wanted: Tensor, found: Tensor, folder: Path, *, number_format: str, merge: bool) -> None:
    """Refuse log-probabilities of the saved policy that differ by more than rounding.

    Args:
        wanted: (N,) of the policy in memory, nats.
        found: (N,) of the saved one.
        folder: where it was saved, for the message.
        number_format: Lightning's name of it.
        merge: whether an adapter was merged.
    """
    by_nat, least = TOLERANCE[number_format]
    allowed = least + by_nat * wanted.abs()
    difference = (found - wanted).abs()
    # Not ">": a difference that is no number is not within the tolerance.
    off = ~(difference <= allowed)
    if not off.any():
        return
    worst = int(torch.where(off, difference.nan_to_num(torch.inf), -1).argmax())
    mend = (
        "Merging the adapter changed it: train again with adapter.merge=false, which saves the adapter alone"
        + (", or with trainer.precision=32-true." if number_format != "32-true" else ".")
        if merge
        else "Look at the disk, and at the architecture: what this model saves may not be all that it computes with."
    )
    raise LabError(
        f"{folder} is not the policy that was judged: {int(off.sum())} of {len(wanted)} log-probs are off, one by "
        f"{difference[worst]:.3g} nats ({found[worst]:.4f}, where {wanted[worst]:.4f} was measured); rounding explains "
        f"{allowed[worst]:.2g}. {mend}"
    )
