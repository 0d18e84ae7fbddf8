"""The training mixture against the original's."""

import pytest
import torch
from parity.fixtures import Fixture

from enhance_ray.training.degrade import mix_at_share


@pytest.mark.parametrize("share", ["0.2", "0.5", "0.8"])
def test_mixture_is_the_originals_and_its_clean_part_is_speech(share):
    fixture = Fixture("data/mix")
    speech, noise = fixture.input("fg"), fixture.input("bg")
    mixture, clean = map(torch.from_numpy, mix_at_share(speech.numpy(), noise.numpy(), float(share)))
    fixture.check(f"alpha{share}", mixture)
    correlation = torch.nn.functional.cosine_similarity(clean, speech)
    torch.testing.assert_close(correlation, torch.ones(2))
