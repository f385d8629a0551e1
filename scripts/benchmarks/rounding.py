"""What bf16 does to the log-ratios of one update, format by format: the tables of docs/number_formats.md.

A policy of rounded weights takes steps of KTO in float32 (lambda_D = lambda_U = 1). What they changed is put onto the
weights of each format, and each format's log-ratios to its own start are compared with float32's. So formats differ in
what they make of one update, and not in the update.

Products are made in float32 of rounded operands, and rounded (`product`): the same numbers as torch's own, which are
many times slower on a CPU that has no such products. All else is torch's autocast.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks.data import composed
from kto_lab.feedback.table import of_split
from kto_lab.files import write_json
from kto_lab.losses import Objective, Thumbs
from kto_lab.models.adapters import Policy
from kto_lab.models.logps import completion_logps, score
from kto_lab.models.number_format import add_in_float32, dither, round_once
from kto_lab.models.sequences import Tokens
from kto_lab.models.tokens import Encoder
from kto_lab.training.data import TrainingData, fill_reference, prepare, reference_sequences
from kto_lab.training.optimization import Optimization
from kto_lab.training.steps import make_step
from kto_lab.training.update_rule import UpdateRule

MODELS = {
    "smollm2-135m": ["model=smollm2-135m", "model.source=registry", "feedback=instruction_checks"],
    "tiny": ["model=tiny", "feedback=arithmetic"],
}
STEPS = ["schedule=constant", "schedule.warmup=0", "optimization.keep_prompts_together=false"]
BUDGET = 2048  # padded tokens of a batch that is scored; the same in all formats
attend = F.scaled_dot_product_attention


@dataclass(frozen=True)
class Settings:
    """What is measured: a model of `MODELS`, and the steps after which formats are compared (constant rate)."""

    model: str = "tiny"
    adapter: Literal["none", "lora"] = "none"
    learning_rate: float = 5e-5
    batch: int = 8
    steps: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Format:
    """A way of rounding.

    Attributes:
        name: in the table.
        rounds: "all": operands and results of products, under autocast; "weights" alone; or "nothing".
        rounded_once: weights are rounded before the first step, for policy and reference alike.
        masters: where in its rounding cell a weight then starts; "not head": anywhere, but for the head's weights.
        logits: in float32, as head.py makes them of a plain linear head; else a bf16 product's result like any other.
        attention: in float32.
        sums: layers under adapters give float32.
    """

    name: str
    rounds: Literal["all", "weights", "nothing"] = "all"
    rounded_once: bool = True
    masters: Literal["as they are", "anywhere", "not head"] = "as they are"
    logits: bool = False
    attention: bool = False
    sums: bool = False


EXACT = Format("float32", rounds="nothing")
FORMATS = {
    "none": [
        Format("autocast, weights as loaded", rounded_once=False),
        Format("rounded once"),
        Format("masters anywhere", masters="anywhere"),
        Format("masters anywhere but the head's, logits float32", masters="not head", logits=True),
        Format("masters anywhere, logits float32 (as shipped)", masters="anywhere", logits=True),
        Format("masters anywhere, attention float32", masters="anywhere", attention=True),
        Format("masters anywhere, logits and attention float32", masters="anywhere", logits=True, attention=True),
        Format("masters anywhere, weights alone rounded", rounds="weights", masters="anywhere"),
    ],
    "lora": [
        Format("autocast, as peft adds"),
        Format("layers under adapters float32", sums=True),
        Format("layers under adapters and logits float32 (as shipped)", sums=True, logits=True),
        Format("layers under adapters and attention float32", sums=True, attention=True),
    ],
}


class CalledHead(nn.Linear):
    """A head that head.py does not take apart, but calls: its logits are the result of a product like any other."""


@dataclass(frozen=True)
class Trial:
    """What all formats have in common: the model as it was loaded, its data, and what is minimised how."""

    cfg: DictConfig
    model: PreTrainedModel
    data: TrainingData
    objective: Objective
    optimization: Optimization

    def policy(self, form: Format) -> Policy:
        """A new policy before its first step, which still is its reference."""
        model = copy.deepcopy(self.model)
        if form.rounded_once:
            round_once(model)
        if form.rounds == "all" and not form.logits:
            model.get_output_embeddings().__class__ = CalledHead
        torch.manual_seed(self.cfg.seed)
        policy: Policy = instantiate(self.cfg.adapter).attach(model)
        if form.sums:
            add_in_float32(policy)
        return policy

    def compared(self) -> list[Tokens]:
        """The sequences that formats are compared on: the mismatched pairs of the first step, then its examples."""
        units = (self.data.plan.units[unit] for unit in self.data.plan.steps[0])
        return [*self.data.mismatched_tokens(0), *(self.data.tokens[unit[0]] for unit in units)]

    def logps(self, policy: Policy, sequences: Sequence[Tokens]) -> Tensor:
        """(sequences,) log-probabilities of completions, nats."""
        return score(policy, sequences, pad_id=self.data.pad_id, token_budget=BUDGET)


def main(settings: Settings, out: Path) -> Path:
    """Measure, print the table, and write it as JSON; returns the file."""
    from benchmarks import machine

    found = {"kind": "rounding", "machine": machine.described(), "settings": asdict(settings)} | rounding(settings)
    file = out / f"rounding-{settings.model}-{settings.adapter}-{settings.learning_rate:g}-step{settings.steps}.json"
    write_json(file, found)
    print("\n".join(table(found)))
    return file


def rounding(settings: Settings) -> dict[str, Any]:
    """Measure, on the CPU.

    Returns:
        `product`: see `check_product`; `tokens`: of the shortest and the longest completion; `float32`: the mean
        log-ratio of the mismatched pairs (`z0`) with its standard error (`stderr`), and the mean absolute one of all
        (`signal`), nats; `formats`: see `compare`.
    """
    trial = prepared(settings)
    update = take_steps(trial, settings.steps)
    exact = logratios(trial, EXACT, update)[1]
    mismatched = exact[: settings.batch]
    lengths = [len(sequence.completion) for sequence in trial.compared()]
    return {
        "product": check_product(settings.seed),
        "tokens": [min(lengths), max(lengths)],
        "float32": {
            "z0": mismatched.mean().item(),
            "stderr": (mismatched.std() / len(mismatched) ** 0.5).item(),
            "signal": exact.abs().mean().item(),
        },
        "formats": [
            {"format": form.name} | compare(*logratios(trial, form, update), exact, settings.batch)
            for form in FORMATS[settings.adapter]
        ],
    }


def prepared(settings: Settings) -> Trial:
    """Load the model and plan the steps."""
    words = [*MODELS[settings.model], *STEPS, f"adapter={settings.adapter}", f"seed={settings.seed}"]
    named = {"batch_size": settings.batch, "max_steps": settings.steps, "learning_rate": settings.learning_rate}
    cfg = composed([*words, *(f"optimization.{name}={value}" for name, value in named.items())])
    loaded, objective, optimization = (instantiate(cfg[key]) for key in ("model", "loss", "optimization"))
    corrupted = instantiate(cfg.corruption)(of_split(instantiate(cfg.feedback), "train"))
    encoder = Encoder.of(loaded, instantiate(cfg.lengths))
    data = prepare(corrupted, encoder, objective, optimization, seed=settings.seed)
    return Trial(cfg, loaded.model, data, objective, optimization)


def take_steps(trial: Trial, steps: int) -> dict[str, Tensor]:
    """What steps of KTO in float32, from rounded weights, add to each trained parameter, by its name."""
    data, objective, optimization = trial.data, trial.objective, trial.optimization
    policy = trial.policy(EXACT)
    trained = {name: weight for name, weight in policy.named_parameters() if weight.requires_grad}
    before = {name: weight.detach().clone() for name, weight in trained.items()}
    sequences = reference_sequences(data)
    fill_reference(data, dict(zip(sequences, trial.logps(policy, sequences).tolist(), strict=True)))
    optimizer, _ = UpdateRule.of(trial.cfg).make(trained.values(), steps=steps)
    for number in range(steps):
        mismatched = trial.logps(policy, data.mismatched_tokens(number)) - data.reference_mismatched[number]
        z0 = mismatched.mean().clamp(min=0)
        step = make_step(data, objective, optimization, number, share_prompts=False)
        for part in step.micro_batches:
            found = completion_logps(policy, part.units, pad_id=data.pad_id)
            losses = objective.losses(Thumbs(found, part.reference, part.desirable, z0=z0))
            (losses.sum() / step.units).backward()
        nn.utils.clip_grad_norm_(trained.values(), optimization.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
    return {name: weight.detach() - before[name] for name, weight in trained.items()}


@torch.no_grad()
def logratios(trial: Trial, form: Format, update: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(sequences,) log-ratios in a format to its reference, nats: before the first step, and after an update."""
    policy, sequences = trial.policy(form), trial.compared()
    with formed(form):
        reference = trial.logps(policy, sequences)
    if form.masters == "not head":
        policy.get_output_embeddings().weight.requires_grad_(False)
    if form.masters != "as they are":
        dither(policy, seed=trial.cfg.seed)
    found = []
    for change in ({}, update):
        for name, added in change.items():
            policy.get_parameter(name).add_(added)
        read = policy
        if form.rounds == "weights":
            round_once(read := copy.deepcopy(policy))
        with formed(form):
            found.append(trial.logps(read, sequences) - reference)
    return found[0], found[1]


