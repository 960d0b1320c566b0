"""What a program that XLA compiled for a TPU moves: to and from memory, and between devices.

Read from its text, whose instructions are %name = RESULTS KIND(OPERANDS), attributes.
"""

import re
from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_COLLECTIVE = re.compile(
    r"(all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?"
)
_BODY = re.compile(r"(?:body|true_computation|false_computation)=%?([\w.\-]+)")
_ARRAY = re.compile(  # type, sides, and the layout: order from the fastest, tile, and the rest
    r"\b(pred|bf16|[suf]\d+)\[([\d,]*)\](?:\{([\d,]*)(?::T\((\d+),(\d+)\))?(\S*?)\})?"
)
_BYTES = {"pred": 1, "bf16": 2}
# They name what another instruction has computed.
_NAMES = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional"}


class _Array(NamedTuple):
    size: int  # in bytes
    occupied: int  # in bytes, filled up to whole tiles
    stored: bool  # in the device's memory, and not in that on the chip


def collectives(text: str) -> dict[str, tuple[int, int]]:
    """Kind of collective -> (how many, bytes of their results); one in a loop counts once."""
    counts, sizes = Counter(), Counter()
    for line in text.splitlines():
        found = _INSTRUCTION.match(line)
        if found and (kind := _COLLECTIVE.fullmatch(found[3])):
            counts[kind[1]] += 1
            sizes[kind[1]] += sum(array.size for array in _arrays(found[2]))
    return {kind: (counts[kind], sizes[kind]) for kind in counts}


def traffic(text: str) -> int:
    """Bytes read from and written to a device's memory; those of a loop's body count once.

    XLA's own figure ("bytes accessed") counts what stays in the memory on the chip as well, and
    what is fetched into it twice: on a v5e it was many times this one.
    """
    return sum(map(_traffic, _run(text)))


def _run(text: str) -> Iterator[list[re.Match]]:
    """The instructions of each computation that is run by itself: the whole's, and loops'."""
    computations: dict[str, list[re.Match]] = {}
    roots: list[str] = []
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            inside = computations.setdefault(head[2], [])
            roots += [head[2]] if head[1] else []
        elif computations and (found := _INSTRUCTION.match(line)):
            inside.append(found)
    for name in roots:  # which grow by the loops that are found
        yield computations[name]
        for *_, kind, rest in map(re.Match.groups, computations[name]):
            if kind in ("while", "conditional"):
                roots += re.findall(
                    r"(?:body|true_computation|false_computation)=%?([\w.\-]+)", rest
                )


def _traffic(instructions: list[re.Match]) -> int:
    results, total = {}, 0
    for name, result, kind, rest in map(re.Match.groups, instructions):
        results[name] = given = _arrays(result)
        if kind in _NAMES or kind.endswith("-done"):
            continue
        operands = rest.partition(")")[0]
        taken = [a for o in re.findall(r"%([\w.\-]+)", operands) for a in results.get(o, ())]
        if kind in ("copy-start", "slice-start"):  # the source is among the results
            (target,) = given[:1] if kind == "copy-start" else given[len(taken) : len(taken) + 1]
            total += target.occupied * (target.stored + any(array.stored for array in taken))
        else:
            total += sum(array.occupied for array in (*taken, *given) if array.stored)
    return total


def _arrays(shapes: str) -> list[_Array]:
    """Of the text of a result: its arrays, several where it is a tuple."""
    arrays = []
    for kind, sides, order, rows, columns, space in _ARRAY.findall(shapes):
        each = _BYTES.get(kind) or int(kind[1:]) // 8
        shape = [int(n) for n in sides.split(",") if n]
        whole = list(shape)
        if rows:  # the last two dimensions, in the order in memory, lie in tiles
            for axis, tile in zip(order.split(","), (int(columns), int(rows)), strict=False):
                whole[int(axis)] = -(-whole[int(axis)] // tile) * tile
        on_chip = re.search(r"S\([1-9]\)", space)
        arrays.append(_Array(each * prod(shape), each * prod(whole), not on_chip))
    return arrays
