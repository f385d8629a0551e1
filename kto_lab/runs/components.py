"""What the configuration of `train` names, made: a run reads its configuration here, and nowhere else."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset
from hydra.utils import instantiate
from omegaconf import DictConfig

from kto_lab.errors import LabError
from kto_lab.evaluation.settings import Evaluation
from kto_lab.feedback.corruption import Corrupted
from kto_lab.hashing import content_hash
from kto_lab.losses import Objective
from kto_lab.losses.reference_points import Completions
from kto_lab.models.adapters import FullFineTuning, Lora
from kto_lab.models.reference import Reference
from kto_lab.models.tokens import Lengths
from kto_lab.runs.process_cache import Node
from kto_lab.training.fit import check_feasible
from kto_lab.training.hardware import Hardware
from kto_lab.training.optimization import Optimization
from kto_lab.training.update_rule import UpdateRule

if TYPE_CHECKING:
    from kto_lab.models.store import NoStore, ReferenceStore

# What the base policy's measurements depend on, beside the seed and how its rows are cut.
OF_BASE = ("model", "adapter", "reference", "feedback", "lengths", "evaluation", "trainer")


@dataclass(frozen=True)
class Components:
    """Everything that the configuration names.

    Attributes:
        folder: the run folder.
        seed: of the run.
        objective: what is minimised.
        optimization: how.
        update_rule: the optimiser and its schedule.
        hardware: where, and in which number format.
        evaluation: what is measured.
        lengths: of prompts and completions.
        adapter: what is trained.
        reference: what the policy is compared with.
        store: of the reference's log-probabilities.
        corruption: takes the training split, and returns it corrupted.
        feedback: the table of examples, to be read when its turn comes.
        model: to be loaded when its turn comes.
        base: the nodes that the base policy's measurements depend on.
    """

    folder: Path
    seed: int
    objective: Objective
    optimization: Optimization
    update_rule: UpdateRule
    hardware: Hardware
    evaluation: Evaluation
    lengths: Lengths
    adapter: FullFineTuning | Lora
    reference: Reference
    store: "ReferenceStore | NoStore"
    corruption: Callable[[Dataset], Corrupted]
    feedback: Node
    model: Node
    base: tuple[Node, ...]

    @property
    def base_key(self) -> str:
        """A hash of all that the base policy's measurements can depend on."""
        rows = (self.optimization.micro_batch_tokens, self.optimization.keep_prompts_together)
        return content_hash([node.key for node in self.base], rows, self.seed)


def assemble(cfg: DictConfig) -> Components:
    """Make what the configuration names, so that a mistake in it shows before anything is loaded.

    Raises:
        LabError: what was chosen does not go together.
    """
    nodes = {name: Node(cfg[name]) for name in OF_BASE}
    components = Components(
        folder=Path(cfg.run_dir),
        seed=cfg.seed,
        objective=instantiate(cfg.loss),
        optimization=instantiate(cfg.optimization),
        update_rule=UpdateRule.of(cfg),
        hardware=instantiate(cfg.trainer),
        evaluation=instantiate(cfg.evaluation),
        lengths=instantiate(cfg.lengths),
        adapter=instantiate(cfg.adapter),
        reference=instantiate(cfg.reference),
        store=instantiate(cfg.reference_store),
        corruption=instantiate(cfg.corruption),
        feedback=nodes["feedback"],
        model=nodes["model"],
        base=tuple(nodes.values()),
    )
    objective = components.objective
    attention = cfg.model.get("attention")
    check_feasible(objective, components.optimization, components.hardware, components.adapter, attention=attention)
    quantization = cfg.model.get("quantization")
    if quantization is not None and components.adapter.trains_the_model:
        raise LabError(
            f"model.quantization={quantization} freezes the model's weights, and adapter=none trains them. Use "
            "adapter=lora, or model.quantization=null."
        )
    if quantization is not None and components.hardware.strategy == "fsdp":
        raise LabError(
            f"model.quantization={quantization} gives weights that fsdp cannot cut into shards. Use trainer=gpu or "
            "trainer=ddp, where each process has them whole."
        )
    if objective.needs.reference and not components.reference.exists:
        raise LabError(
            f"The loss {objective.name} compares the policy with a reference, and reference=none leaves it "
            "without. Use reference=initial, or a loss without one, such as sft, simpo, orpo or kto_reference_free."
        )
    if objective.compared_to is Completions.SAMPLED and not objective.needs.reference:
        raise LabError(
            f"loss.reference_point=sampled compares with the reference, and the loss {objective.name} has none. Use "
            "reference_point@loss.reference_point=batch loss.reference_point.clamp=false."
        )
    return components
