"""Trains the MOS predictor (`models.opinion`): sounds, what DNSMOS says of them, and a net that learns it.

    clips         the clips of a group, an input and what was made of it, and how DNSMOS rates one
    collection    the cache: groups are made, rated, kept and read
    fitting       a net that agrees with the ratings
    evaluation    how far it agrees with them
    __main__      the command

`python -m enhance_ray.training.mos --help` tells how it goes and what it takes.
"""
