"""Hosts with addresses of their own on one machine, for tests: namespaces of Linux, joined by a bridge.

A host has a network, processes, a name, a list of the other hosts' names, an empty local folder and shared
memory of its own; the rest of the file system is the machine's. It lives as long as its first process, which
ends with this one however that ends: the kernel then ends all its processes and removes its network.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_NAMESPACES = ("--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")

# The first process of a host. What it adopts it need not wait for: children that are ignored leave no zombie.
_FIRST_PROCESS = """
import signal, socket, subprocess, sys
name, local, names = sys.argv[1:]
socket.sethostname(name)
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", local], check=True)
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)
subprocess.run(["mount", "--bind", names, "/etc/hosts"], check=True)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
sys.stdin.read()
"""


def why_no_hosts() -> str | None:
    """Say what keeps this process from making hosts; nothing if it may."""
    missing = [tool for tool in ("ip", "unshare", "nsenter", "mount") if shutil.which(tool) is None]
    if missing:
        return f"no hosts here: {', '.join(missing)} is not installed"
    tried = subprocess.run(
        ["unshare", *_NAMESPACES, "ip", "link", "add", "type", "bridge"], capture_output=True, text=True
    )
    return f"no hosts here: {tried.stderr.strip()}" if tried.returncode else None


class Network:
    """A bridge in a namespace of its own, and the hosts that hang on it."""

    def __init__(self, folder: Path, *, names: Sequence[str]) -> None:
        self._local = folder / "local"
        self._local.mkdir()
        self._addresses = {name: f"10.77.0.{11 + i}" for i, name in enumerate(names)}
        self._names = folder / "hosts"
        lines = [f"{address} {name}" for name, address in self._addresses.items()]
        self._names.write_text("\n".join(["127.0.0.1 localhost", *lines]) + "\n")
        self._switch = subprocess.Popen(
            ["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        self.hosts: dict[str, Host] = {}

    def start(self) -> None:
        """Make the bridge and the hosts, each with its address."""
        self._at_switch("link", "add", "br0", "type", "bridge")
        self._at_switch("link", "set", "br0", "up")
        for name, address in self._addresses.items():
            host = self.hosts[name] = Host(name, address, local=self._local, names=self._names)
            self._at_switch(
                "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", f"{host.pid}"
            )
            self._at_switch("link", "set", name, "master", "br0", "up")
            host.bring_up()

    def cut(self, name: str) -> None:
        """Pull a host's cable."""
        self._at_switch("link", "set", name, "down")

    def join(self, name: str) -> None:
        """Plug it in again."""
        self._at_switch("link", "set", name, "up")

    def stop(self) -> None:
        """End every host with all that runs on it, and the bridge."""
        for host in self.hosts.values():
            host.stop()
        self._switch.kill()
        self._switch.communicate()

    def _at_switch(self, *words: str) -> None:
        subprocess.run(["nsenter", "-t", f"{self._switch.pid}", "-n", "ip", *words], check=True)


class Host:
    """One host; what runs there is started with `popen` or `run`."""

    def __init__(self, name: str, address: str, *, local: Path, names: Path) -> None:
        self.name = name
        self.address = address
        self.local = local
        """A folder that has this path on every host and holds only the host's own files."""
        self._unshare = subprocess.Popen(
            ["unshare", *_NAMESPACES, sys.executable, "-c", _FIRST_PROCESS, name, str(local), str(names)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._unshare.stdout is not None
        assert self._unshare.stdout.readline() == b"ready\n", f"the host {name} did not come up"
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text()
        self.pid = int(children)
        self._started: list[subprocess.Popen[bytes]] = []

    def bring_up(self) -> None:
        """Give the network card its address; everything else is said to be behind it."""
        for words in ("link set lo up", f"addr add {self.address}/24 dev eth0", "link set eth0 up"):
            self._enter(["ip", *words.split()], check=True)
        self._enter(["ip", "route", "add", "default", "dev", "eth0"], check=True)

    def run(self, words: Sequence[str], *, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command there and return what it said."""
        return self._enter(words, env=dict(env), capture_output=True, text=True)

    def popen(self, words: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        """Start a process there that runs on; it ends with the host, or by `kill`."""
        with log.open("ab") as out:
            self._started.append(
                subprocess.Popen(
                    [*self._door(), *words], env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=out
                )
            )

    def processes(self, title: str = "") -> dict[int, str]:
        """Return the processes of this host whose command line holds `title`: pid here -> command line."""
        ours, found = self._network_of(self.pid), dict[int, str]()
        first = {self.pid, self._unshare.pid}  # with which the host would end
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                pid = int(folder.name)
                if title in line and pid not in first and self._network_of(pid) == ours:
                    found[pid] = line
            except OSError:
                continue  # it ended meanwhile
        return {pid: line for pid, line in found.items() if line}  # a zombie has none

    def kill(self, title: str) -> None:
        """Kill what the title names, as the kernel does when memory runs out."""
        found = self.processes(title)
        assert found, f"there is no process {title!r} on {self.name}: {self.processes()}"
        for pid in found:
            os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        """Switch the host off."""
        self._unshare.kill()  # takes its child along, and that, as process 1, everything else
        self._unshare.communicate()
        for process in self._started:
            process.wait()

    def _enter(self, words: Sequence[str], **how: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self._door(), *words], **how)  # type: ignore[call-overload]

    def _door(self) -> list[str]:
        return ["nsenter", "-t", f"{self.pid}", "--net", "--uts", "--mount", "--pid", "--"]

    @staticmethod
    def _network_of(pid: int) -> str:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
