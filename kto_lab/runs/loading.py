"""The stage of a run that loads its model: as the policy to train, and again as what it is compared with."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from kto_lab import narration
from kto_lab.errors import LabError
from kto_lab.hashing import content_hash
from kto_lab.models.adapted import is_adapted
from kto_lab.models.adapters import FullFineTuning, Lora, Policy, attached, moved
from kto_lab.models.attention import set_packing
from kto_lab.models.exact_rows import ExactRows, find_exact_rows
from kto_lab.models.load import Loaded
from kto_lab.models.number_format import as_read, formats
from kto_lab.models.quantization import numbers_in, quantised
from kto_lab.models.reading import CPU, read_onto
from kto_lab.models.reference import (
    Reference,
    ReferencePolicy,
    check_loaded,
    check_vocabulary,
    initial,
    is_another_model,
)
from kto_lab.models.store_scorer import scorer_of
from kto_lab.models.tokens import Encoder, Lengths
from kto_lab.runs.process_cache import NO_CACHE, Node, ProcessCache
from kto_lab.runs.record import Record
from kto_lab.training.hardware import Hardware

if TYPE_CHECKING:
    from kto_lab.models.store import LogpCache, NoStore, ReferenceStore


@dataclass(frozen=True)
class ModelSource:
    """Where a run has its model from, as often as it needs one.

    Attributes:
        node: `model` of the configuration.
        adapter: what is trained.
        hardware: where the model computes, and in which number format.
        cache: of this process.
        reference: what the policy is compared with.
    """

    node: Node
    adapter: FullFineTuning | Lora
    hardware: Hardware
    cache: ProcessCache = NO_CACHE
    reference: Reference = field(default_factory=initial)

    def load(self, *, trains: bool = False) -> Loaded:
        """The model on the device to compute on, its weights in the formats that the run computes with.

        Args:
            trains: it is loaded for training, in which a policy without an adapter writes into its weights.
        """
        number_format, device = self.hardware.number_format, self.hardware.device
        # On a GPU the weights are a copy anyway.
        written = trains and self.adapter.trains_the_model and device.type == "cpu"
        # What is kept for other runs is kept on the host.
        with read_onto(CPU if self.cache.keeps else device):
            loaded = self.cache.loaded(self.node, written=written)
        check_loaded(loaded.provenance, self.reference, number_format=number_format)
        provenance = {**loaded.provenance, "dtype": str(loaded.model.dtype).removeprefix("torch.")}
        moved(loaded.model, device)
        as_read(loaded.model, number_format=number_format, trained=self.adapter.trains_the_model)
        return replace(loaded, provenance=provenance)

    def load_other(self) -> Loaded | None:
        """The model that is named as the reference, in the formats that the run computes with; None where none is.

        Raises:
            LabError: it has an adapter that was kept apart, or one that the number format rounds away.
        """
        if self.reference.model is None:
            return None
        loaded = self.cache.loaded(Node(self.reference.model), kind="reference")
        if is_adapted(loaded.model):
            raise LabError(
                f"The reference {loaded.provenance['name']} keeps its adapter apart. Use "
                "reference.model.saved_adapter=merge."
            )
        check_loaded(loaded.provenance, initial(), number_format=self.hardware.number_format)
        as_read(loaded.model, number_format=self.hardware.number_format, trained=False)
        return loaded

    def reference_policy(
        self, load: Callable[[], Policy], *, share_prompts: bool, longest: int
    ) -> ReferencePolicy | None:
        """What gives the reference of the run's policy; None where there is none.

        Args:
            load: loads the model as it was before training.
            share_prompts: completions of one prompt share its row.
            longest: tokens of the longest sequence that the reference will be given.
        """
        if not self.reference.exists:
            return None
        inside = self.reference.model is None
        if not inside:
            load = partial(self._other, share_prompts=share_prompts, longest=longest)
        return ReferencePolicy(partial(self._divided, load), inside=inside)

    def _divided(self, load: Callable[[], Policy]) -> Policy:
        """A model that is loaded, in shards where the policy is."""
        model = load()
        if self.hardware.strategy == "fsdp":
            # Its import takes long, and most runs do not shard.
            from kto_lab.training.sharding import processes_of, shard

            shard(model, processes_of(self.hardware), number_format=self.hardware.number_format)
        return model

    def _other(self, *, share_prompts: bool, longest: int) -> Policy:
        """The other model on the device to compute on, with its rows laid out as it can have them.

        Raises:
            LabError: prompts are shared, and it cannot share them.
        """
        loaded = self.load_other()
        assert loaded is not None
        model = moved(loaded.model, self.hardware.device)
        with self.hardware.autocast():
            exact = find_exact_rows(model, longest=longest)
        set_packing(model, exact.packed)
        if share_prompts and not exact.shared:
            raise LabError(
                f"The reference {loaded.provenance['name']} cannot run a prompt once for several completions. Set "
                "optimization.keep_prompts_together=false."
            )
        return model

    def load_initial(self, *, packed: bool) -> Policy:
        """The model as it was before training, on the device to compute on, its rows laid out as the policy's are."""
        model = self.load().model
        set_packing(model, packed)
        return model

    def known_reference(
        self, loaded: Loaded, store: "ReferenceStore | NoStore"
    ) -> "tuple[dict[str, Any] | None, LogpCache | None]":
        """What is known of the reference, asked while the model is as it was loaded.

        Args:
            loaded: the run's model, as `load` returned it.
            store: of log-probabilities.

        Returns:
            Where the reference's weights came from, None where it is made of the policy; and the log-probabilities that
            are known, None where none are kept.

        Raises:
            LabError: the reference cannot be used; see `load_other` and `check_vocabulary`.
        """
        other = self.load_other()
        if other is None:
            return None, self._open_logp_cache(loaded, store)
        check_vocabulary(loaded.tokenizer, other.tokenizer, other.provenance["name"])
        return other.provenance, self._open_logp_cache(other, store)

    def _open_logp_cache(self, loaded: Loaded, store: "ReferenceStore | NoStore") -> "LogpCache | None":
        """The reference's log-probabilities that are known, where this loaded model is the reference."""
        reference = self.reference
        if store.keeps is False or not reference.exists or is_another_model(loaded.model, reference):
            return None
        node = self.node if reference.model is None else Node(reference.model)
        device, name = self.hardware.device, loaded.provenance["name"]
        number_format = self.hardware.number_format + (", compiled" if self.hardware.compile else "")
        if number_format.startswith("bf16") and isinstance(self.adapter, Lora) and reference.model is None:
            number_format += ", adapters added in float32"
        scorer = self.cache.get(
            "scorer",
            content_hash(node.key, self.adapter.trains_the_model, number_format, str(device)),
            lambda: scorer_of(loaded.model, name=name, number_format=number_format, device=device),
        )
        return self.cache.get(
            "logp_cache",
            content_hash(scorer.key, str(store.folder), store.max_bytes),
            lambda: store.logp_cache(scorer),
        )

    def lay_out_rows(self, model: Policy, *, longest: int) -> ExactRows:
        """Have a policy's rows packed where that changes none of its log-probabilities.

        Args:
            model: the policy, without an adapter around it.
            longest: tokens of the longest sequence that it will be given.

        Returns:
            How rows can be laid out.
        """
        made_of = content_hash((self.node.key, self.adapter.trains_the_model), self.hardware.number_format, longest)
        with self.hardware.autocast():
            exact = self.cache.get("rows", made_of, lambda: find_exact_rows(model, longest=longest))
        set_packing(model, exact.packed)
        for fault in exact.faults:
            narration.say(f"    {fault}")
        return exact


