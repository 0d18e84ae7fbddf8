"""What a corpus is worth before training on it, and the rooms to put it in.

checking     `check` measures every recording and room response under a folder, and says what cannot be used
sounds       what is measured of a recording: band, noise, clipping, silence
responses    `load_rirs` reads a folder of room responses; what is measured of one
rooms        `rirs` simulates rooms and writes their responses
"""

from enhance_ray.training.corpus.checking import CheckLimits, CorpusReport, FileCheck, check
from enhance_ray.training.corpus.responses import ResponseStats, load_rirs, reverberation_time
from enhance_ray.training.corpus.rooms import RoomRanges, SimulatedRoom, rirs
from enhance_ray.training.corpus.sounds import SoundStats, SpectrumSample

__all__ = [
    "CheckLimits",
    "CorpusReport",
    "FileCheck",
    "ResponseStats",
    "RoomRanges",
    "SimulatedRoom",
    "SoundStats",
    "SpectrumSample",
    "check",
    "load_rirs",
    "reverberation_time",
    "rirs",
]
