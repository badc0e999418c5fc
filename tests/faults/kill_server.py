"""Forks the children that are killed: `python -m tests.faults.kill_server <descriptor>`.

A process of its own, because it has one thread, everything imported and nothing open, so a child costs
a fork and not a start. Each order comes as one JSON line with one end of a socket, on which the child
reports; the server answers with the child's process id, and with its status when it has ended.
"""

from __future__ import annotations

import array
import ctypes
import gc
import json
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config

from ebooklet_tx import connection, opening
from ebooklet_tx.stores import factory as open_store
from ebooklet_tx.stores import s3
from tests.faults import enduring, full_disk, injection, reading
from tests.faults.scenarios import PUSHES, SCENARIOS, Child, Step, newer_code, small_packs
from tests.quick_clients import remember

_PR_SET_PTRACER = 0x59616D61
_WARM = (alembic.command, alembic.config, opening, s3)


def main() -> None:
    server = socket.socket(fileno=int(sys.argv[1]))
    remember()
    _warm_up()
    gc.collect()
    gc.freeze()
    while True:
        data, ancillary, _, _ = server.recvmsg(65_536, socket.CMSG_SPACE(4))
        if not data:
            server.close()
            return
        descriptors = array.array("i")
        for _, _, packed in ancillary:
            descriptors.frombytes(packed)
        order = json.loads(data)
        pid = os.fork()
        if pid == 0:
            server.close()
            _child(order, socket.socket(fileno=descriptors[0]))
        os.close(descriptors[0])
        _answer(server, {"pid": pid})
        _, status = os.waitpid(pid, 0)
        _answer(server, {"status": status})


def _warm_up() -> None:
    """Makes and drops a client, so that no child has to read what they are all made of."""
    place = connection.S3Connection("id", "key", "db", "bucket", "http://127.0.0.1:9")
    open_store.open_store(place).close()


def _answer(server: socket.socket, answer: dict[str, Any]) -> None:
    server.sendall(json.dumps(answer).encode() + b"\n")


def _child(order: dict[str, Any], report: socket.socket) -> None:
    """Takes the steps of a scenario; says of each when it begins and when it is done."""
    code = 1
    try:
        # Where only a parent may trace, whoever asks for this child may as well.
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
        if "fault" in order:
            enduring.run(order, report)
        elif "truth" in order:
            reading.run(order, report)
        else:
            _run(order, report)
        code = 0
    except BaseException:
        report.sendall(b"failed " + traceback.format_exc().replace("\n", "\x0b").encode() + b"\n")
    finally:
        os._exit(code)


_kept: list[Child] = []
"""A child ends as one that was killed: with its database open, and nothing tidied up."""


def _run(order: dict[str, Any], report: socket.socket) -> None:
    name = order["scenario"]
    scenario = (PUSHES if name in PUSHES else SCENARIOS)[name]
    folder = Path(order["folder"])
    remote = order["remote"]
    if isinstance(remote, dict):
        remote = connection.S3Connection(**remote)
    child = Child(folder, remote, order.get("flag", scenario.flag))
    _kept.append(child)
    with newer_code(folder), small_packs():
        report.sendall(b"ready\n")
        if report.recv(1) != b"g":
            return
        # Sent and not written: a write to a pipe would be one of the calls that are counted.
        if order.get("injection") is not None:
            injection.install(order["injection"], lambda text: report.sendall(text.encode() + b"\n"))
        take = full_disk.Survivor(child, report).take if order.get("survives") else _take
        for number, step in enumerate(scenario.steps):
            report.sendall(b"begun %d\n" % number)
            take(child, step)
            report.sendall(b"done %d\n" % number)
    report.sendall(b"end\n")


def _take(child: Child, step: Step) -> None:
    step.run(child)


if __name__ == "__main__":
    main()
