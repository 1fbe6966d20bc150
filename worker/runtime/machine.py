"""Whether an error is our own machine's trouble: then jobs wait, and no file is to blame."""

from __future__ import annotations

import errno

_SENTENCES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk does not work",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open",
    errno.ENOMEM: "the memory is used up",
    errno.EAGAIN: "no more threads or processes can be started",
}


def machine_trouble(error: BaseException) -> str | None:
    """Return what is wrong with this machine; None if the error says nothing about it.

    Errors of files that people send have no errno of these, and Python has no type of its own
    for a thread that cannot be started.
    """
    if isinstance(error, MemoryError):
        return _SENTENCES[errno.ENOMEM]
    if isinstance(error, OSError) and error.errno is not None:
        return _SENTENCES.get(error.errno)
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return _SENTENCES[errno.EAGAIN]
    return None
