"""The parent's side of faults below SQLite: builds the layer, plans the faults, and judges what they left."""

from __future__ import annotations

import errno
import random
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import ebooklet_tx
from tests.faults import checks
from tests.faults.enduring import ENDURED, LIBRARY_VARIABLE, OTHER_FILE, Fault
from tests.faults.killing import KillServer, Outcome
from tests.faults.scenarios import FILE, READER_FILE, Content, Template, content_of, remote_of

_SOURCE = Path(__file__).with_name("faulty_calls.c")
_MANY = 1000

_ERRORS = {
    "open": ["EIO", "EMFILE", "EACCES", "ENOSPC", "EINTR"],
    "opendir": ["EIO", "EACCES"],
    "read": ["EIO", "EINTR"],
    "pread": ["EIO", "EINTR"],
    "write": ["EIO", "ENOSPC", "EINTR"],
    "pwrite": ["EIO", "ENOSPC", "EINTR"],
    "fsync": ["EIO", "ENOSPC", "EINTR"],
    "ftruncate": ["EIO", "ENOSPC"],
    "setlk": ["ENOLCK", "EACCES", "EIO", "EAGAIN"],
    "unlock": ["EIO", "ENOLCK"],
    "flock": ["EINTR", "ENOLCK", "EIO", "EWOULDBLOCK"],
    "funlock": ["EIO", "ENOLCK"],
    "rename": ["EIO", "ENOSPC", "EACCES"],
    "link": ["EIO", "ENOSPC", "EACCES", "EPERM"],
    "unlink": ["EIO", "EACCES"],
    "rmdir": ["EIO"],
    "mkdir": ["EIO", "ENOSPC", "EACCES"],
    "utime": ["EIO", "EPERM"],
    "fstat": ["EIO"],
    "stat": ["EIO", "EACCES"],
    "mmap": ["ENOMEM", "EIO"],
    "close": ["EIO"],
}
"""How a call of each name can fail."""

_WAYS = {
    "read": ["short"],
    "pread": ["short"],
    "write": ["short", "torn", "after"],
    "pwrite": ["short", "torn", "after"],
    "fsync": ["after"],
    "ftruncate": ["after"],
    "rename": ["after"],
    "link": ["after"],
    "unlink": ["after"],
}
"""What else can be done to it: half of it, half of it and an error, all of it and an error."""


def built_layer(folder: Path) -> Path | None:
    """Compiles the layer; None where there is no C compiler, or no loader that takes it."""
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        return None
    library = folder / "libfaulty.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return library if done.returncode == 0 else None


def _kind_of(path: str) -> str:
    """Names what a path is, whatever numbers are in it."""
    name = path.removesuffix(" (deleted)").rpartition("/")[2]
    if "/remote" in path:
        return "remote " + re.sub(r"[0-9a-f]{8,}", "*", path.partition("/remote")[2])
    return re.sub(r"\d+-\d+", "*", name)


@dataclass
class Account:
    """What became of a campaign."""

    injected: int = 0
    met: int = 0
    raised: Counter[str] = field(default_factory=Counter)
    by_call: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def table(self) -> str:
        lines = [f"{self.injected} injections, {self.met} met, {len(self.failures)} failures"]
        lines += [f"  {count:5} {call}" for call, count in sorted(self.by_call.items())]
        lines += ["told by:", *(f"  {count:5} {name}" for name, count in self.raised.most_common())]
        return "\n".join(lines + self.failures)


