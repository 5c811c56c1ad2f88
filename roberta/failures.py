"""What a failure of the machine says, in one line, and what to do where memory does not suffice."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from roberta.errors import TrainingError, listed

_OF_MEMORY = (
    "DefaultCPUAllocator",
    "out of memory",
    "not enough memory",
    "allocate memory",
    "STATUS_ALLOC_FAILED",  # of cuBLAS and cuDNN
    "std::bad_alloc",
)


@contextmanager
def explained_memory(*, rank: int, world_size: int, update: int, sample_ids: Sequence[int]) -> Iterator[None]:
    """Compute an update in the block; `sample_ids` are those of this rank.

    Raises:
        TrainingError: the memory does not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sharded = " or --parallelism fsdp" if world_size > 1 else ""
        raise TrainingError(
            f"rank {rank} of {world_size}: out of memory at update {update}, on samples {listed(sample_ids)} "
            f"({reason_of(error)}): give --checkpoint-activations{sharded} and go on with --resume; or begin anew "
            "in another --save-dir, with --init-from the newest checkpoint (roberta-finetune: --init), and lower "
            "--batch-size or --max-tokens and raise --update-freq by as much, or give --precision bf16"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of the machine or of a device does not suffice.

    It knows torch's by what they say, so that a command that has not imported torch can ask.
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _OF_MEMORY)


def reason_of(error: BaseException) -> str:
    """Return the first line of what an error says, or its name."""
    text = str(error)
    return text.splitlines()[0][:300] if text else type(error).__name__
