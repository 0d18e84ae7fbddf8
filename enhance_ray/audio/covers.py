"""Tags and pictures that libav does not read, or not write."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from mutagen import MutagenError
from mutagen.easyid3 import EasyID3
from mutagen.flac import FLAC, Picture
from mutagen.id3 import APIC, ID3, ID3NoHeaderError
from mutagen.mp4 import MP4, MP4Cover
from mutagen.oggflac import OggFLAC
from mutagen.oggopus import OggOpus
from mutagen.oggvorbis import OggVorbis

from enhance_ray.audio.formats import Cover

_FRONT = 3
"""Of the kinds of pictures that ID3 knows (section 4.14 of its 4th version), and FLAC after it."""


def read_id3_tags(file: Any) -> dict[str, str]:
    """The text of an ID3 tag at the start of an open ``file``, by the names of `AudioInfo.tags`."""
    try:
        return {name: ", ".join(values) for name, values in EasyID3(file).items()}
    except MutagenError:
        return {}


def add_cover(path: Path, container: str, cover: Cover) -> None:
    """Put ``cover`` into the complete file at ``path``, where ``container`` has a place for one.

    Raises:
        OSError: the file cannot be changed.
    """
    try:
        if container == "mp3":
            _into_id3(path, cover)
        elif container == "m4a":
            _into_mp4(path, cover)
        elif container == "flac":
            flac = FLAC(path)
            flac.add_picture(_picture(cover))
            flac.save()
        elif container == "ogg":
            _into_ogg(path, cover)
    except MutagenError as error:
        raise OSError(f"its cover cannot be written: {error}") from error


def _into_id3(path: Path, cover: Cover) -> None:
    try:
        tags = ID3(path)
    except ID3NoHeaderError:
        tags = ID3()
    tags.add(APIC(encoding=3, mime=cover.kind, type=_FRONT, desc="", data=cover.data))
    tags.save(path)


def _into_mp4(path: Path, cover: Cover) -> None:
    kind = MP4Cover.FORMAT_PNG if cover.kind == "image/png" else MP4Cover.FORMAT_JPEG
    file = MP4(path)
    file["covr"] = [MP4Cover(cover.data, imageformat=kind)]
    file.save()


def _into_ogg(path: Path, cover: Cover) -> None:
    for kind in (OggOpus, OggVorbis, OggFLAC):
        try:
            file = kind(path)
        except MutagenError:  # of another codec
            continue
        file["metadata_block_picture"] = [base64.b64encode(_picture(cover).write()).decode("ascii")]
        file.save()
        return


def _picture(cover: Cover) -> Picture:
    picture = Picture()
    picture.type, picture.mime, picture.data = _FRONT, cover.kind, cover.data
    return picture
