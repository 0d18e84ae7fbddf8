"""What happens to speech before it reaches us, as seeded functions on arrays: clean -> degraded.

Each effect comes twice: a function of explicit parameters (`equalize`), and a frozen dataclass of
ranges (`Equalizer`) that draws the parameters from a generator and calls the function. The ranges
are settings and part of a training YAML. Every effect keeps length, time alignment and float32:

    effect(waveform (time,), sample_rate, rng) -> waveform (time,)

`Distorter` applies the reference's six effects (room, reverb, noise, overdrive, equalizer, filter)
as a random permutation, then the `RecordingChain` of what archives suffer from (levels, hum,
clipping, narrow band, codec, packet loss), which is off by default and may also be called alone,
on a mixture. `mix_at_share` and `mix_at_snr` add noise to speech.

Reference: resemble_enhance/data, with the ranges of its effects. Other than there: rooms are aligned
by their direct path and at 44.1 kHz, filters are compensated for their delay, sox is not needed, and
nothing is cut to [-1, 1] on the way, except by overdrive, which is about that.
"""

from enhance_ray.training.degrade.chain import Distorter, RecordingChain, distort_for_validation
from enhance_ray.training.degrade.codecs import Codec, CodecName, transcode
from enhance_ray.training.degrade.effect import Effect, Response, Waveform, Waveforms
from enhance_ray.training.degrade.filters import BandFilter, Equalizer, equalize, filter_band
from enhance_ray.training.degrade.interference import (
    GaussianNoise,
    Hum,
    Plosives,
    Wind,
    add_gaussian_noise,
    add_hum,
    add_plosives,
    add_wind,
)
from enhance_ray.training.degrade.levels import (
    Clipping,
    LevelChanges,
    Overdrive,
    change_level,
    clip,
    overdrive,
)
from enhance_ray.training.degrade.mixing import active_power, mix_at_share, mix_at_snr, peak_normalize
from enhance_ray.training.degrade.packets import PacketLoss, lose_packets
from enhance_ray.training.degrade.rates import NarrowBand, limit_bandwidth, match_band, resample_fft
from enhance_ray.training.degrade.rooms import (
    ALLPASS_DELAYS,
    COMB_DELAYS,
    Reverb,
    Room,
    add_reverb,
    add_room,
    damp_room,
    direct_path,
)

__all__ = [
    "ALLPASS_DELAYS",
    "COMB_DELAYS",
    "BandFilter",
    "Clipping",
    "Codec",
    "CodecName",
    "Distorter",
    "Effect",
    "Equalizer",
    "GaussianNoise",
    "Hum",
    "LevelChanges",
    "NarrowBand",
    "Overdrive",
    "PacketLoss",
    "Plosives",
    "RecordingChain",
    "Response",
    "Reverb",
    "Room",
    "Waveform",
    "Waveforms",
    "Wind",
    "active_power",
    "add_gaussian_noise",
    "add_hum",
    "add_plosives",
    "add_reverb",
    "add_room",
    "add_wind",
    "change_level",
    "clip",
    "damp_room",
    "direct_path",
    "distort_for_validation",
    "equalize",
    "filter_band",
    "limit_bandwidth",
    "lose_packets",
    "match_band",
    "mix_at_share",
    "mix_at_snr",
    "overdrive",
    "peak_normalize",
    "resample_fft",
    "transcode",
]
