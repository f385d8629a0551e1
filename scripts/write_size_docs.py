"""Writes docs/sizes.md: what runs of several sizes need in memory, by the plan that every run makes of itself.

python scripts/write_size_docs.py
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from transformers import LlamaConfig

from kto_lab.configuration import config_dir
from kto_lab.files import write_text
from kto_lab.models.quantization import Quantization
from kto_lab.runs.memory_plan import MemoryPlan, Model, Setting, Sizes, plan_memory, sizes_of
from kto_lab.training.update_rule import UpdateRule

TARGET = Path(__file__).resolve().parent.parent / "docs" / "sizes.md"
GIB = 2**30
STAGES = ("loading", "answers", "lm-eval", "scoring", "reference", "training", "saved policy")


def shapes(
    hidden: int, layers: int, heads: int, key_heads: int, intermediate: int, vocabulary: int, *, tied: bool = False
) -> LlamaConfig:
    """The shapes of a model, written down: the page is made without a network."""
    return LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
    )


SMOLLM2 = shapes(576, 30, 9, 3, 1536, 49152, tied=True)
LLAMA_1B = shapes(2048, 16, 32, 8, 8192, 128256, tied=True)
MISTRAL_7B = shapes(4096, 32, 32, 8, 14336, 32000)
LLAMA_70B = shapes(8192, 80, 64, 8, 28672, 128256)


@dataclass(frozen=True, eq=False)
class Case:
    """A run of the page.

    Attributes:
        title: what it is, and on what.
        shapes: of the model.
        words: of the command line.
        gib: memory of the device.
        cuda: whether that is a GPU, and the number format bf16-mixed.
        processes: of the run.
        quantization: of the model.
    """

    title: str
    shapes: LlamaConfig
    words: tuple[str, ...]
    gib: int
    cuda: bool = True
    processes: int = 1
    quantization: Quantization | None = None

    @property
    def command(self) -> str:
        """What a person would type, the model's name apart."""
        return " ".join(["kto-lab train", *self.words])


QLORA = ("scale=paper", "model.quantization=nf4")
ONE_B = ("scale=paper", "adapter=none", "model.dtype=float32")
LESS = ("optimizer=adafactor", "evaluation.lm_eval_batch_size=1")
CASES = (
    Case("SmolLM2-135M, a laptop of 16 GiB", SMOLLM2, ("scale=small",), 16, cuda=False),
    Case("1 B, all weights, one GPU of 24 GiB", LLAMA_1B, ONE_B, 24),
    Case("1 B, all weights by Adafactor, one GPU of 24 GiB", LLAMA_1B, (*ONE_B, *LESS), 24),
    Case("7 B, LoRA, one GPU of 80 GiB", MISTRAL_7B, ("scale=paper",), 80),
    Case(
        "7 B, all weights, eight GPUs of 80 GiB",
        MISTRAL_7B,
        ("scale=paper", "adapter=none", "model.dtype=float32", "trainer=fsdp", "trainer.devices=8"),
        80,
        processes=8,
    ),
    Case("70 B, QLoRA, one GPU of 80 GiB", LLAMA_70B, QLORA, 80, quantization="nf4"),
)
# Those whose activations are compared.
CHECKPOINTED = (CASES[0], CASES[1], CASES[3], CASES[5])

PREAMBLE = """\
# Sizes

<!-- Written by scripts/write_size_docs.py from the plan of each run. Do not edit: `make docs`. -->

What runs need in memory, on each rank. **The numbers are computed; no run on a GPU has confirmed them.** Every run
computes them for itself before it loads its model
([memory_plan.py](../kto_lab/runs/memory_plan.py)), says them, and keeps them in its record (`model.memory_plan`). A run
is refused there and then where what it takes whatever the lengths (weights, gradients, the optimiser's state) exceeds
the memory of the GPU, or on a CPU where the weights alone do. Where only the longest sequences would not fit, it says
so, with the keys to change, and goes on.

Weights, gradients and the optimiser's state follow from the shapes, in the formats that the run computes with; the
state of the optimiser is measured by one step on a small matrix. Activations come of two layers that are run forward
and backward on tensors without numbers, whose live bytes are counted. Sequences are taken to be as long as
`lengths.max_length` lets them be, so most runs need less. What CUDA holds for itself (about 0.5 GiB) and gaps between
allocations come on top. On a CPU the plan is within 15 % of the bytes that are alive in real steps, answers and
scorings of a tiny policy: all weights and LoRA, float32 and bf16-mixed, layers kept and recomputed, a large vocabulary
([test_memory_plan.py](../tests/runs/test_memory_plan.py)). lm-eval, fsdp, quantised weights and CUDA's kernels were not
compared with anything.

An architecture that cannot be run without numbers (a mixture of experts may choose by them) is planned without
activations, which the run says. A model whose configuration cannot be had without loading it (a GGUF file, a function
of your own) has no plan.

## What runs need

GiB, the largest stage in bold.
"""

