"""Machines without machines: network, process and mount namespaces with a home, a /tmp and an SSH server of their own.

Needs root and Linux. Nothing in one host sees the processes of another, or those of this machine; so `ray stop`, which
ends every Ray that it can see, is safe inside.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PREFIX = f"dr{os.getpid()}-"  # what a killed run left is not in the way
# a shell that stays: homes and /tmp of the host's own, then its SSH server
BOOT = """
mount --make-rprivate /
{keep_python}
mount --rbind {home} /root
mount -t tmpfs tmpfs /tmp && mount -t tmpfs tmpfs /run && mkdir -p /run/sshd
{server}
while :; do sleep 2; done  # and takes leave of processes whose parent has ended
"""
SSHD = """
Port 22
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
"""


class Hosts:
    """A bridge, and hosts on it. `end` leaves nothing behind."""

    def __init__(self, folder: Path, addresses: dict[str, str]) -> None:
        """addresses: name -> IPv4, all in 10.77.0.0/16."""
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._spaces: list[str] = []
        for name in ("key", "host_key"):
            self._run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
        self._space("bridge")
        self._run("ip", "-n", f"{PREFIX}bridge", "link", "add", "br0", "type", "bridge")
        self._run("ip", "-n", f"{PREFIX}bridge", "link", "set", "dev", "br0", "up")
        try:
            for name, address in addresses.items():
                self._add(name, address)
        except BaseException:
            self.end()
            raise

    def home(self, name: str) -> Path:
        """What is /root there."""
        return self._folder / f"home-{name}"

    def run(self, name: str, script: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """A shell script on a host, in a login shell."""
        command = ["nsenter", "-t", str(self._init_pid(name)), "-n", "-p", "-m", "--wd=/root"]
        clean = {"PATH": os.environ["PATH"], "HOME": "/root", "TERM": "dumb"}
        return subprocess.run(
            [*command, "bash", "-lc", script], env=clean, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def processes(self, name: str) -> list[str]:
        """Command lines there."""
        found = self.run(name, "ps -eo args --no-headers").stdout.splitlines()
        return [line for line in found if not line.startswith(("ps ", "bash -lc", "sh -ec", "sleep 2", "sshd"))]

    def end(self) -> None:
        for name, process in self._processes.items():
            os.kill(self._init_pid(name), signal.SIGKILL)  # the first process of a namespace takes all others along
            process.wait(20)
        for space in self._spaces:
            subprocess.run(["ip", "netns", "del", space], check=False)

    def _add(self, name: str, address: str) -> None:
        space, bridge = self._space(name), f"{PREFIX}bridge"
        self._run("ip", "-n", space, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", bridge)
        self._run("ip", "-n", bridge, "link", "set", "dev", name, "master", "br0", "up")
        self._run("ip", "-n", space, "addr", "add", f"{address}/16", "dev", "eth0")
        for device in ("lo", "eth0"):
            self._run("ip", "-n", space, "link", "set", "dev", device, "up")
        config = self._folder / f"sshd-{name}"
        config.write_text(SSHD.format(address=address, folder=self._folder))
        home = self.home(name)
        script = BOOT.format(home=home, keep_python=_keep_python(home), server=f"/usr/sbin/sshd -f {config}")
        alone = ["unshare", "-p", "-f", "-m", "--mount-proc", "--kill-child", "sh", "-ec", script]
        self._processes[name] = subprocess.Popen(["ip", "netns", "exec", space, *alone], stdin=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while "sleep" not in self.run(name, "ps -eo args --no-headers").stdout:
            assert time.monotonic() < end, f"{name} does not come up"
            time.sleep(0.2)

    def _init_pid(self, name: str) -> int:
        """Of the host's first process, as this machine sees it: the child of `unshare`."""
        end = time.monotonic() + 10
        while True:
            pid = self._processes[name].pid
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if children:
                return int(children[0])
            assert time.monotonic() < end, f"{name} has no process"
            time.sleep(0.1)

    def _space(self, name: str) -> str:
        space = f"{PREFIX}{name}"
        self._run("ip", "netns", "add", space)
        self._spaces.append(space)
        return space

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)


def _keep_python(home: Path) -> str:
    """What lets a host see this Python where it lies in root's home, which the host's own hides."""
    python = Path(sys.base_prefix)
    if not python.is_relative_to(Path.home()):
        return ":"
    there = home / python.relative_to(Path.home())
    return f"mkdir -p {there} && mount --bind {python} {there}"
