"""The reference's log-probabilities, known before the first step.

They depend on nothing that training changes. So they are looked up in the reference store, and what it lacks is
computed in large batches of similar length and kept there; the reference is then not needed in memory. Before its first
step the policy is its initial reference (an adapter starts as the identity) or holds the reference's adapter beside its
own, so no second model is loaded; another model is loaded only where the store lacks something.
"""

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.losses.reference_points import Completions
from kto_lab.memory import within_memory
from kto_lab.models.adapters import Policy, moved
from kto_lab.models.ragged import places
from kto_lab.models.reference import ReferencePolicy
from kto_lab.models.sequences import Tokens, completion_lengths
from kto_lab.models.store_scorer import known, not_finite, prompt_groups, score_and_keep, value_counts
from kto_lab.models.through import together
from kto_lab.training.data import TrainingData, fill_reference, reference_sequences, trained_sequences
from kto_lab.training.hardware import Hardware
from kto_lab.training.module import AlignmentModule
from kto_lab.training.reference_point import PolicySamples

if TYPE_CHECKING:
    from kto_lab.models.store import LogpCache


@dataclass(frozen=True)
class ReferenceUse:
    """The cost of the reference's log-probabilities in a run.

    Attributes:
        found: log-probabilities that were in the store.
        computed: those that were not.
        lookup_seconds: for the look-up.
        compute_seconds: for the rest, processes waiting for one another included.
    """

    found: int
    computed: int
    lookup_seconds: float
    compute_seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as a record holds them."""
        return {key: round(value, 3) for key, value in asdict(self).items()}


class ReferencePass(pl.Callback):
    """Fills in `TrainingData.reference` while the policy still has its first weights.

    Lightning calls `setup` when the processes can talk to one another, before a checkpoint is restored: the policy of a
    resumed run, too, still has its first weights then. The first process looks up; each scores its share of what is
    missing. Afterwards `use` says what was done.
    """

    def __init__(
        self, data: TrainingData, reference: ReferencePolicy | None, hardware: Hardware, logp_cache: "LogpCache | None"
    ) -> None:
        """Fill in `data` in the precision of `hardware`, by way of the log-prob cache where there is one.

        Without a reference nothing is filled in.
        """
        self.data = data
        self.reference = reference
        self.hardware = hardware
        self.logp_cache = logp_cache
        self.use = ReferenceUse(0, 0, 0.0, 0.0)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the log-probability of every completion and mismatched pair of the run under the reference.

        Losses that read none get it all the same, where there is one, so that their implicit rewards can be compared.
        A loss that reads those of single tokens gets them for what is trained on; their sums are the completions'.

        Raises:
            LabError: one of them is not finite; the message names the example.
        """
        assert isinstance(pl_module, AlignmentModule)
        if self.reference is None:
            return
        policy = pl_module.policy
        moved(policy, trainer.strategy.root_device)
        if pl_module.objective.compared_to is Completions.SAMPLED:
            pl_module.samples = PolicySamples(
                policy,
                self.reference,
                pad_id=pl_module.pad_id,
                ending=self.data.ending,
                token_budget=pl_module.optimization.micro_batch_tokens,
                seed=pl_module.seed,
            )
        sequences = reference_sequences(self.data)
        by_token = trained_sequences(self.data) if pl_module.objective.needs.reference_token_logps else []
        distinct = set(by_token)
        by_sum = [sequence for sequence in sequences if sequence not in distinct]
        self.use = ReferenceUse(0, 0, 0.0, 0.0)
        logps = dict(zip(by_sum, self._scored(trainer, pl_module, policy, by_sum).tolist(), strict=True))
        token_logps: dict[Tokens, Tensor] = {}
        if by_token:
            values = self._scored(trainer, pl_module, policy, by_token, per_token=True)
            parts = values.split(completion_lengths(by_token).tolist())
            token_logps = dict(zip(by_token, parts, strict=True))
            # Not the sums that another run may have kept: those can differ from the tokens' by rounding.
            logps |= {sequence: part.sum().item() for sequence, part in token_logps.items()}
        if self.logp_cache is not None and trainer.is_global_zero:
            self.logp_cache.settle()
        fill_reference(self.data, logps, token_logps)
        from_store = f", {self.use.found:,} from the store" if self.logp_cache is not None else ""
        narration.say(f"    reference: {len(sequences):,} log-probs{from_store}")

    def _scored(
        self,
        trainer: pl.Trainer,
        module: AlignmentModule,
        policy: Policy,
        sequences: list[Tokens],
        *,
        per_token: bool = False,
    ) -> Tensor:
        """(N,) log-probabilities, or (T,) of the completions' tokens, on the CPU; `use` counts what they cost."""
        begun = time.perf_counter()
        counts = value_counts(sequences, per_token=per_token)
        logps = self._known(trainer, sequences, per_token=per_token)
        missing = not_finite(logps, counts)
        looked_up = time.perf_counter()
        if len(missing):
            chosen = [sequences[index] for index in missing]
            computed = self._computed(trainer, module, policy, chosen, per_token=per_token)
            logps[torch.from_numpy(places(counts, missing))] = computed
        for index in not_finite(logps, counts)[:1]:
            own = logps.split(counts.tolist())[index]
            raise LabError(
                f"The reference's log-probability of {_where(self.data, sequences[index])} is {own.sum().item()}. "
                "Look at that example, and at the model's weights and number format (trainer.precision)."
            )
        self.use = ReferenceUse(
            found=self.use.found + len(sequences) - len(missing),
            computed=self.use.computed + len(missing),
            lookup_seconds=self.use.lookup_seconds + looked_up - begun,
            compute_seconds=self.use.compute_seconds + time.perf_counter() - looked_up,
        )
        return logps

    def _known(self, trainer: pl.Trainer, sequences: list[Tokens], *, per_token: bool) -> Tensor:
        """The store's values, NaN where it has none; the first process looks up for all."""
        found = known(self.logp_cache, sequences, per_token=per_token) if trainer.is_global_zero else torch.empty(0)
        return trainer.strategy.broadcast(found) if trainer.world_size > 1 else found

    @within_memory(
        "the reference's log-probabilities",
        "Lower optimization.micro_batch_tokens, which changes no number but by rounding.",
    )
    def _computed(
        self,
        trainer: pl.Trainer,
        module: AlignmentModule,
        policy: Policy,
        sequences: list[Tokens],
        *,
        per_token: bool,
    ) -> Tensor:
        """Log-probabilities that all processes compute together, on the CPU."""
        assert self.reference is not None
        dealt = prompt_groups(sequences)[trainer.global_rank :: trainer.world_size]
        mine = [index for group in dealt for index in group]
        with (
            narration.progress("reference", len(mine)) as advance,
            self.hardware.autocast(),
            self.reference.at_start(policy) as reference,
            # Each process has another number of batches.
            together(reference),
        ):
            own = score_and_keep(
                reference,
                [sequences[index] for index in mine],
                self.logp_cache,
                pad_id=module.pad_id,
                token_budget=module.optimization.micro_batch_tokens,
                share_prompts=module.share_prompts,
                advance=advance,
                per_token=per_token,
            )
        counts = value_counts(sequences, per_token=per_token)
        logps = torch.zeros(int(counts.sum()), device=trainer.strategy.root_device)
        logps[torch.from_numpy(places(counts, mine)).to(logps.device)] = own.to(logps.device)
        if trainer.world_size > 1:
            logps = trainer.strategy.reduce(logps, reduce_op="sum")
            # The others may have written to disks of their own: the first keeps all, for it is the one that looks up.
            if self.logp_cache is not None and trainer.is_global_zero:
                put = self.logp_cache.put_tokens if per_token else self.logp_cache.put
                put(sequences, logps.cpu().numpy())
        return logps.cpu()


def _where(data: TrainingData, sequence: Tokens) -> str:
    """Name a sequence by its example, or by the two examples of a mismatched pair."""
    ids = data.example_ids
    for example, tokens in data.tokens.items():
        if tokens == sequence:
            return f"example {ids[example]}"
    prompt = next(i for i, tokens in data.tokens.items() if tokens.prompt == sequence.prompt)
    completion = next(i for i, tokens in data.tokens.items() if tokens.completion == sequence.completion)
    return f"the prompt of example {ids[prompt]} with the completion of example {ids[completion]}"
