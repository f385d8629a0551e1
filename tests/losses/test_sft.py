from kto_lab.losses import sft
from tests.losses.loss_cases import REFERENCE, slopes, thumbs


def test_it_is_the_negative_log_likelihood() -> None:
    batch = thumbs([0.0, 2.5, -3.0], [True] * 3)
    losses = sft(batch)
    assert losses.tolist() == [-REFERENCE, -REFERENCE - 2.5, -REFERENCE + 3.0]
    assert slopes(losses, batch) == [-1.0, -1.0, -1.0]
