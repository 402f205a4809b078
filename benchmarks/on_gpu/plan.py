"""How the kernel is cut into blocks, for launches without the C++ launcher: the twin of ``plugin/low_rank_plan.h``.

``tests/test_plugin.py`` holds both to the same answers.
"""

from __future__ import annotations

from dataclasses import dataclass

ALL_VECTORS, MAP_VECTORS, NUMBERS = 0, 1, 2
_TILE, _WARPS = 16, 8


@dataclass(frozen=True)
class Plan:
    """A launch: template arguments, grid (tiles, parts, samples), warps per block and bytes of shared memory."""

    rank_tiles: int
    token_tiles: int
    warps: int
    parts: int
    part_width: int
    tiles: int
    chunk_share: int
    block_share: int
    shared_bytes: int


def plan(
    samples: int, tokens: int, inputs: int, outputs: int, rank: int, *, vector: int, access: int, multiprocessors: int
) -> Plan:
    """The plan for a layer.

    Args:
        vector: numbers in 16 bytes, 8 for fp16 and 4 for fp32.
        access: ``ALL_VECTORS``, ``MAP_VECTORS`` or ``NUMBERS``.
        multiprocessors: of the device.
    """
    rank_tiles = 1 if rank <= 8 else 2 if rank <= 16 else 4 if rank <= 32 else 8
    enough = 2 * multiprocessors
    many = samples * _ceil(tokens, 2 * _TILE) >= enough
    token_tiles = 2 if access == ALL_VECTORS and rank_tiles <= 4 and many else 1
    tiles = _ceil(tokens, token_tiles * _TILE)
    chunks, blocks = _ceil(inputs, 4 * vector), _ceil(outputs, 4 * vector)
    parts = 1
    while samples * tiles * parts < enough and parts + 1 <= outputs // inputs:
        parts += 1
    part_width = _ceil(blocks, parts)
    warps = min(range(1, _WARPS + 1), key=lambda count: (_ceil(chunks, count) + _ceil(part_width, count), count))
    shared = warps * rank_tiles * token_tiles * _TILE * 8 * 4
    shares = _ceil(chunks, warps), _ceil(part_width, warps)
    return Plan(rank_tiles, token_tiles, warps, _ceil(blocks, part_width), part_width, tiles, *shares, shared)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
