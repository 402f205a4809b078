"""Entry point: one module per command, imported when it is called, so that robot-side commands never need torch."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from mile_edge.errors import MileError, RecipeError

_COMMANDS = {
    "demo": "replay a freshly made multi-sensor bag through the reference bundle",
    "world": "render the procedural street as folders or bags",
    "train": "train a base, or an expert for a bundle",
    "calibrate": "from held-out frames: a bundle's novelty thresholds and hysteresis, or its int8 form",
    "export": "make a bundle from a trained base and a recipe",
    "build": "build a bundle's TensorRT engine",
    "experts": "list, add, remove, sign, verify and roll back the experts of a bundle",
    "peft": "experts from and for the PEFT library",
    "replay": "run a bag through a bundle and report what came out",
    "evaluate": "score a bundle or a base on labelled folders",
    "bench": "time the gated pass against the frozen base",
    "study": "compare methods on the same streams of tasks",
    "inspect": "show what a bundle or an expert file holds",
}
_WORKSHOP = {"torch", "transformers", "onnx", "onnxscript", "peft"}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with an argument in one sentence, as everything else is said, without the list of options."""

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments.

        Raises:
            RecipeError: always.
        """
        for term, said in (("invalid int value:", "no whole number:"), ("invalid float value:", "no number:")):
            message = message.replace(term, said)
        raise RecipeError(f"{message.removeprefix('argument ')}; {self.prog} --help shows what it takes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 done, 1 found something wrong, 2 bad input, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _keep_writing()
        _check_given(arguments)
        # Inside: importing a command takes seconds on a small machine, and Ctrl-C may come then, too.
        args = _parser(arguments).parse_args(arguments)
        return int(args.run(args) or 0)
    except MileError as error:
        print(f"mile-edge: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _WORKSHOP:
            raise
        print(
            f"mile-edge: this command needs {error.name}; run `make workshop`, or pip install '.[train]' in the clone",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print("mile-edge: interrupted; nothing half-written was left behind", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone, as `| head` does; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        # Whatever a disk may refuse, anywhere: a person needs the file and the reason, not the place in our code.
        about = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or str(error)
        print(f"mile-edge: {about}{reason}; check the path, its permissions and the disk", file=sys.stderr)
        return 2


def _keep_writing() -> None:
    """Write a letter that the output's encoding lacks, as in a name or a chart, by its number."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _check_given(arguments: Sequence[str]) -> None:
    """Refuse an empty argument: as a path it would be the folder one stands in, as a hash or a name none at all.

    Raises:
        RecipeError: one is empty, as a variable of the shell that nobody has set.
    """
    for place, argument in enumerate(arguments):
        if argument and not (argument.startswith("--") and argument.endswith("=")):
            continue
        before = arguments[place - 1] if place else ""
        what = argument[:-1] or (before if before.startswith("--") else f"argument {place + 1}")
        raise RecipeError(f"{what} is empty; give it a value or leave it out (is a variable of the shell not set?)")


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mile-edge",
        description="One small frozen segmentation network, and a tiny expert slipped in for each situation.",
        epilog="Start with: mile-edge demo\nEvery command answers --help with examples.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, summary in _COMMANDS.items():
        if name == wanted:
            importlib.import_module(f"mile_edge.cli.{name}").add_parser(commands)
        else:
            commands.add_parser(name, help=summary)
    return parser


def _version() -> str:
    from mile_edge import __version__

    return f"mile-edge {__version__}"


if __name__ == "__main__":
    sys.exit(main())
