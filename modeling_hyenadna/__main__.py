"""What `python -m hyenadna NAME ...` and `accelerate launch -m hyenadna NAME ...` run: the command line, on demand."""

import sys


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    from hyenadna.training.cli import main as command_line

    return command_line(argv)


if __name__ == "__main__":
    sys.exit(main())
