"""Sums of the tokens of each completion, on either device."""

import pytest
import torch

from kto_lab.segment_sums import segment_sums
from tests.pretend.ledger import Ledger

LENGTHS = [3, 1, 7]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_each_segment_has_its_sum_and_its_gradient(cuda: Ledger, device: str) -> None:
    values = torch.randn(sum(LENGTHS), generator=torch.Generator().manual_seed(0))
    there, lengths = values.to(device).requires_grad_(), torch.tensor(LENGTHS).to(device)
    weights = torch.tensor([1.0, 2.0, -3.0])
    before = cuda.waits.total()
    sums = segment_sums(there, lengths)
    (sums * weights.to(device)).sum().backward()
    assert cuda.waits.total() == before + (device == "cuda"), "the copy of the weights alone"
    torch.testing.assert_close(sums.detach().cpu(), torch.stack([part.sum() for part in values.split(LENGTHS)]))
    assert there.grad is not None
    assert there.grad.tolist() == weights.repeat_interleave(torch.tensor(LENGTHS)).tolist()
