"""What the machine does to an update, said in one line: out of memory, a process that was lost or hangs."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from roberta.errors import LostProcessError, TrainingError, listed

_OF_MEMORY = (
    "DefaultCPUAllocator",
    "out of memory",
    "not enough memory",
    "allocate memory",
    "STATUS_ALLOC_FAILED",  # of cuBLAS and cuDNN
    "std::bad_alloc",
)
_OF_PROCESSES = ("gloo", "NCCL", "ProcessGroup", "Connection closed by peer", "Connection reset by peer")


@contextmanager
def explained(*, rank: int, world_size: int, update: int, sample_ids: Sequence[int]) -> Iterator[None]:
    """Compute an update in the block; `sample_ids` are those of this rank.

    Raises:
        TrainingError: the memory does not suffice.
        LostProcessError: another process was lost, or did not answer in time.
    """
    try:
        yield
    except LostProcessError as error:
        cause = error.__cause__ or error
        raise lost_process(rank, world_size, cause, update=update) from cause
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            sharded = " or --parallelism fsdp" if world_size > 1 else ""
            raise TrainingError(
                f"rank {rank} of {world_size}: out of memory at update {update}, on samples {listed(sample_ids)} "
                f"({reason_of(error)}): give --checkpoint-activations{sharded} and go on with --resume; or begin anew "
                "in another --save-dir, with --init-from the newest checkpoint (roberta-finetune: --init), and lower "
                "--batch-size or --max-tokens and raise --update-freq by as much, or give --precision bf16"
            ) from error
        if world_size > 1 and _is_of_processes(error):
            raise lost_process(rank, world_size, error, update=update) from error
        raise


def lost_process(rank: int, world_size: int, cause: BaseException, *, update: int | None = None) -> LostProcessError:
    """Return the error for a rank that finds another one gone, or waited for it in vain."""
    place = "" if update is None else f" at update {update}"
    return LostProcessError(
        f"rank {rank} of {world_size}: another rank was lost or hangs{place} ({reason_of(cause)}); see its messages "
        "above, then start again with --resume; one that is only slow needs a longer --timeout-minutes"
    )


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


def _is_of_processes(error: BaseException) -> bool:
    import torch.distributed as dist  # a second that the command line can do without

    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in _OF_PROCESSES)
