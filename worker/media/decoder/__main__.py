"""`python -m worker.media.decoder`: decodes the files that the daemon hands over, until it ends."""

from __future__ import annotations

import errno
import importlib
import json
import os
import pkgutil
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO, cast

import av
import pillow_heif
from PIL import AvifImagePlugin, Image, ImageCms

from worker.jobs.errors import JobFailed
from worker.media.audio import probe_audio
from worker.media.audio_render import render_audio
from worker.media.decoder.confine import ProcessLimits, allow_cpu, confine
from worker.media.decoder.messages import (
    MOST_BYTES,
    facts_as_json,
    hello,
    read_audio_facts,
    read_fraction,
)
from worker.media.images import probe_image, render_image


def main(channel: socket.socket, limits: ProcessLimits) -> None:
    """Serve one job after another, until the daemon closes the socket."""
    _load_everything()
    channel.send(hello(confine(limits)))
    while True:
        request, files, _, _ = socket.recv_fds(channel, MOST_BYTES, 2)
        if not request:
            return
        allow_cpu(limits.cpu_seconds)
        channel.send(json.dumps(_answer(json.loads(request), files)).encode())


def _load_everything() -> None:
    """Load what libraries would load at first use: later no file can be opened.

    One thread decodes: CPU seconds are then the time that others wait.
    """
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.startswith("av.__"):
            importlib.import_module(module.name)
    Image.init()
    ImageCms.createProfile("sRGB")
    pillow_heif.options.DECODE_THREADS = 1
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _answer(request: dict[str, Any], numbers: list[int]) -> dict[str, Any]:
    work = _WORK[request["task"]]
    files: list[BinaryIO] = []
    try:
        for number, mode in zip(numbers, ("rb", "wb"), strict=False):
            files.append(cast(BinaryIO, os.fdopen(number, mode)))
        result = work(*files, **request["options"])
        files[-1].flush()
        return {"result": result}
    except JobFailed as error:
        return {"error": {"code": error.code, "message": error.message[:500]}}
    except MemoryError:
        return {"failure": "memory"}
    except OSError as error:
        if error.errno not in _TROUBLE_OF_THE_DISK:
            raise
        return {"failure": "machine"}
    finally:
        for file in files:
            with suppress(OSError):
                file.close()


def _probe_image(file: BinaryIO, *, max_pixels: int) -> dict[str, Any]:
    return facts_as_json(probe_image(file, max_pixels=max_pixels))


def _probe_audio(file: BinaryIO, *, max_seconds: object) -> dict[str, Any]:
    return facts_as_json(probe_audio(file, max_seconds=read_fraction(max_seconds)))


def _render_image(file: BinaryIO, into: BinaryIO, **options: Any) -> None:
    into.write(render_image(file, **options | {"size": tuple(options["size"])}))


def _render_audio(file: BinaryIO, into: BinaryIO, *, facts: object, seconds: object) -> None:
    render_audio(file, read_audio_facts(facts), seconds=read_fraction(seconds), into=into)


_TROUBLE_OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS})
_WORK: dict[str, Callable[..., dict[str, Any] | None]] = {
    "probe_image": _probe_image,
    "probe_audio": _probe_audio,
    "render_image": _render_image,
    "render_audio": _render_audio,
}

if __name__ == "__main__":
    status, (number, memory, cpu, most) = 0, map(int, sys.argv[1:])
    # Not within `main`: an error there must not close the socket before the process ends, so that
    # the daemon sees how it ended. `os._exit` for the same reason.
    to_daemon = socket.socket(fileno=number)
    try:
        main(to_daemon, ProcessLimits(memory_bytes=memory, cpu_seconds=cpu, jobs=most))
    except BaseException:  # noqa: BLE001 - the process ends with it
        status = 1
        traceback.print_exc()
    os._exit(status)