OF_STAGES = """\
`loading` and `saved policy` are stages under fsdp: each process has the whole policy until it is sharded, and the first
one has the saved policy whole when it reads it back. `lm-eval` holds the logits of all tokens of
`evaluation.lm_eval_batch_size` requests, each taken to be `lengths.max_length` long.

## What training needs it for
"""

OF_PARTS = """\
`bf16 copies` are what autocast keeps of trained matrices; `gathered`, under fsdp, are two layers and what is outside of
the layers.

## Activation checkpointing

What a token of a micro-batch keeps alive between the forward and the backward pass, counted on two layers and computed
for all: without `optimization.gradient_checkpointing`, and with it; and what one layer needs while it is recomputed.
What it costs in time is in [Speed](speed.md#what-the-keys-cost).
"""


def main() -> None:
    """Write the page."""
    write_text(TARGET, page())


def page() -> str:
    """docs/sizes.md as it should be."""
    parts = [PREAMBLE, f"| | {' | '.join(STAGES)} |\n|---|{'---|' * len(STAGES)}"]
    parts.append("\n".join(map(row, CASES)) + "\n")
    parts.append("Their commands, with `model=hf model.name=...` for a model of that size:\n")
    parts.append("\n".join(f"- {case.title}: `{case.command}`" for case in CASES) + "\n")
    parts.append(OF_STAGES)
    names = ("weights", "bf16 copies", "gathered", "gradients", "optimiser", "activations")
    parts.append(f"| | {' | '.join(names)} | in all |\n|---|{'---|' * (len(names) + 1)}")
    parts.append("\n".join(training_row(case, names) for case in CASES) + "\n")
    parts.append(OF_PARTS)
    parts.append("| | without | with | with over without | one layer |\n|---|---|---|---|---|")
    parts.append("\n".join(map(checkpointing_row, CHECKPOINTED)) + "\n")
    return "\n".join(parts)


def row(case: Case) -> str:
    """A case's stages."""
    plan = planned(case)
    sizes = {stage.name: _gib(stage.total) for stage in plan.stages}
    sizes[plan.largest.name] = f"**{sizes[plan.largest.name]}**"
    fits = "" if plan.largest.total <= case.gib * GIB else " (the longest sequences do not fit)"
    return f"| {case.title}{fits} | {' | '.join(sizes.get(name, '–') for name in STAGES)} |"


def training_row(case: Case, names: tuple[str, ...]) -> str:
    """The parts of a case's training."""
    (training,) = [stage for stage in planned(case).stages if stage.name == "training"]
    sizes = [_gib(training.parts[name]) if name in training.parts else "–" for name in names]
    return f"| {case.title} | {' | '.join(sizes)} | {_gib(training.total)} |"


def checkpointing_row(case: Case) -> str:
    """What a token keeps, with checkpointing and without."""
    setting, sizes = measured(case)
    found = sizes.activations
    assert found is not None
    tokens = setting.rows * setting.lengths.max_length
    whole, inputs = (found.kept(checkpointing=on) / tokens / 2**10 for on in (False, True))
    layer = (found.per_layer + found.work) / tokens / 2**10
    kind = case.title.split(", ")[0] + (", LoRA" if "LoRA" in case.title else ", all weights")
    return f"| {kind} | {whole:,.0f} KiB | {inputs:,.0f} KiB | 1/{whole / inputs:.0f} | {layer:,.0f} KiB |"


@cache  # by identity
def measured(case: Case) -> tuple[Setting, Sizes]:
    """What a case's plan depends on, and the sizes of its policy."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("train", list(case.words))
    dtype = getattr(torch, cfg.model.dtype)
    setting = Setting(
        model=Model(case.shapes, dtype, cfg.model.attention, case.quantization),
        adapter=instantiate(cfg.adapter),
        narrow=case.cuda,
        device_bytes=case.gib * GIB if case.cuda else 0,
        strategy=cfg.trainer.strategy,
        processes=case.processes,
        optimization=instantiate(cfg.optimization),
        update_rule=UpdateRule.of(cfg),
        lengths=instantiate(cfg.lengths),
        evaluation=instantiate(cfg.evaluation),
    )
    return setting, sizes_of(setting)


def planned(case: Case) -> MemoryPlan:
    """A case's plan."""
    return plan_memory(*measured(case))


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"


if __name__ == "__main__":
    main()
