"""Decoders for tests, started as `python -m tests.media.odd_decoders NAME ...`: each one is odd.

The arguments after the name, and the messages, are those of a real decoder.
"""

import ctypes
import json
import os
import signal
import socket
import sys
from pathlib import Path

from worker.media import audio
from worker.media.decoder import __main__ as real
from worker.media.decoder.confine import ProcessLimits, allow_cpu, confine
from worker.media.decoder.messages import hello

FACTS = {
    "width": 1,
    "height": 1,
    "format": "PNG",
    "has_alpha": False,
    "animated": False,
    "deep_grey": False,
}


def answers(channel: socket.socket, limits: ProcessLimits):
    """Answer the first job as a real decoder would, and never answer the second."""
    channel.send(hello(()))
    channel.recv(65536)
    channel.send(json.dumps({"result": FACTS}).encode())
    channel.recv(65536)
    signal.pause()


def hangs(channel: socket.socket, limits: ProcessLimits):
    channel.send(hello(()))
    channel.recv(65536)
    signal.pause()


def spins(channel: socket.socket, limits: ProcessLimits):
    confine(limits)
    channel.send(hello(()))
    channel.recv(65536)
    allow_cpu(limits.cpu_seconds)
    while True:
        pass


def spins_later(channel: socket.socket, limits: ProcessLimits):
    """Answer the first job, and spin on the second."""
    confine(limits)
    channel.send(hello(()))
    channel.recv(65536)
    channel.send(json.dumps({"result": FACTS}).encode())
    channel.recv(65536)
    allow_cpu(limits.cpu_seconds)
    while True:
        pass


def crashes(channel: socket.socket, limits: ProcessLimits):
    channel.send(hello(("landlock",)))
    channel.recv(65536)
    os.kill(os.getpid(), signal.SIGSEGV)


def talks_nonsense(channel: socket.socket, limits: ProcessLimits):
    channel.send(hello(()))
    channel.recv(65536)
    channel.send(b'{"result": {"width": 1e99}}')
    signal.pause()


def never_ready(channel: socket.socket, limits: ProcessLimits):
    channel.send(b"ready")


def unguarded(channel: socket.socket, limits: ProcessLimits):
    """A real decoder that does not look at headers first."""
    vars(audio)["refuse_costly_audio"] = lambda file, *, max_seconds: None
    real.main(channel, limits)


def tries_everything(channel: socket.socket, limits: ProcessLimits):
    """Try what a confined decoder must not be able to do; report each result as a message."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getppid()
    confine(limits)
    channel.send(hello(()))
    _, (given,), _, _ = socket.recv_fds(channel, 65536, 2)
    tries = {
        "read the job's file": lambda: os.read(given, 3),
        "write into the job's file": lambda: os.write(given, b"x"),
        "open a file": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "open the daemon's environment": lambda: os.open(f"/proc/{parent}/environ", os.O_RDONLY),
        "make a file": lambda: os.open("/tmp/made-by-a-decoder", os.O_CREAT | os.O_WRONLY),
        "ask for a file's size": Path("/etc/passwd").stat,
        "list a folder": lambda: list(Path("/").iterdir()),
        "make an internet socket": lambda: socket.socket(socket.AF_INET),
        "make a local socket": lambda: socket.socket(socket.AF_UNIX),
        "fork": os.fork,
        "run a program": lambda: os.execv("/bin/true", ["true"]),
        "signal the daemon": lambda: os.kill(parent, 0),
        "trace the daemon": lambda: _checked(libc.ptrace(16, parent, 0, 0)),
        "raise its memory limit": lambda: _raise_memory_limit(limits),
        "make memory executable": lambda: _checked(libc.mprotect(_page(libc), 4096, 7)),
    }
    report = [name for name, attempt in tries.items() if _works(attempt)]
    message = json.dumps(report)
    channel.send(json.dumps({"error": {"code": "image_unreadable", "message": message}}).encode())


def _works(attempt) -> bool:
    try:
        attempt()
    except (OSError, MemoryError):
        return False
    return True


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def _page(libc) -> ctypes.c_void_p:
    libc.mmap.restype = ctypes.c_void_p
    return ctypes.c_void_p(libc.mmap(None, 4096, 3, 0x22, -1, 0))


def _raise_memory_limit(limits: ProcessLimits) -> bytearray:
    return bytearray(limits.memory_bytes * 2)


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    number, memory, cpu, jobs = map(int, numbers)
    to_daemon = socket.socket(fileno=number)
    globals()[name](to_daemon, ProcessLimits(memory_bytes=memory, cpu_seconds=cpu, jobs=jobs))
    os._exit(0)
