"""What must hold on a machine, and how large what is computed there is: the keys of `conf/check.yaml`."""

from dataclasses import dataclass

from kto_lab.kinds import NotNegative


@dataclass(frozen=True)
class Room:
    """Gigabytes that must be free.

    Attributes:
        cache: in the cache folder.
        runs: in the folder of the runs.
    """

    cache: NotNegative
    runs: NotNegative


@dataclass(frozen=True)
class Limits:
    """The largest differences, each relative to the largest number that is compared where nothing else is said.

    Attributes:
        logps: of log-probabilities from float64.
        gradients: of gradients from float64, of each weight.
        packed: of packed rows from padded ones.
        bf16_logps: of log-probabilities in bf16-mixed from float64.
        bf16_gradients: of gradients in bf16-mixed from float64, in norm, of each weight.
        head: of the chunked head's log-probabilities and gradients from float64.
        slope: of the slope of log-ratios in bf16-mixed on those in float32, from 1.
        curves: of the losses of ten steps from those in float64.
        lm_eval: of lm-eval's log-likelihoods from the lab's log-probabilities.
        growth: megabytes that memory may grow by over 30 steps.
    """

    logps: NotNegative
    gradients: NotNegative
    packed: NotNegative
    bf16_logps: NotNegative
    bf16_gradients: NotNegative
    head: NotNegative
    slope: NotNegative
    curves: NotNegative
    lm_eval: NotNegative
    growth: NotNegative


@dataclass(frozen=True)
class Size:
    """How large the models and batches of the checks are.

    Attributes:
        hidden: width of the policy.
        layers: of the policy.
        stretch: times that texts are longer than the shortest that still say something.
        head: width of the hidden states that the large vocabularies are tried with.
        head_tokens: tokens that they are tried with.
        compile: whether torch.compile is tried, which takes a minute on a CPU.
    """

    hidden: int
    layers: int
    stretch: int
    head: int
    head_tokens: int
    compile: bool


QUICK = Size(hidden=64, layers=2, stretch=1, head=16, head_tokens=72, compile=False)
FULL = Size(hidden=512, layers=4, stretch=16, head=256, head_tokens=320, compile=True)
