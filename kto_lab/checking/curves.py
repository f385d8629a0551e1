"""Checks of training: the losses of ten steps by `kto-lab train` against the same steps in float64 on the CPU.

The steps in float64 share the loss functions with the run, and nothing else: log-probabilities come from whole logits,
sequence by sequence, and the optimiser is torch's.
"""

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from kto_lab.checking.comparing import ADVICE, largest, within
from kto_lab.checking.policies import plain_logps
from kto_lab.checking.row import Row, note
from kto_lab.checking.runs import STEPS, configuration, prepare, run, thumbs, words
from kto_lab.checking.settings import Limits, Size
from kto_lab.losses import Pairs, Thumbs, dpo, kto, sft
from kto_lab.losses.values import logistic
from kto_lab.models.quantization import LIBRARY, dequantised, quantised
from kto_lab.models.sequences import Tokens
from kto_lab.models.tokens import Encoder

BETA = 0.1
KTO = ("loss=kto", "reference_point@loss.reference_point=matched", "weighting@loss.weighting=fixed")
# Words of `kto-lab train`; those of pairs and of desirable completions have half as many in a step.
CURVES: dict[str, tuple[str, ...]] = {
    "KTO": (*KTO, "optimization.batch_size=16"),
    "DPO": ("loss=dpo", "optimization.batch_size=8"),
    "SFT": ("loss=sft", "optimization.batch_size=8"),
    "KTO, LoRA": (*KTO, "optimization.batch_size=16", "adapter=lora"),
    "KTO, QLoRA": (*KTO, "optimization.batch_size=16", "adapter=lora", "model.quantization=nf4"),
}


def ten_steps(size: Size, limits: Limits) -> list[Row]:
    """A row per loss and kind of training."""
    with tempfile.TemporaryDirectory() as scratch:
        prepare(Path(scratch), size)
        return [_row(name, Path(scratch), limits) for name in CURVES]


def _row(name: str, folder: Path, limits: Limits) -> Row:
    title = f"{STEPS} steps of {name}"
    if name.endswith("QLoRA") and find_spec(LIBRARY["nf4"]) is None:
        return note(title, f"{LIBRARY['nf4']} is not installed: pip install 'kto-lab[quantization]'")
    cfg = configuration(words(folder, name.replace(", ", "-"), *CURVES[name]))
    ours, right = run(cfg), replayed(cfg, name)
    if len(ours) != len(right):
        return Row(title, f"{len(ours)} steps were made", f"{len(right)}", "failed", ADVICE)
    errors = [abs(one - other) / abs(right[0]) for one, other in zip(ours, right, strict=True)]
    return within(title, largest(errors), limits.curves)


def replayed(cfg: DictConfig, name: str) -> list[float]:
    """The losses of the same steps in float64.

    Args:
        cfg: of the run.
        name: of the curve.
    """
    loaded = instantiate(cfg.model)
    encoder = Encoder.of(loaded, instantiate(cfg.lengths))
    rows = [row for row in thumbs() if row["split"] == "train"]
    tokens = [encoder.encode(row["prompt"], row["completion"]) for row in rows]
    model = _dense(loaded.model)
    pl.seed_everything(cfg.seed, verbose=False)
    # An adapter starts as it does in the run; the base in float64 is the same numbers.
    policy = instantiate(cfg.adapter).attach(model).cpu().double().eval()
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=cfg.optimization.learning_rate, weight_decay=0.0)
    return _steps(policy, [one for one in tokens if one is not None], optimizer, LOSSES[name.partition(",")[0]])


def _steps(
    policy: PreTrainedModel, tokens: list[Tokens], optimizer: torch.optim.Optimizer, loss_of: "LossOf"
) -> list[float]:
    with torch.no_grad():
        reference = plain_logps(policy, tokens)
    losses = []
    for _ in range(STEPS):
        loss = loss_of(plain_logps(policy, tokens), reference, tokens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _dense(model: PreTrainedModel) -> PreTrainedModel:
    """The model with plain layers in the place of quantised ones, in place."""
    layers = set(quantised(model))
    for path, layer in [(path, module) for path, module in model.named_modules() if module in layers]:
        weight = dequantised(layer)
        plain = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device)
        plain.weight = nn.Parameter(weight, requires_grad=False)
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, plain)
    return model


LossOf = Callable[[Tensor, Tensor, list[Tokens]], Tensor]


def _kto(policy: Tensor, reference: Tensor, tokens: list[Tokens]) -> Tensor:
    desirable = torch.arange(len(tokens)) % 2 == 0
    z0 = (policy - reference).mean().detach()
    return kto(Thumbs(policy, reference, desirable, z0=z0), beta=BETA, value=logistic).mean()


def _dpo(policy: Tensor, reference: Tensor, tokens: list[Tokens]) -> Tensor:
    lengths = torch.tensor([len(one.completion) for one in tokens])
    pairs = Pairs(policy[::2], policy[1::2], reference[::2], reference[1::2], lengths[::2], lengths[1::2])
    return dpo(pairs, beta=BETA).mean()


def _sft(policy: Tensor, reference: Tensor, tokens: list[Tokens]) -> Tensor:
    batch = Thumbs(policy[::2], reference[::2], torch.ones(len(tokens) // 2, dtype=torch.bool))
    return sft(batch).sum() / sum(len(one.completion) for one in tokens[::2])


LOSSES: dict[str, LossOf] = {"KTO": _kto, "DPO": _dpo, "SFT": _sft}
