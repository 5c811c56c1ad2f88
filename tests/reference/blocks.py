"""Blocks made one sentence at a time: slow, and plain enough to be read as the definition."""

from collections.abc import Sequence


def slow_blocks(sizes: Sequence[int], mode: str, block_size: int) -> list[tuple[int, int]]:
    """Return the (start, end) of every block of a stream of sentences."""
    ranges = [(0, sum(sizes))] if mode == "none" else _whole_sentences(sizes, mode, block_size)
    result = []
    for start, end in ranges:
        while start < end:
            result.append((start, min(start + block_size, end)))
            start += block_size
    return result


def _whole_sentences(sizes: Sequence[int], mode: str, block_size: int) -> list[tuple[int, int]]:
    ranges = []
    start = end = 0
    for size in sizes:
        ends_document = mode == "complete_doc" and size <= 1
        if ends_document or mode == "eos" or end - start + size > block_size:
            ranges.append((start, end))
            start = end
        end += size
        if ends_document:
            start = end
    ranges.append((start, end))
    return ranges
