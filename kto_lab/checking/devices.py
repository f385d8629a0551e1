"""The check of the devices: what `trainer=auto` takes, by the decision that a run makes, and why not a GPU."""

from pathlib import Path

from kto_lab.checking.row import Row, judged
from kto_lab.gpus import Machine
from kto_lab.training.devices import ask, choose


def devices(root: Path = Path("/")) -> Row:
    """What `trainer=auto` takes: a GPU where the machine has one.

    Args:
        root: of the machine's file system.
    """
    import torch

    machine, answer = Machine.here(root), ask()
    choice = choose("auto", machine, answer)
    names = [torch.cuda.get_device_name(index) for index in range(answer.gpus)] if choice.device == "cuda" else []
    said = ", ".join(names) or f"CPU, {torch.get_num_threads()} threads"
    remarks = [choice.remark] if choice.remark else []
    remarks += [] if answer.bfloat16 else ["float32: products in bfloat16 are only emulated"]
    limit = "a GPU" if machine.signs and not machine.hidden else "the CPU will do"
    said = "; ".join([said, *remarks])
    return judged("trainer=auto takes", said, limit=limit, holds=not choice.refusal, mend=choice.refusal)