@contextmanager
def formed(form: Format) -> Iterator[None]:
    """Products and attention of a format, for a block."""
    if form.rounds != "all":
        yield
        return
    attention = attend_in_float32 if form.attention else attend
    with (
        patch.object(F, "linear", product),
        patch.object(F, "scaled_dot_product_attention", attention),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        yield


def product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., outputs) bfloat16: what autocast makes of a linear layer, by a float32 product of rounded operands."""
    with torch.autocast("cpu", enabled=False):
        found = inputs.bfloat16().float() @ weight.bfloat16().float().T
        return (found if bias is None else found + bias.bfloat16().float()).bfloat16()


def attend_in_float32(query: Tensor, key: Tensor, value: Tensor, *more: Any, **named: Any) -> Tensor:
    """Attention in float32 also under autocast."""
    with torch.autocast("cpu", enabled=False):
        return attend(query.float(), key.float(), value.float(), *more, **named)


def check_product(seed: int) -> dict[str, int]:
    """Entries of a product of random numbers, and in how many of them `product` is not torch's own."""
    generator = torch.Generator().manual_seed(seed)
    states, weight = (torch.randn(rows, 576, generator=generator) for rows in (256, 1536))
    own = F.linear(states.bfloat16(), weight.bfloat16())
    return {"entries": own.numel(), "different": int((product(states, weight) != own).sum())}


