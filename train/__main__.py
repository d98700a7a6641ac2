"""Training on your own pictures: `python -m train inspect PICTURES` tells what is in a folder."""

import argparse
import sys
from pathlib import Path

from . import inspect

RESOLUTION = 1024


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m train", description=__doc__)
    commands = found.add_subparsers(dest="command", required=True)
    command = commands.add_parser("inspect", help="what is in a folder of pictures, and what is left out of it")
    command.add_argument("pictures", type=Path, help="a folder of pictures, or a .tar")
    command.add_argument("--resolution", type=int, default=RESOLUTION, help="side of a square of the area of the buckets")
    command.add_argument("--instance-prompt", default="", help="the caption of pictures that have none")
    command.set_defaults(run=inspect.run)
    return found


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