@dataclass(frozen=True)
class Start:
    """What a run starts from.

    Attributes:
        model: as it was loaded; with an adapter it is what the policy wraps.
        policy: to train, on the device to compute on.
        encoder: of its tokenizer.
        logp_cache: what is known of the reference.
    """

    model: Policy
    policy: Policy
    encoder: Encoder
    logp_cache: "LogpCache | None"


def check_positions(loaded: Loaded, lengths: Lengths) -> None:
    """Refuse examples that may be longer than what a model reads.

    Raises:
        LabError: they may.
    """
    positions = getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and lengths.max_length > positions:
        raise LabError(
            f"lengths.max_length is {lengths.max_length}, and {loaded.provenance['name']} reads at most {positions} "
            "tokens (max_position_embeddings of its config.json). Lower lengths.max_length to that."
        )


def load_policy(
    source: ModelSource, store: "ReferenceStore | NoStore", lengths: Lengths, record: Record, *, seed: int
) -> Start:
    """The model, with the adapter that is trained.

    Raises:
        LabError: it cannot be trained as the run would train it, or its reference cannot be used.
    """
    narration.stage("Policy", "The model to align, and what it is compared with.")
    loaded = source.load(trains=True)
    # Where model.quantization asks for it, that was refused before; the model's own folder can hold such weights, too.
    if source.hardware.strategy == "fsdp" and quantised(loaded.model):
        raise LabError(
            f"{loaded.provenance['name']} holds quantised weights, which fsdp cannot cut into shards. Use trainer=gpu "
            "or trainer=ddp, where each process has them whole."
        )
    check_positions(loaded, lengths)
    reference, logp_cache = source.known_reference(loaded, store)
    pl.seed_everything(seed, verbose=False)
    hardware = source.hardware
    policy = attached(
        loaded.model,
        source.adapter,
        number_format=hardware.number_format,
        reference_without_adapter=source.reference.without_adapter,
    )
    moved(policy, hardware.device)
    trainable = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    everything = sum(numbers_in(p) for p in policy.parameters())
    kept = formats(policy)
    record.model = {
        **loaded.provenance,
        **kept,
        "number_format": hardware.number_format,
        "parameters": everything,
        "trainable": trainable,
    }
    if reference is not None:
        record.model["reference"] = reference
        narration.say(f"    reference: {reference['name']}")
    narration.say(f"    {loaded.provenance['name']}")
    narration.say(f"    {everything / 1e6:.1f} M parameters, {trainable / 1e6:.1f} M trained; {hardware.said}")
    narration.say(
        f"    weights loaded as {loaded.provenance['dtype']}, trained as {kept['trained_dtype']}"
        + (f", frozen as {kept['frozen_dtype']}" if kept["frozen_dtype"] else "")
    )
    made_of = content_hash(source.node.key, asdict(lengths))
    encoder = source.cache.get("encoder", made_of, lambda: Encoder.of(loaded, lengths))
    record.model |= encoder.hashes
    return Start(loaded.model, policy, encoder, logp_cache)