class Campaign:
    """One scenario: its template, the calls that a child makes in it, and copies in which one of them fails."""

    def __init__(self, server: KillServer, scratch: Path, name: str) -> None:
        self.name = name
        self.scenario = ENDURED[name]
        self._server = server
        self._folder = scratch / f"faulty-{name.replace(' ', '-')}"
        self._folder.mkdir()
        self._template_folder = self._folder / "template"
        self._template_folder.mkdir()
        self.template: Template = self.scenario.make(self._template_folder)
        self._copies = 0

    def remove(self) -> None:
        shutil.rmtree(self._folder)

    @contextmanager
    def _copy(self) -> Iterator[Path]:
        self._copies += 1
        folder = self._folder / f"copy{self._copies:06}"
        shutil.copytree(self._template_folder, folder)
        yield folder
        shutil.rmtree(folder)

    def _run(self, folder: Path, fault: Fault, *, dies: bool, log: Path | None = None) -> Outcome:
        order = {
            "scenario": self.name,
            "folder": str(folder),
            "remote": remote_of(folder),
            "fault": fault.order(),
            "dies": dies,
            "log": str(log) if log else None,
        }
        return self._server.run(order)

    def calls(self) -> list[tuple[str, int, str]]:
        """Lets one child live; returns (name, number among its name, what it was about) of its calls."""
        log = self._folder / "calls.log"
        with self._copy() as folder:
            outcome = self._run(folder, Fault("", 0, "none"), dies=False, log=log)
            raised = [event for event in outcome.events if event.startswith("raised")]
            if raised:
                raise AssertionError(f"without a fault: {raised}")
            self._judge(folder, outcome)
        counts: Counter[str] = Counter()
        found = []
        for line in log.read_text().splitlines():
            call, _, path = line.partition(" ")
            counts[call] += 1
            found.append((call, counts[call], _kind_of(path)))
        log.unlink()
        return found

    def faults(self, count: int, seed: int) -> list[Fault]:
        """Plans so many faults, spread over kinds of calls and files, then over their numbers."""
        chance = random.Random(f"{self.name} {seed}")
        groups: dict[tuple[str, str], list[int]] = defaultdict(list)
        for call, number, about in self.calls():
            groups[call, about].append(number)
        names = sorted(groups)
        chance.shuffle(names)
        planned: list[Fault] = []
        while len(planned) < count:
            call, about = names[len(planned) % len(names)]
            action = chance.choice(["fail", *_WAYS.get(call, [])])
            error = chance.choice(_ERRORS[call])
            # A signal interrupts now and then, not for ever.
            times = 1 if error == "EINTR" or action == "short" else chance.choice([1, 1, _MANY])
            if error == "EINTR":
                action = "fail"
            number = chance.choice(groups[call, about])
            planned.append(Fault(call, number, action, getattr(errno, error), times, about))
        return planned

    def go_through(self, faults: list[Fault], account: Account) -> None:
        """Injects each fault into a child of its own; every second child ends at its first error."""
        for index, fault in enumerate(faults):
            account.injected += 1
            account.by_call[f"{fault.call} {fault.action}"] += 1
            with self._copy() as folder:
                try:
                    outcome = self._run(folder, fault, dies=index % 2 == 1)
                    raised = [event.split()[1] for event in outcome.events if event.startswith("raised")]
                    account.raised.update(raised or ["nothing"])
                    account.met += bool(raised) or any(
                        event.startswith("treated") and event != "treated 0" for event in outcome.events
                    )
                    self._judge(folder, outcome)
                except Exception as error:
                    ending = ", ends at its first error" * (index % 2)
                    account.failures.append(f"{self.name}: {fault}{ending}: {type(error).__name__}: {error}")

    # -- judging -------------------------------------------------------------------------------

    def _states(self) -> list[Content]:
        return self.scenario.states(self.template.local)

    def _remote_states(self, outcome: Outcome) -> list[Content]:
        """Returns what the remote may hold: what was pushed last, or what a step under way would push."""
        states = self._states()
        steps = self.scenario.steps
        held = self.template.remote
        allowed = []
        for number, step in enumerate(steps[: max(outcome.begun, outcome.done) + 1]):
            changed = step.pushes or step.name == "pull"
            if changed and number > outcome.done:
                allowed.append(held)
            if step.pushes:
                held = states[number + 1]
            elif step.name == "pull" and step.change is not None:
                held = held.copy()
                step.change(held)
        return [*allowed, held]

    def _judge(self, folder: Path, outcome: Outcome) -> None:
        """Opens what is left in this process, which no fault has ever touched."""
        states = self._states()
        allowed = [states[number] for number in outcome.allowed()]
        remote_allowed = self._remote_states(outcome)
        path = folder / FILE
        second = folder / READER_FILE
        if not path.exists() and not allowed[0]:
            # Nothing was acknowledged before there was a file.
            return
        if remote_allowed[0]:
            found = checks.read_remote(remote_of(folder), second)
            checks.one_of(found, remote_allowed, "the second reader sees")
        self._check_pair(folder, [*allowed, *self._with_theirs(allowed, outcome)])
        checks.check_files(folder)

    def _with_theirs(self, allowed: list[Content], outcome: Outcome) -> list[Content]:
        """Opening pulls: what the other machine pushed is there after that, whether or not the child pulled."""
        number = next((n for n, step in enumerate(self.scenario.steps) if step.name == "pull"), None)
        if number is None or outcome.begun < number or outcome.done >= number:
            return []
        pulled = [state.copy() for state in allowed]
        change = self.scenario.steps[number].change
        for state in pulled:
            if change is not None:
                change(state)
        return pulled

    def _check_pair(self, folder: Path, allowed: list[Content]) -> None:
        remote, path = remote_of(folder), folder / FILE
        flag = "w" if self.template.reopen_flag == "w" else "c"
        with ebooklet_tx.open(remote, path, flag, n_buckets=11, lock=None, lock_timeout=0) as database:
            checks.check_nothing_lost(database)
            # Twice, so that what the opening has mended is what is read.
            checks.one_of(content_of(database), allowed, "after the fault the file holds")
        expected = checks.reopen_and_push(remote, folder, allowed, flag=flag)
        checks.one_of(checks.read_remote(remote, folder / READER_FILE), [expected], "then the second reader sees")


def layer_server(library: Path) -> KillServer:
    """Starts a fork server whose children have the layer below them."""
    return KillServer({LIBRARY_VARIABLE: str(library)})


__all__ = ["OTHER_FILE", "Account", "Campaign", "built_layer", "layer_server"]
