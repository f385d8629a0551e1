import math

import pytest
import torch

from kto_lab.losses.stable import log_complement

LOGPS = [-1e4, -30.0, -1.0, -0.6932, -0.6931, -0.69305, -0.1, -1.1e-3, -3.3e-5, -2e-6]


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-12), (torch.float32, 2e-6)], ids=["float64", "float32"])
def test_it_is_log_of_one_minus_p_on_both_branches(dtype: torch.dtype, rel: float) -> None:
    logps = torch.tensor(LOGPS, dtype=dtype, requires_grad=True)
    found = log_complement(logps)
    exact = logps.detach().double().tolist()
    assert found.tolist() == pytest.approx(
        [math.log1p(-math.exp(x)) for x in exact[:5]] + [math.log(-math.expm1(x)) for x in exact[5:]],
        rel=rel,
        abs=1e-300,
    )
    (slopes,) = torch.autograd.grad(found.sum(), logps)
    # -p / (1 - p)
    assert slopes.tolist() == pytest.approx([math.exp(x) / math.expm1(x) for x in exact], rel=10 * rel, abs=1e-300)


def test_closer_to_certain_than_a_millionth_it_is_level() -> None:
    logps = torch.tensor([0.0, -1e-9, -9e-7], requires_grad=True)
    found = log_complement(logps)
    assert found.tolist() == pytest.approx([math.log(1e-6)] * 3)
    assert torch.autograd.grad(found.sum(), logps)[0].tolist() == [0.0] * 3
