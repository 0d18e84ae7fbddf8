"""The input resampler against the original's."""

import pytest
from parity.fixtures import Fixture

from enhance_ray.dsp import resample as module


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 48_000])
def test_resampled_waveform_is_the_originals(rate):
    fixture = Fixture(f"resample/{rate}")
    fixture.check("y", module.resample(fixture.input("x"), fixture.hyper["orig"], fixture.hyper["new"]))


@pytest.fixture
def fresh_kernels():
    """No kernel of another test, and none left for another test."""

    def clear():
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()

    clear()
    yield
    clear()


def test_another_cutoff_is_seen(monkeypatch, fresh_kernels):
    monkeypatch.setattr(module, "ROLLOFF", 0.90)
    fixture = Fixture("resample/16000")
    with pytest.raises(AssertionError):
        fixture.check("y", module.resample(fixture.input("x"), 16_000, 44_100))
