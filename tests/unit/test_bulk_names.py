"""Names that are no UTF-8, in the tables of bulk jobs and in tars, and back."""

import io
import os
import tarfile

import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ray")

from enhance_ray.audio import Patience
from enhance_ray.cluster.bulk import inputs, shards
from enhance_ray.cluster.bulk import plan as planning
from enhance_ray.cluster.bulk.names import path_of, storable
from enhance_ray.cluster.bulk.settings import BulkConfig
from enhance_ray.cluster.bulk.state import JobState

RAW = [
    b"caf\xe9.wav",
    b"50% #1.wav",
    b"show :: 1.wav",
    b"caf\\udce9.wav",
    b"a\\udc5cudce9.wav",
    "l\u2028.wav".encode(),
]
NAMES = sorted(map(os.fsdecode, RAW))


@given(st.binary(max_size=40))
def test_any_bytes_have_a_form_of_their_own_and_come_back(raw):
    name = os.fsdecode(raw)
    stored = storable(name)
    stored.encode()
    assert path_of(stored) == name
    if stored != name:
        assert storable(stored) != stored


@given(
    st.lists(
        st.text(st.sampled_from("\\udc5e9\udce9\udc80"), max_size=12), min_size=2, max_size=2, unique=True
    )
)
def test_names_that_look_as_if_written_out_are_told_apart(names):
    one, two = map(storable, names)
    assert one != two
    assert [path_of(one), path_of(two)] == names


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_a_folder_of_any_names_is_planned_and_each_leads_back(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in NAMES:
        (source / name).touch()
    config = BulkConfig(input=str(source), output=str(tmp_path / "out"))
    state = JobState(config.output, "job")
    assert planning.plan(config, state).added == len(NAMES)
    rows = [row for part in state.parts() for row in state.manifest(part).to_pylist()]
    found = [path_of(row["uri"]) for row in rows]
    assert sorted(found) == [f"{source}/{name}" for name in NAMES]
    assert all(os.path.exists(name) for name in found)  # noqa: PTH110 - by the very name
    outputs = [planning.output_of(config, name, None, None, ".wav") for name in found]
    assert sorted(outputs) == [f"{tmp_path}/out/{name}" for name in NAMES]
    content = BulkConfig(input=config.input, output=config.output, layout="content")
    assert len({planning.output_of(content, name, None, None, ".wav") for name in found}) == len(NAMES)
    assert planning.plan(config, state).added == 0


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_a_list_of_any_names_is_planned(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(b"uri,output,show\n" + b"".join(b'"%s","out/%s",x\n' % (name, name) for name in RAW[:4]))
    [found] = inputs.pages(str(path))
    uris, outputs = found["uri"].to_pylist(), found["output"].to_pylist()
    assert [os.fsencode(path_of(uri)) for uri in uris] == RAW[:4]
    assert [os.fsencode(path_of(output)) for output in outputs] == [b"out/" + name for name in RAW[:4]]
    assert all(uri.isprintable() for uri in uris)


@pytest.mark.skipif(os.name != "posix", reason="names are bytes on POSIX alone")
def test_members_of_a_tar_keep_any_name(tmp_path):
    sound = io.BytesIO()
    soundfile.write(sound, [0.0] * 100, 8000, format="WAV")
    for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        with tarfile.open(tmp_path / "in.tar", "w", format=kind) as tar:
            for name in NAMES:
                info = tarfile.TarInfo(name)
                info.size = len(sound.getvalue())
                tar.addfile(info, io.BytesIO(sound.getvalue()))
        folder = tmp_path / f"members{kind}"
        folder.mkdir()
        members = list(shards.unpack(str(tmp_path / "in.tar"), folder, Patience()))
        assert [member.name for member in members] == NAMES
        shards.pack(
            str(tmp_path / "in.tar"), [(m, m.path) for m in members], tmp_path / "out.tar", Patience()
        )
        with tarfile.open(tmp_path / "out.tar") as tar:
            assert tar.getnames() == NAMES
