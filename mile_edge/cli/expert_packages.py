"""`mile-edge experts keygen|pack|sign`, and `verify` of one file: experts for a fleet that says whose it takes."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path
from typing import Any

from mile_edge.bundle import Bundle, Expert, Trust, read_expert, write_expert
from mile_edge.bundle.expert import MAX_BYTES
from mile_edge.bundle.files import named, read_regular
from mile_edge.bundle.signing import (
    PRIVATE,
    PUBLIC,
    PassphraseError,
    make_key,
    pack_expert,
    read_private_key,
    sign_expert,
)
from mile_edge.bundle.trust import POLICIES
from mile_edge.cli.output import write_json
from mile_edge.errors import ExpertError, RecipeError


def add_keygen(command: argparse.ArgumentParser) -> None:
    """Arguments of `keygen`."""
    command.add_argument("name", metavar="PUBLISHER", help="who signs, for example workshop")
    command.add_argument("--out", default=".", metavar="FOLDER", help="where the two files go (default: here)")
    command.add_argument("--passphrase", action="store_true", help="ask for a passphrase that encrypts the secret key")


def add_pack(command: argparse.ArgumentParser) -> None:
    """Arguments of `pack`."""
    command.add_argument("file", metavar="FILE", help="an expert file (.safetensors)")
    command.add_argument(
        "--version", type=int, required=True, metavar="N", help="counts up with each release of a name"
    )
    command.add_argument("--out", required=True, metavar="PACKAGE", help="the package to write (.safetensors)")


def add_sign(command: argparse.ArgumentParser) -> None:
    """Arguments of `sign`."""
    command.add_argument("file", metavar="PACKAGE", help="a package of experts pack, or with --version an expert file")
    command.add_argument("--key", required=True, metavar="FILE", help="the publisher's secret key (.key)")
    command.add_argument("--version", type=int, metavar="N", help="pack it first, as this version")
    command.add_argument("--out", metavar="PACKAGE", help="write another file and leave PACKAGE as it is")


def add_trust(command: argparse.ArgumentParser) -> None:
    """`--policy` and `--keys`, for whatever takes expert files."""
    command.add_argument(
        "--policy", choices=POLICIES, help="what an expert file must show (default: signed with --keys, else open)"
    )
    command.add_argument("--keys", metavar="FOLDER", help="folder of trusted publishers (NAME.pub, revoked)")


def trust_of(args: argparse.Namespace) -> Trust:
    """The policy that was asked for.

    Raises:
        RecipeError: it is signed and no folder was named.
    """
    policy = args.policy or ("signed" if args.keys else "open")
    if policy == "signed" and not args.keys:
        raise RecipeError("--policy signed needs the folder of trusted publishers; name it with --keys")
    return Trust(policy, Path(args.keys) if args.keys else None)


def keygen(args: argparse.Namespace) -> int:
    """Make a key pair."""
    passphrase = None
    if args.passphrase:
        passphrase = _ask("Passphrase: ")
        if not passphrase or _ask("The same again: ") != passphrase:
            raise ExpertError("the two passphrases differ or are empty; no key was made, try again")
    key = make_key(args.out, args.name, passphrase)
    files = {kind: str(Path(args.out) / (args.name + end)) for kind, end in (("secret", PRIVATE), ("public", PUBLIC))}
    if args.json:
        write_json({"publisher": args.name, "key": key, **files})
    else:
        print(f"{files['secret']}: secret, keep it off robots\n{files['public']}: for every robot's folder of keys")
        print(f"key {key}")
    return 0


def pack(args: argparse.Namespace) -> int:
    """Make a package of an expert file."""
    expert = pack_expert(read_expert(args.file), args.version)
    write_expert(args.out, expert)
    return _said(args, expert, args.out, "packed")


def sign(args: argparse.Namespace) -> int:
    """Sign a package, in place unless told otherwise."""
    expert = read_expert(args.file)
    if args.version is not None:
        expert = pack_expert(expert, args.version)
    if expert.package is None:
        raise ExpertError(f"{named(args.file)} is a plain expert without a version; give it one with --version N")
    try:
        key = read_private_key(args.key)
    except PassphraseError:
        key = read_private_key(args.key, _ask(f"Passphrase of {named(args.key)}: "))
    expert = sign_expert(expert, key)
    out = args.out or args.file
    write_expert(out, expert)
    return _said(args, expert, out, "signed")


def verify_file(args: argparse.Namespace) -> int:
    """Say what one expert file is and whether it would be taken; 1 where it would not."""
    trust, where = trust_of(args), f"expert file {named(args.bundle)}"
    data = read_regular(args.bundle, MAX_BYTES, where, ExpertError)
    problems, facts = [], {}
    try:
        admitted = trust.check(data, where)
        facts = {**package_facts(admitted.expert), "sha256": admitted.sha256, "signer": admitted.signer}
    except ExpertError as error:
        problems.append(str(error))
    if args.json:
        write_json({"file": str(args.bundle), "policy": trust.policy, "problems": problems, **facts})
    elif problems:
        print("\n".join(problems))
    else:
        signer = f"signed by {facts['signer']}" if facts["signer"] else f"taken under policy {trust.policy}"
        print(f"{named(args.bundle)}: {facts['name']}, version {facts['version'] or 'none'}, {signer}")
    return 1 if problems else 0


def bundle_signatures(folder: str, trust: Trust) -> list[str]:
    """One sentence for each expert of a bundle, but its base, that no trusted publisher signed."""
    bundle, problems = Bundle.open(folder), []
    for entry in bundle.manifest.experts[1:]:
        where = f"bundle file {named(bundle.path / entry.file)}"
        try:
            trust.signer(read_regular(bundle.path / entry.file, MAX_BYTES, where, ExpertError), where)
        except ExpertError as error:
            problems.append(str(error))
    return problems


def package_facts(expert: Expert) -> dict[str, Any]:
    """Version, date and key of an expert, as JSON values; version 0 for a plain one."""
    package = expert.package
    if package is None:
        return {"name": expert.name, "version": 0, "created": "", "key": ""}
    return {"name": expert.name, "version": package.version, "created": package.created, "key": package.key}


def _said(args: argparse.Namespace, expert: Expert, out: str, done: str) -> int:
    facts = package_facts(expert)
    if args.json:
        write_json({"file": str(out), **facts})
    else:
        print(f"{done} {expert.name} version {facts['version']}: {named(out)}")
    return 0


def _ask(prompt: str) -> bytes:
    if not sys.stdin.isatty():
        raise ExpertError("a passphrase is needed and nobody is there to type it; run it in a terminal")
    return getpass.getpass(prompt).encode()