def compare(start: Tensor, found: Tensor, exact: Tensor, batch: int) -> dict[str, float]:
    """A format's log-ratios, (sequences,) each and in nats, against float32's; mismatched pairs are the first `batch`.

    Returns:
        `start`: the largest absolute log-ratio before the first step; `slope`: of the regression of `found` on `exact`
        through the origin; `z0`: the mean of the mismatched pairs; `error`: root mean square of the difference, nats.
    """
    return {
        "start": start.abs().max().item(),
        "slope": ((found * exact).sum() / exact.square().sum()).item(),
        "z0": found[:batch].mean().item(),
        "error": (found - exact).square().mean().sqrt().item(),
    }


def table(found: dict[str, Any]) -> list[str]:
    """The result in Markdown."""
    exact, check = found["float32"], found["product"]
    lines = [
        f"Emulated products: {check['different']} of {check['entries']} entries are not torch's own.",
        f"float32: z0 {exact['z0']:.3f} (standard error {exact['stderr']:.3f}), signal {exact['signal']:.3g} nats.",
        "",
        "| format | slope | z0 | error per sequence, nats | largest log-ratio at the start |",
        "|---|---|---|---|---|",
    ]
    for row in found["formats"]:
        numbers = " | ".join(f"{row[name]:.3f}" for name in ("slope", "z0", "error"))
        lines.append(f"| {row['format']} | {numbers} | {row['start']:.2g} |")
    return lines
