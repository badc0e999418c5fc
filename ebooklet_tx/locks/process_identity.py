"""The identity of this process, and whether another process of this machine still runs.

The invariant: a process is called dead only when that is certain: it ran in the same boot and PID namespace, and
there is no process of that number, or only a zombie.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from pathlib import Path

from ebooklet_tx.locks.lease_rules import Holder

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_clock() -> float:
    """Returns monotonic seconds that include the time in which the machine is suspended."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def boot_id() -> str:
    """Returns an identifier of this boot of this machine, empty where the system has none."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def writers_here() -> str:
    """Returns how the names of all writers of this machine begin; those of another may begin alike."""
    return f"{_host()}:"


def writer_name() -> str:
    """Returns how this process signs its commits, for people to read."""
    return f"{writers_here()}{os.getpid()}"


def new_holder() -> Holder:
    """Returns an identity for one session of this process."""
    return Holder(
        owner=secrets.token_hex(16), host=_host(), boot_id=f"{boot_id()}/{_namespace()}", pid=os.getpid()
    )


def is_dead(holder: Holder) -> bool:
    """True when a holder was a process of this machine and boot that has ended."""
    mine = boot_id()
    if not mine or holder.boot_id != f"{mine}/{_namespace()}" or holder.pid <= 0:
        return False
    if holder.pid == os.getpid():
        return False
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return _is_zombie(holder.pid)


def _namespace() -> str:
    """Identifies the PID namespace: a pid has no meaning in another container, even at equal boot and host."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _host() -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in socket.gethostname())


def _is_zombie(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[:1] == ["Z"]
