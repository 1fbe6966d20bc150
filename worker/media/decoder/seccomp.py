"""Seccomp: after this only listed system calls work, all others fail with EPERM.

The list has what decoding needs: memory, threads, the files that are open, and messages on the
socket to the daemon. It has no call that opens a path, makes a socket or a process, or reaches
another process.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from dataclasses import dataclass

_NAMES = (
    "read", "write", "close", "fstat", "lseek", "readv", "writev", "pread64", "pwrite64",
    "sendto", "recvfrom", "sendmsg", "recvmsg",
    "mmap", "mprotect", "munmap", "mremap", "madvise", "brk",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall",
    "futex", "sched_yield", "sched_getaffinity", "gettid", "getpid", "getrandom",
    "clock_gettime", "clock_getres", "getrusage", "prlimit64", "exit", "exit_group",
    "set_robust_list", "rseq", "clone", "clone3",
)  # fmt: skip
_X86_64 = (
    0, 1, 3, 5, 8, 19, 20, 17, 18,
    44, 45, 46, 47,
    9, 10, 11, 25, 28, 12,
    13, 14, 15, 131, 219,
    202, 24, 204, 186, 39, 318,
    228, 229, 98, 302, 60, 231,
    273, 334, 56, 435,
)  # fmt: skip
_AARCH64 = (
    63, 64, 57, 80, 62, 65, 66, 67, 68,
    206, 207, 211, 212,
    222, 226, 215, 216, 233, 214,
    134, 135, 139, 132, 128,
    98, 124, 123, 178, 172, 278,
    113, 114, 165, 261, 93, 94,
    99, 293, 220, 435,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A processor's name for the kernel, and its numbers of the allowed calls."""

    audit: int
    calls: dict[str, int]


MACHINES = {
    "x86_64": Machine(audit=0xC000003E, calls=dict(zip(_NAMES, _X86_64, strict=True))),
    "aarch64": Machine(audit=0xC00000B7, calls=dict(zip(_NAMES, _AARCH64, strict=True))),
}

_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _THIRD_ARGUMENT = 0, 4, 16, 32
_ALLOW, _REFUSE, _UNKNOWN, _KILL = 0x7FFF_0000, 0x0005_0001, 0x0005_0026, 0x8000_0000
_PROT_EXEC, _CLONE_THREAD = 4, 0x1_0000
_SET_SECCOMP, _FILTER = 22, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def program(machine: Machine) -> bytes:
    """Return the filter for one kind of processor, as the kernel's BPF instructions."""
    calls = dict(machine.calls)
    limits, mapping = calls.pop("prlimit64"), (calls.pop("mmap"), calls.pop("mprotect"))
    clone, clone3 = calls.pop("clone"), calls.pop("clone3")
    code = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_JUMP_EQUAL, machine.audit, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
    ]
    for number in calls.values():
        code += [_step(_JUMP_EQUAL, number, 0, 1), _step(_RETURN, _ALLOW)]
    # Limits of this process only: the first argument, a process id, is 0.
    code += [
        _step(_JUMP_EQUAL, limits, 0, 4),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_JUMP_EQUAL, 0, 0, 1),
        _step(_RETURN, _ALLOW),
        _step(_RETURN, _REFUSE),
    ]
    # Threads, not processes. The flags of clone3 are out of reach: libc then uses clone.
    code += [
        _step(_JUMP_EQUAL, clone3, 0, 1),
        _step(_RETURN, _UNKNOWN),
        _step(_JUMP_EQUAL, clone, 0, 4),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_JUMP_ANY_BIT, _CLONE_THREAD, 0, 1),
        _step(_RETURN, _ALLOW),
        _step(_RETURN, _REFUSE),
    ]
    # Memory that is not executable: the third argument has no PROT_EXEC.
    code += [
        _step(_JUMP_EQUAL, mapping[0], 1, 0),
        _step(_JUMP_EQUAL, mapping[1], 0, 3),
        _step(_LOAD, _THIRD_ARGUMENT),
        _step(_JUMP_ANY_BIT, _PROT_EXEC, 1, 0),
        _step(_RETURN, _ALLOW),
        _step(_RETURN, _REFUSE),
    ]
    return b"".join(code)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def allow_only_decoding() -> bool:
    """Install the filter; return whether kernel and processor have one.

    `no_new_privs` must be set before.
    """
    machine = MACHINES.get(platform.machine())
    if machine is None or sys.maxsize < 2**32 or os.name != "posix":
        return False
    code = program(machine)
    filter_ = _Program(length=len(code) // 8, filter=code)
    libc = ctypes.CDLL(None, use_errno=True)
    done: int = libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(filter_), 0, 0)
    return done == 0
