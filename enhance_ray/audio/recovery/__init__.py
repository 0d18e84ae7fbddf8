"""What can still be read of a damaged file, and what is lost of it.

`decode` refuses damage, or plays on until a library gives up. Here the file is searched for every frame that
is whole, by means that suit its format:

    bare.py        mp3 and AAC (ADTS): frames that begin with a header of their own
    headless.py    mp4 and m4a without an index, wav without a header: described by another file
    resumed.py     what libav resumes behind damage by itself: flac, Ogg and others with time stamps
"""

from enhance_ray.audio.recovery.opening import open_damaged
from enhance_ray.audio.recovery.salvage import Loss, Salvage

__all__ = ["Loss", "Salvage", "open_damaged"]
