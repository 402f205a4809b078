"""`python tests/fuzz/guided.py TARGET [libFuzzer options]`: one parser, its inputs steered by which lines they reach.

Needs `atheris` (`pip install atheris`), which is no dependency: it installs on some platforms only. The first inputs
are those of `python tests/fuzz`; anything but a result or a `MileError` of one sentence ends the run, the input saved.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_SEEDS = 50


def main() -> None:
    """Fuzz one target until libFuzzer's options, or Ctrl-C, end it."""
    try:
        import atheris
    except ImportError:
        sys.exit("guided.py: atheris is missing; pip install atheris, or use python tests/fuzz")
    sys.path[1:1] = [str(_HERE.parent), str(_HERE.parents[1]), str(_HERE.parents[1] / "ros2_ws" / "src" / "mile_edge")]
    # What is imported here reports the branches that an input takes.
    with atheris.instrument_imports(include=["mile_edge"]):
        from fuzzing import targets
        from watch import Batch, dice_of

        from mile_edge.errors import MileError

    known = targets()
    if len(sys.argv) < 2 or sys.argv[1] not in known:
        sys.exit(f"usage: guided.py TARGET [-max_total_time=60 ...]; targets are {', '.join(known)}")
    target = known[sys.argv.pop(1)]
    with tempfile.TemporaryDirectory(prefix="mile-edge-guided-") as folder:
        corpus, place = Path(folder) / "corpus", Path(folder) / "place"
        corpus.mkdir()
        place.mkdir()
        for index in range(_SEEDS):
            (corpus / str(index)).write_bytes(target.make(dice_of(Batch(target.name, 0, 0, _SEEDS), index)))

        def feed(data: bytes) -> None:
            try:
                target.parse(data, place)
            except MileError as error:
                if len(str(error).splitlines()) != 1:
                    raise ValueError(f"not one sentence: {str(error)[:500]!r}") from error

        atheris.Setup([*sys.argv, str(corpus)], feed)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
