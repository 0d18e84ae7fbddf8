"""Trains the net that hears speech and music (`models.activity`) from folders of audio, on a CPU.

    levels        waveforms of one length: how loud they are, and in which steps they are heard
    synthesis     music by rule, for the sake of electronic jingles; noise with a pitch, which is no music
    examples      mixtures: speech, music and noise come and go on their own, alone and together
    fitting       examples as the net sees them, and a net that learns from them
    evaluation    scenes that were kept out, and how often the guard calls them music alone
    __main__      the command

`python -m enhance_ray.training.activity --help` tells what it takes.
"""
