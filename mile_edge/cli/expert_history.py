"""`mile-edge experts history|rollback|promote|withdraw`: what was done to a bundle, and how to undo it."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

from rich.table import Table
from rich.text import Text

from mile_edge.bundle import Bundle, roll_back, withdraw_candidate
from mile_edge.bundle.candidate import ShadowPlan
from mile_edge.bundle.files import named
from mile_edge.bundle.history import states
from mile_edge.bundle.journal import Journal, Record, read_journal
from mile_edge.bundle.loading import manifest_text
from mile_edge.cli.options import belong_to
from mile_edge.cli.output import console, write_json

SHOWN = 8
_HEADINGS = ("when", "who", "what", "expert", "hash", "state", "roll back")
_WIDE = 110


def add_shadow(command: argparse.ArgumentParser) -> None:
    """`--shadow`, `--every` and what the expert must show meanwhile."""
    command.add_argument(
        "--shadow",
        type=int,
        metavar="FRAMES",
        help="compare it with the live choice on so many frames, then go live; "
        "in a running node or Segmenter, or by replay --shadow",
    )
    command.add_argument("--every", type=int, metavar="N", help="in shadow, on one frame in N (default 10)")
    command.add_argument(
        "--min-agreement", type=float, metavar="SHARE", help="in shadow, least share of equal pixels (default 0)"
    )
    command.add_argument(
        "--max-picked",
        type=float,
        metavar="SHARE",
        help="in shadow, largest share that the gate may give it (default 1)",
    )


def plan_of(args: argparse.Namespace) -> ShadowPlan | None:
    """The shadow run that was asked for, or None.

    Raises:
        RecipeError: a number is out of its range, or none was asked for and something of it was.
    """
    defaults = {"every": 10, "min_agreement": 0.0, "max_picked": 1.0}
    belong_to(args, args.shadow is not None, "--shadow", defaults)
    if args.shadow is None:
        return None
    return ShadowPlan(args.shadow, args.every, args.min_agreement, args.max_picked)


def add_rollback(command: argparse.ArgumentParser) -> None:
    """Arguments of `rollback`."""
    command.add_argument(
        "--to", metavar="STATE", help="first digits of a state in `experts history` (default: the one before)"
    )


def history(args: argparse.Namespace) -> int:
    """Show the journal."""
    folder = Path(args.bundle)
    present = hashlib.sha256(manifest_text(folder)).hexdigest()
    journal = read_journal(folder, present)
    kept = {state.sha256: None for state in reversed(states(folder)) if state.sha256 != present}
    if args.json:
        records = [{**asdict(record), "kept": record.after in kept} for record in journal.records]
        write_json(
            {"state": present, "records": records, "torn_lines": journal.torn, "broken_at": list(journal.broken)}
        )
        return 0
    table = Table(title=Text(f"{named(folder)}: state {present[:SHOWN]}"), title_justify="left")
    screen = console()
    # A narrow terminal would cut what `rollback --to` is given; the file's hash is in --json.
    headings = [heading for heading in _HEADINGS if heading != "hash" or screen.width >= _WIDE]
    for heading in headings:
        table.add_column(heading, no_wrap=heading in ("when", "hash", "state", "roll back"))
    for record in journal.records:
        cells = dict(zip(_HEADINGS, _cells(record, kept, present), strict=True))
        table.add_row(*(Text(cells[heading]) for heading in headings))
    screen.print(table)
    if kept:
        print(f"states to roll back to, newest first: {', '.join(state[:SHOWN] for state in kept)}")
    for sentence in _doubts(journal):
        print(sentence)
    return 0


def rollback(args: argparse.Namespace) -> int:
    """Go back to an earlier state."""
    from mile_edge.runtime.bank import servable

    manifest = roll_back(args.bundle, args.to, servable).manifest
    names = [entry.name for entry in manifest.experts]
    if args.json:
        write_json({"experts": names, "candidate": manifest.candidate and manifest.candidate.name})
    else:
        shadow = "" if manifest.candidate is None else f", and {manifest.candidate.name} in shadow"
        print(f"rolled back; experts are now {', '.join(names)}{shadow}")
    return 0


def promote(args: argparse.Namespace) -> int:
    """Put the expert in shadow live."""
    from mile_edge.runtime.bank import servable

    manifest = Bundle.open(args.bundle).promote(around=servable).manifest
    return _settled(args, [entry.name for entry in manifest.experts], "live")


def withdraw(args: argparse.Namespace) -> int:
    """Drop the expert in shadow."""
    manifest = withdraw_candidate(args.bundle)
    return _settled(args, [entry.name for entry in manifest.experts], "withdrawn")


def _settled(args: argparse.Namespace, names: list[str], done: str) -> int:
    if args.json:
        write_json({"done": done, "experts": names})
    else:
        print(f"the expert in shadow is {done}; experts are now {', '.join(names)}")
    return 0


def _cells(record: Record, kept: Collection[str], present: str) -> list[str]:
    change, who = record.change, record.who
    version = f" v{change.version}" if change.version else ""
    done = change.action if record.outcome == "done" else f"{change.action} ({record.outcome})"
    signer = f" signed by {change.signer}" if change.signer else ""
    back = "present" if record.after == present else f"--to {record.after[:SHOWN]}" if record.after in kept else "-"
    return [
        record.time[:19].replace("T", " "),
        f"{who.get('user')}@{who.get('host')} {who.get('program')}",
        done + signer,
        (change.expert or "-") + version,
        change.sha256[:SHOWN] or "-",
        record.after[:SHOWN],
        back if record.outcome == "done" else "-",
    ]


def _doubts(journal: Journal) -> list[str]:
    found = []
    if journal.torn:
        found.append(f"{journal.torn} lines of the journal are torn, as a power cut leaves them; the others are whole")
    if journal.broken:
        numbers = ", ".join(map(str, journal.broken[:8]))
        found.append(f"records {numbers} do not follow from the ones before; lines were altered or are missing")
    return found
