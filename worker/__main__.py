"""Entry point: `python -m worker`."""

from worker.commands.cli import app


def main() -> None:
    """Run the command line."""
    app(prog_name="python -m worker")


if __name__ == "__main__":
    main()
