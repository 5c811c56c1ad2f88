"""What the machine does to an update, said in one line: out of memory, a process that was lost or hangs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist

from roberta.errors import TrainingError

_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_OF_PROCESSES = ("gloo", "NCCL", "ProcessGroup", "Connection closed by peer", "Connection reset by peer")
_FEW = 8  # samples that a message names


@contextmanager
def explained(*, rank: int, world_size: int, update: int, sample_ids: Sequence[int]) -> Iterator[None]:
    """Compute an update in the block; `sample_ids` are those of this rank.

    Raises:
        TrainingError: the memory does not suffice, or another process was lost or did not answer in time.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        reason = text.splitlines()[0][:300] if text else type(error).__name__
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(sign in text for sign in _OF_MEMORY):
            names = ", ".join(map(str, sample_ids[:_FEW]))
            rest = f" and {len(sample_ids) - _FEW} more" if len(sample_ids) > _FEW else ""
            raise TrainingError(
                f"rank {rank} of {world_size}: out of memory at update {update}, on samples {names or 'none'}{rest} "
                f"({reason}): lower --batch-size or --max-tokens and raise --update-freq by as much, or give "
                "--checkpoint-activations or --precision bf16; then go on with --resume"
            ) from error
        if world_size > 1 and (isinstance(error, dist.DistError) or any(sign in text for sign in _OF_PROCESSES)):
            raise TrainingError(
                f"rank {rank} of {world_size}: another rank was lost or hangs at update {update} ({reason}); see its "
                "messages above, then start again with --resume"
            ) from error
        raise
