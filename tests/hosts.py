"""Machines that are none: network, process and mount namespaces with an address, an sshd and a home each.

    with Hosts(3, folder) as hosts:
        hosts.address(1); hosts.run(1, "uptime"); hosts.cut(2); hosts.mend(2); hosts.power_off(3)

They share this machine's kernel, files and cores, and nothing of its network: each is reached by ssh at its
own address, has its own loopback, /tmp, /dev/shm and home folder, and sees its own processes alone.
Needs root, and Debian's iproute2, openssh-server and rsync.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BRIDGE = "enhance-ray-br"
NETWORK = "10.88.7"
GATEWAY = f"{NETWORK}.1"
"""This machine, as the hosts see it."""


def require():
    """Skip a test where there can be no hosts."""
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        pytest.skip("needs root on Linux, for network namespaces")
    for program in ("ip", "sshd", "ssh-keygen", "rsync", "unshare"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"needs {program}: apt-get install iproute2 openssh-server rsync")
    tried = subprocess.run(["ip", "netns", "add", "enhance-ray-try"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("may not make network namespaces")
    sh("ip netns del enhance-ray-try")


def sh(command, **options):
    """Run a line of shell; its output."""
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextlib.contextmanager
def folder_for_hosts(name):
    """An empty folder that every host sees; not in /tmp, which each has of its own."""
    folder = Path("/var/tmp") / f"enhance-ray-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class Hosts:
    """So many of them, numbered from 1."""

    def __init__(self, count, folder):
        self.count = count
        self.folder = Path(folder)
        self.key = self.folder / "key"
        self._processes = {}

    def __enter__(self):
        for name in ("key", "hostkey"):
            sh(f"ssh-keygen -q -t ed25519 -N '' -f {self.folder / name}")
        sh(f"ip link add {BRIDGE} type bridge && ip addr add {GATEWAY}/24 dev {BRIDGE}")
        sh(f"ip link set {BRIDGE} up")
        try:
            for number in range(1, self.count + 1):
                self._wire(number)
                self.power_on(number)
            for number in range(1, self.count + 1):
                self._await_ssh(number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for number in list(self._processes):
            self.power_off(number)
        for number in range(1, self.count + 1):
            # The wire first: a namespace goes when the last of its processes does.
            sh(f"ip link del {self._name(number)}; ip netns del {self._name(number)}; true")
        sh(f"ip link del {BRIDGE}")

    def address(self, number):
        """Of a host."""
        return f"{NETWORK}.{10 + number}"

    def run(self, number, command):
        """Run a line of shell on a host, by ssh; its output."""
        return sh(f"{self._ssh(number)} {self._quoted(command)}")

    def cut(self, number):
        """Take a host off the network; what runs there goes on."""
        sh(f"ip link set {self._name(number)} down")

    def mend(self, number):
        """Put it back."""
        sh(f"ip link set {self._name(number)} up")

    def power_on(self, number):
        """Start a host, with an empty home."""
        home = self.folder / f"home-{number}"
        shutil.rmtree(home, ignore_errors=True)
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        shutil.copy(f"{self.key}.pub", home / ".ssh" / "authorized_keys")
        script = self.folder / f"host-{number}.sh"
        tmp = self.folder / f"tmp-{number}"
        tmp.mkdir(exist_ok=True)
        visible = "\n".join(
            f"mkdir -p '{shown}' && mount --bind '{folder}' '{shown}'"
            for folder, shown in _visible(home, tmp)
        )
        script.write_text(
            _INIT.format(number=number, folder=self.folder, home=home, tmp=tmp, visible=visible)
        )
        namespaces = "unshare --mount --pid --uts --fork --mount-proc --kill-child=KILL"
        log = (self.folder / f"host-{number}.log").open("ab")
        self._processes[number] = subprocess.Popen(
            ["bash", "-c", f"exec ip netns exec {self._name(number)} {namespaces} bash {script}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def power_off(self, number):
        """Every process of a host is gone, at once."""
        process = self._processes.pop(number)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def _name(self, number):
        return f"er-host{number}"

    def _wire(self, number):
        name = self._name(number)
        sh(
            f"ip netns add {name} && ip link add {name} type veth peer name eth0 netns {name}"
            f" && ip link set {name} master {BRIDGE} up"
            f" && ip -n {name} addr add {self.address(number)}/24 dev eth0 && ip -n {name} link set eth0 up"
            f" && ip -n {name} link set lo up && ip -n {name} route add default via {GATEWAY}"
        )

    def _ssh(self, number):
        options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        return f"ssh -n -i {self.key} {options} root@{self.address(number)}"

    def _quoted(self, command):
        return "'" + command.replace("'", "'\\''") + "'"

    def _await_ssh(self, number):
        end = time.monotonic() + 20
        while True:
            try:
                self.run(number, "true")
            except AssertionError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)
            else:
                return


def _visible(home, tmp):
    """What a host needs of the home folder and of /tmp, of which it has its own: (folder, where to mount it).

    That is the project, and an interpreter that lives there.
    """
    needed = [Path(__file__).resolve().parents[1]]
    if Path(sys.base_prefix).is_relative_to(Path.home()):
        # As a whole: an interpreter's folder may be a link to another beside it.
        needed.append(Path.home() / Path(sys.base_prefix).relative_to(Path.home()).parts[0])
    pairs = []
    for folder in needed:
        for hidden, shown in ((Path.home(), home), (Path("/tmp"), tmp)):
            if folder.is_relative_to(hidden):
                pairs.append((folder, shown / folder.relative_to(hidden)))
    return pairs


_INIT = """\
set -e
mount --make-rprivate /
hostname host{number}
mount -t tmpfs -o size=8g tmpfs /dev/shm
{visible}
mkdir -p /run/sshd
cp {folder}/hostkey /run/sshd/hostkey-{number}
chmod 600 /run/sshd/hostkey-{number}
mount --rbind {home} "$HOME"
chmod 1777 {tmp}
mkdir -p {folder}/shared
mount --rbind {tmp} /tmp
exec /usr/sbin/sshd -D -e -f /dev/null -h /run/sshd/hostkey-{number} -o ListenAddress=0.0.0.0 -o UsePAM=no \\
  -o PermitRootLogin=yes -o PasswordAuthentication=no -o StrictModes=no -o PidFile=none \\
  -o AuthorizedKeysFile="$HOME/.ssh/authorized_keys" -o 'Subsystem=sftp internal-sftp'
"""
