from kto_lab.losses import csft
from tests.losses.loss_cases import REFERENCE, slopes, thumbs


def test_both_classes_are_likelihood_since_the_control_tells_them_apart() -> None:
    batch = thumbs([0.0, 0.0, 2.5, -3.0], [True, False, True, False])
    losses = csft(batch)
    assert losses.tolist() == [-REFERENCE, -REFERENCE, -REFERENCE - 2.5, -REFERENCE + 3.0]
    assert slopes(losses, batch) == [-1.0] * 4
