"""Checkpoint files that any number of ranks can load: flat pieces of tensors, in safetensors.

    student_zero2_0_of_4.safetensors     rank 0's:  weight/video.cls_token@0/24  exp_avg/video.cls_token@0/24 ...

A key says which tensor a piece is cut from, at which of its elements, laid flat, and how many elements the whole has.
To load, a rank says which pieces it holds now, and whatever overlaps them is copied into them, whoever wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file

_NAME = re.compile(r"(student|teacher)_zero(\d)_(\d+)_of_(\d+)\.safetensors")


class ShardFile(NamedTuple):
    """Which part of which module a file holds. Stage and number of ranks say how it was cut."""

    module: str  # student or teacher
    stage: int
    rank: int
    world_size: int

    @property
    def name(self) -> str:
        return f"{self.module}_zero{self.stage}_{self.rank}_of_{self.world_size}.safetensors"


def parse_name(name: str) -> ShardFile | None:
    """None for a file that is no shard."""
    match = _NAME.fullmatch(name)
    return ShardFile(match[1], *map(int, match.groups()[1:])) if match else None


class Piece(NamedTuple):
    """A stretch of one tensor, laid flat."""

    tensor: str  # what it is and whose, such as exp_avg/video.cls_token
    offset: int  # of the first value in the whole tensor
    values: torch.Tensor  # [length]; a view of the state itself, loading writes into it

    def share(self, rank: int, world_size: int) -> Piece:
        """The part that a rank writes of what all ranks hold alike."""
        first, last = (len(self.values) * number // world_size for number in (rank, rank + 1))
        return Piece(self.tensor, self.offset + first, self.values[first:last])


class ShardContent(NamedTuple):
    """All that goes into one shard file."""

    name: str
    pieces: Sequence[Piece]
    totals: dict[str, int]
    notes: dict[str, str]

    def write(self, directory: Path) -> None:
        """Errors: see `write_pieces`."""
        write_pieces(directory / self.name, self.pieces, self.totals, self.notes)


def write_pieces(path: Path, pieces: Iterable[Piece], totals: Mapping[str, int], notes: dict[str, str]) -> None:
    """Write one shard file.

    Args:
        totals: elements of each whole tensor.
        notes: short texts that `read_pieces` returns.
    Errors:
        OSError, SafetensorError: the file cannot be written.
    """
    content = {f"{tensor}@{offset}/{totals[tensor]}": values for tensor, offset, values in pieces if len(values)}
    save_file(content, path, metadata=notes)


def read_pieces(paths: Sequence[Path], pieces: Iterable[Piece], totals: Mapping[str, int]) -> dict[str, str]:
    """Fill the pieces from files that were verified; returns their notes. Memory holds one overlap at a time.

    Args:
        totals: every tensor that the files may speak of, with its number of elements.
    Errors:
        OSError, SafetensorError: a file cannot be read.
        RuntimeError: the files hold other tensors, do not cover a piece, or disagree in their notes.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(path, "pt")) for path in paths]
        index = _index(files, totals)
        for piece in pieces:
            _fill(piece, index.get(piece.tensor, []))
        notes = [file.metadata() or {} for file in files]
    if any(other != notes[0] for other in notes):
        raise RuntimeError(f"shards disagree: {notes}")
    return dict(notes[0])


class _Stored(NamedTuple):
    offset: int
    length: int
    values: Any  # safetensors' lazy slice: elements are read when it is indexed


def _index(files: Iterable[Any], totals: Mapping[str, int]) -> dict[str, list[_Stored]]:
    """Stored pieces of every tensor, in the order of their offsets."""
    index: dict[str, list[_Stored]] = {}
    for file in files:
        for key in file.offset_keys():
            tensor, _, place = key.rpartition("@")
            offset, total = map(int, place.split("/"))
            if totals.get(tensor) != total:
                raise RuntimeError(f"{tensor} has {total} elements in the checkpoint and {totals.get(tensor)} here")
            values = file.get_slice(key)
            index.setdefault(tensor, []).append(_Stored(offset, values.get_shape()[0], values))
    return {tensor: sorted(stored, key=lambda one: one.offset) for tensor, stored in index.items()}


def _fill(piece: Piece, stored: Iterable[_Stored]) -> None:
    done, end = piece.offset, piece.offset + len(piece.values)
    for offset, length, values in stored:
        last = min(end, offset + length)
        if offset <= done < last:
            piece.values[done - piece.offset : last - piece.offset].copy_(values[done - offset : last - offset])
            done = last
    if done < end:
        raise RuntimeError(f"{piece.tensor}: elements {done} to {end} are in none of the checkpoint's files")
