"""Checks of the devices: what `trainer=auto` takes, by the decision that a run makes, and the GPUs that torch sees."""

from pathlib import Path

from kto_lab.checking.row import Row, judged, note
from kto_lab.gpus import Machine, visible
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


def gpus(root: Path = Path("/")) -> Row:
    """Each GPU that torch sees, with the driver, against those that this process was given.

    Args:
        root: of the machine's file system.
    """
    import torch

    answer, wanted = ask(), visible(root)
    if answer.reason:
        return note("GPUs", "none")
    seen = [torch.cuda.get_device_properties(index) for index in range(answer.gpus)]
    said = [
        f"{one.name}, compute capability {one.major}.{one.minor}, {one.total_memory / 2**30:.0f} GiB" for one in seen
    ]
    said.append(f"driver {Machine.here(root).driver or 'unknown'}, {answer.build}")
    # A machine of another maker, or one without nvidia-smi, does not say what there is.
    limit = f"{len(wanted)} that this process may use" if wanted else ""
    mend = "Some GPUs cannot be used: see nvidia-smi, and CUDA_VISIBLE_DEVICES."
    return judged("GPUs", "; ".join(said), limit=limit, holds=len(seen) == len(wanted) or not wanted, mend=mend)
