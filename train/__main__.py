"""Training: a LoRA of a style or a subject, an LCM-LoRA, a smaller model, or a whole model, on your own pictures."""

import argparse
import sys

from . import dataset_check, interruption, options


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="python -m train", description=__doc__, fromfile_prefix_chars="@")
    commands = root.add_subparsers(dest="command", required=True)
    command = commands.add_parser("inspect", help="what is in a folder of pictures, and what is left out of it")
    options.add_data(command)
    command.set_defaults(run=dataset_check.run)
    command = commands.add_parser("lora", help="a LoRA of a style or a subject, and DreamBooth")
    options.add_lora(command)
    command.set_defaults(run=run_lora)
    command = commands.add_parser("lcm-lora", help="an LCM-LoRA of a base's own, with which it draws in 1 to 8 steps")
    options.add_lcm_lora(command)
    command.set_defaults(run=run_lcm_lora)
    command = commands.add_parser("distill", help="a smaller model: a base with blocks left out, taught by the base itself")
    options.add_distill(command)
    command.set_defaults(run=run_distill)
    command = commands.add_parser("finetune", help="the whole UNet of a base")
    options.add_finetune(command)
    command.set_defaults(run=run_finetune)
    return root


def run_lora(chosen: argparse.Namespace) -> None:
    from . import lora_run  # seconds of imports, which a wrong option need not wait for

    lora_run.run(chosen)


def run_lcm_lora(chosen: argparse.Namespace) -> None:
    from . import lcm_lora_run

    lcm_lora_run.run(chosen)


def run_distill(chosen: argparse.Namespace) -> None:
    from . import distill_run

    distill_run.run(chosen)


def run_finetune(chosen: argparse.Namespace) -> None:
    from . import finetune_run

    finetune_run.run(chosen)


def main(arguments: list[str] | None = None) -> None:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # whatever names pictures have
    chosen = parser().parse_args(arguments)
    try:
        chosen.run(chosen)
    except (Exception, KeyboardInterrupt) as error:
        # Where the signal came amid torch's C++ code, torch has made another error of the KeyboardInterrupt.
        if interruption.raised or isinstance(error, KeyboardInterrupt):
            print("Interrupted. What is done is kept: the same command goes on.", file=sys.stderr)
            sys.exit(130)
        if isinstance(error, (ValueError, OSError)):
            sys.exit(str(error))
        raise


if __name__ == "__main__":
    interruption.interrupt_by_any_signal()
    main()
