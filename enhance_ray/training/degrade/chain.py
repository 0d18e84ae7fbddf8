"""Degradations in a row: the reference's distorter, and what recording, storing and sending do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

import numpy as np

from enhance_ray.settings.ranges import Probability
from enhance_ray.settings.schema import settings
from enhance_ray.training.degrade.codecs import Codec
from enhance_ray.training.degrade.effect import Effect, Response, Waveform
from enhance_ray.training.degrade.filters import BandFilter, Equalizer
from enhance_ray.training.degrade.interference import GaussianNoise, Hum, Plosives, Wind
from enhance_ray.training.degrade.levels import Clipping, LevelChanges, Overdrive
from enhance_ray.training.degrade.packets import PacketLoss
from enhance_ray.training.degrade.rates import NarrowBand
from enhance_ray.training.degrade.rooms import Reverb, Room, add_reverb, add_room


@settings
class RecordingChain:
    """What recording, storing and sending do to a sound, in the order in which they happen.

    All off by default (the reference has none of it). Each effect is drawn by its own probability.
    """

    colour: Equalizer = field(default_factory=lambda: Equalizer(probability=0.0))
    wind: Wind = field(default_factory=Wind)
    plosives: Plosives = field(default_factory=Plosives)
    level: LevelChanges = field(default_factory=LevelChanges)
    hum: Hum = field(default_factory=Hum)
    clipping: Clipping = field(default_factory=Clipping)
    narrow_band: NarrowBand = field(default_factory=NarrowBand)
    codec: Codec = field(default_factory=Codec)
    packet_loss: PacketLoss = field(default_factory=PacketLoss)

    def __call__(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        return _apply(
            [effect for effect in self._chain if rng.random() < effect.probability],
            waveform,
            sample_rate,
            rng,
        )

    def one(self, waveform: Waveform, sample_rate: int, rng: np.random.Generator) -> Waveform:
        """Apply one effect, drawn in proportion to the probabilities; none where all of them are 0."""
        weights = np.array([effect.probability for effect in self._chain])
        if not weights.any():
            return waveform
        effect = self._chain[int(rng.choice(len(weights), p=weights / weights.sum()))]
        return effect(waveform, sample_rate, rng)

    @property
    def _chain(self) -> tuple[Effect, ...]:
        return (
            self.colour,
            self.wind,
            self.plosives,
            self.level,
            self.hum,
            self.clipping,
            self.narrow_band,
            self.codec,
            self.packet_loss,
        )


@settings
class Distorter:
    """Clean -> degraded, as in the reference by default: a random permutation of six effects.

    The reference draws n from Binomial(6, 1/2), then an ordered selection of n of the six. That is
    the same as a coin for each and a shuffle, which is what happens here, with coins that may be
    biased by each effect's ``probability``.
    """

    clean_probability: Probability = 0.0
    """How often nothing is done: 0 for training a denoiser, 0.2 for the enhancer in the reference."""
    room_probability: Probability = 0.5
    """How often a room of the bank is applied, where there is a bank."""
    reverb: Reverb = field(default_factory=Reverb)
    noise: GaussianNoise = field(default_factory=GaussianNoise)
    overdrive: Overdrive = field(default_factory=Overdrive)
    equalizer: Equalizer = field(default_factory=Equalizer)
    band_filter: BandFilter = field(default_factory=BandFilter)
    recording: RecordingChain = field(default_factory=RecordingChain)
    """Applied after the permutation."""

    def __call__(
        self,
        waveform: Waveform,
        sample_rate: int,
        rng: np.random.Generator,
        responses: Sequence[Response] = (),
    ) -> Waveform:
        """Degrade ``waveform``; ``responses`` is the bank of rooms at the same rate, perhaps empty."""
        if rng.random() < self.clean_probability:
            return waveform
        effects: list[Effect] = [self.reverb, self.noise, self.overdrive, self.equalizer, self.band_filter]
        if responses:
            effects.append(Room(responses=responses, probability=self.room_probability))
        chosen = [effect for effect in effects if rng.random() < effect.probability]
        permuted = [chosen[i] for i in rng.permutation(len(chosen))]
        return self.recording(_apply(permuted, waveform, sample_rate, rng), sample_rate, rng)


def distort_for_validation(
    waveform: Waveform, sample_rate: int, response: Response | None = None
) -> Waveform:
    """The reference's fixed distortion for validation: the first room, then reverb at 50/50/50."""
    if response is not None:
        waveform = add_room(waveform, response)
    return add_reverb(waveform, sample_rate)


def _apply(
    effects: Sequence[Effect], waveform: Waveform, sample_rate: int, rng: np.random.Generator
) -> Waveform:
    for effect in effects:
        waveform = effect(waveform, sample_rate, rng)
    return waveform
