"""One decoder as the daemon sees it: started, given a task, killed when it does not answer."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import worker
from worker.jobs.errors import DecoderUnavailable
from worker.media.decoder.messages import (
    MOST_BYTES,
    DecoderFailure,
    Task,
    read_answer,
    read_hello,
    request,
)

T = TypeVar("T")
COMMAND = (sys.executable, "-P", "-s", "-m", "worker.media.decoder")
_START_SECONDS = 60.0
# All that a decoder knows of its surroundings. The last three: no reserve of memory for each
# thread, and what a large picture needed goes back to the system when it is freed.
_ENVIRONMENT = {
    "PYTHONPATH": str(Path(worker.__file__).parents[1]),
    "PYTHONDONTWRITEBYTECODE": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "MALLOC_TRIM_THRESHOLD_": "131072",
}


_LOOK_SECONDS = 0.05
_TICK = os.sysconf("SC_CLK_TCK")
# Beside others a niced process gets a fourth of a core.
_NICE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a decoder may use for one task, in seconds; the kernel holds its own limit beside it."""

    cpu_seconds: float
    wall_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderLimits:
    """What decoding may use; each limit but `processes` is for one file.

    `memory_mib` is beyond what a decoder needs by itself. `wall_seconds` count while a decoder
    works on the file, never while the file waits for one. A decoder is replaced after `jobs`.
    """

    memory_mib: int = 640
    cpu_seconds: int = 10
    wall_seconds: float = 120.0
    processes: int = 2
    jobs: int = 50


class DecoderProcess:
    """A running decoder.

    `jobs` is the number of tasks that it has been given, `cpu_of_task` what the last one took, in
    seconds. `lacking` are the layers of confinement that the kernel does not have; one that is
    `nice` gives way to other processes.
    """

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self._process = process
        self._channel = channel
        self.jobs = 0
        self.lacking: tuple[str, ...] = ()
        self.nice = False
        self.cpu_of_task = 0.0
        self._overdrawn = False
        self._look: asyncio.TimerHandle

    @property
    def pid(self) -> int:
        """The process' id."""
        return self._process.pid

    async def run(
        self, task: Task[T], file: BinaryIO, into: BinaryIO | None, *, budget: Budget
    ) -> T:
        """Return the result of a task on an open file; its output goes into the other one.

        Raise JobFailed if the decoder refuses the file, DecoderFailure if it does not answer
        within its budget, ends or answers nonsense, and OSError if no file can be opened.
        """
        self.jobs += 1
        used, waited = self._cpu_seconds(), self._waited_seconds()
        source = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            files = [source] if into is None else [source, into.fileno()]
            socket.send_fds(self._channel, [request(task)], files)
        except (BrokenPipeError, ConnectionResetError):
            raise self._ended() from None
        finally:
            os.close(source)
        self._watch(used + budget.cpu_seconds)
        try:
            async with asyncio.timeout(budget.wall_seconds):
                answer = await self._receive()
        except TimeoutError:
            # If others had the processor, that says nothing about the file.
            starved = self._waited_seconds() - waited > budget.wall_seconds / 2
            text = f"no answer within {budget.wall_seconds:g} s"
            raise DecoderFailure("machine" if starved else "time", text) from None
        finally:
            self._look.cancel()
            spent = max(0.0, self._cpu_seconds() - used)
            self.cpu_of_task = budget.cpu_seconds if self._overdrawn else spent
        if not answer:
            raise self._ended()
        return read_answer(answer, task)

    def give_way(self) -> None:
        """Let this process run behind all others from now on."""
        self.nice = True
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, self.pid, _NICE)

    async def greet(self, seconds: float) -> None:
        """Wait until the process is confined and ready; raise DecoderUnavailable if it fails."""
        try:
            async with asyncio.timeout(seconds):
                self.lacking = read_hello(await self._receive())
        except TimeoutError:
            raise DecoderUnavailable(f"it was not ready within {seconds:g} s") from None
        except ValueError:
            raise DecoderUnavailable(f"it ended while it started ({self._ended()})") from None

    def kill(self) -> None:
        """End the process now."""
        self._channel.close()
        self._process.kill()

    def reaped(self) -> bool:
        """Return whether a killed process is gone, without waiting."""
        return self._process.poll() is not None

    def wait(self) -> None:
        """Wait until a killed process is gone."""
        self._process.wait()

    def _watch(self, most: float) -> None:
        """Kill the process once it has used so many CPU seconds in its life."""
        if self._cpu_seconds() >= most:
            self._overdrawn = True
            self._process.kill()
        self._look = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._watch, most)

    def _cpu_seconds(self) -> float:
        """Return what the kernel counts for the process; 0 if it says nothing."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK if len(fields) > 12 else 0.0

    def _waited_seconds(self) -> float:
        """Return how long the process was ready to run and had no processor; 0 if unknown."""
        fields = self._proc("schedstat").split()
        return int(fields[1]) / 1e9 if len(fields) > 1 else 0.0

    def _proc(self, name: str) -> str:
        try:
            return Path(f"/proc/{self.pid}/{name}").read_text()
        except OSError:
            return ""

    async def _receive(self) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(self._channel, MOST_BYTES + 1)
        except ConnectionResetError:
            return b""

    def _ended(self) -> DecoderFailure:
        """Return why the process closed its socket: it is ending, so this waits for no work."""
        self._process.kill()
        code = self._process.wait()
        if self._overdrawn or code == -signal.SIGXCPU:
            return DecoderFailure("cpu", "all its CPU seconds were used")
        return DecoderFailure("crash", f"exit code {code}")


async def start_decoder(
    limits: DecoderLimits, *, command: tuple[str, ...] = COMMAND
) -> DecoderProcess:
    """Start a decoder and wait until it is ready; raise DecoderUnavailable if that fails."""
    try:
        decoder = _spawn(command, limits)
    except OSError as error:
        raise DecoderUnavailable(error.strerror or type(error).__name__) from error
    try:
        await decoder.greet(_START_SECONDS)
    except BaseException:
        decoder.kill()
        decoder.wait()
        raise
    return decoder


def _spawn(command: tuple[str, ...], limits: DecoderLimits) -> DecoderProcess:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    numbers = (theirs.fileno(), limits.memory_mib * 1024 * 1024, limits.cpu_seconds, limits.jobs)
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    try:
        with theirs:
            process = subprocess.Popen(
                [*command, *map(str, numbers)],
                **options,
                env=_ENVIRONMENT,
                cwd="/",
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
    except BaseException:
        ours.close()
        raise
    ours.setblocking(False)
    return DecoderProcess(process, ours)
