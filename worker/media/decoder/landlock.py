"""Landlock: the kernel's way for a process to give up files, TCP and signals for itself."""

from __future__ import annotations

import ctypes
import os

_CREATE_RULESET, _RESTRICT_SELF = 444, 446
_ASK_VERSION = 1
_VERSION_1 = (1 << 13) - 1
# Rights that later versions added: REFER (2), TRUNCATE (3), IOCTL_DEV (5).
_LATER_RIGHTS = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_BIND_AND_CONNECT_TCP = 0b11
_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


def deny_everything() -> bool:
    """Deny this process all that Landlock knows; return whether the kernel has Landlock.

    `no_new_privs` must be set before. Files that are open already stay usable.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)
    if version < 1:
        return False
    rights = _VERSION_1
    for since, right in _LATER_RIGHTS.items():
        rights |= right if version >= since else 0
    rules = _Ruleset(
        handled_access_fs=rights,
        handled_access_net=_BIND_AND_CONNECT_TCP if version >= 4 else 0,
        scoped=_ABSTRACT_SOCKETS_AND_SIGNALS if version >= 6 else 0,
    )
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    # A ruleset without rules: nothing is allowed.
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return False
    done: int = libc.syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return done == 0
