"""The local stack: `up` starts it and keeps it running, `demo` makes one video with it."""

from __future__ import annotations

import argparse
import asyncio
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from devstack.launch import PostgresMissing
from devstack.stack import Stack

GOOD, FAILED = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    if options.command == "demo":
        # The demo needs clients and codecs that `up` does not.
        from devstack import demo

        return demo.main(image=options.image, audio=options.audio)
    try:
        return asyncio.run(_up(options))
    except (PostgresMissing, RuntimeError, OSError) as error:
        print(f"The local stack did not start: {error}", file=sys.stderr)
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devstack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start everything and run until Ctrl-C")
    up.add_argument("--json", action="store_true", help="print the settings as one line of JSON")
    up.add_argument("--data", type=Path, metavar="DIR", help="keep everything in DIR")
    up.add_argument("--no-runpod", action="store_true", help="start without the RunPod stand-in")
    up.add_argument("--port", type=int, metavar="N", help="PORT for the worker")
    demo = commands.add_parser("demo", help="make one preview video and print its path")
    demo.add_argument("--image", type=Path, metavar="FILE", help="your own portrait")
    demo.add_argument("--audio", type=Path, metavar="FILE", help="your own speech")
    return parser


async def _up(options: argparse.Namespace) -> int:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    stack = Stack(data=options.data, runpod=not options.no_runpod, port=options.port)
    async with stack:
        if options.json:
            print(json.dumps(stack.env), flush=True)
        else:
            for name, value in stack.env.items():
                print(f"{name}={shlex.quote(value)}", flush=True)
            print("The local stack is running; stop it with Ctrl-C.", file=sys.stderr, flush=True)
        await stopped.wait()
    return GOOD


if __name__ == "__main__":
    sys.exit(main())
