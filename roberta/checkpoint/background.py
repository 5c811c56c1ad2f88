"""Writing in a thread beside the training: one piece of work at a time, and no error is lost."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from torch import Tensor

logger = logging.getLogger(__name__)


class BackgroundWriter:
    """Do pieces of work one after another in a thread; the end of the block waits for the last one.

    What was given is done only when `wait` has returned: nothing may be called saved before.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._pending: Future[None] | None = None

    def submit(self, work: Callable[[], None]) -> None:
        """Begin a piece of work once the one before is done.

        Raises:
            RobertaError: what the one before raised.
        """
        self.wait()
        self._pending = self._thread.submit(work)

    def check(self) -> None:
        """Raise what the last piece of work raised, if it has ended; this waits for nothing."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Return when all work is done.

        Raises:
            RobertaError: what the last piece of work raised; once.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)
        if error is None:
            self.wait()
        elif self._pending is not None and (other := self._pending.exception()) is not None:
            logger.error("writing in the background failed too: %s", other)


def snapshot(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies in host memory, which stay as they are while training goes on; this waits for the device."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
