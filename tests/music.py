"""Music for tests."""

import math

import torch

RATE = 44_100


def jingle(seconds):
    """Chords of plucked strings, four a second."""
    time = torch.arange(round(seconds * RATE)) / RATE
    music = torch.zeros_like(time)
    chords = [(262, 330, 392), (220, 262, 330), (175, 220, 262), (196, 247, 294)]
    for beat in range(int(4 * seconds)):
        since = (time - beat / 4).clamp_min(0)
        for hz in chords[beat // 4 % 4] if beat % 2 == 0 else (2 * chords[beat // 4 % 4][beat % 3],):
            envelope = torch.where(time >= beat / 4, torch.exp(-5 * since), 0)
            for harmonic in range(1, 6):
                music += envelope * torch.sin(2 * math.pi * harmonic * hz * since) / harmonic**1.5
    return 0.5 * music / music.abs().max()
