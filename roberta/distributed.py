"""Many processes as one: what torchrun starts, on CPU (gloo) or CUDA (nccl), one node or many.

A process is one rank of a world; without torchrun the world has one. Parallelism is applied to a finished model, here
and nowhere else. With fully sharded models (FSDP2) a parameter is a DTensor; `whole` and `sharded_like` translate.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from roberta.errors import ConfigError, LostProcessError, TrainingError
from roberta.failures import reason_of

Parallelism = Literal["ddp", "fsdp"]
ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_OF_PROCESSES = ("gloo/transport/", "NCCL", "ProcessGroup", "Connection closed by peer", "Connection reset by peer")


@dataclass(frozen=True)
class World:
    """The processes that train together, seen from one of them."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """This process writes the files and talks to the user."""
        return self.rank == 0

    def total(self, values: list[float]) -> list[float]:
        """Return the sums of numbers over all ranks, in float64.

        Raises:
            LostProcessError: a rank was lost, or did not answer within the time-out.
        """
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)  # on the host: the device need not stop for it
        self._together(lambda: dist.all_reduce(tensor))
        return list(tensor.tolist())

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all ranks, in their order; they are pickled on the way between our own processes.

        Raises:
            LostProcessError: a rank was lost, or did not answer within the time-out.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        self._together(lambda: dist.all_gather_object(values, value))
        return values

    def agrees(self, value: float) -> bool:
        """Return whether all ranks come with the same number.

        Raises:
            LostProcessError: a rank was lost, or did not answer within the time-out.
        """
        total, squares = self.total([value, value * value])
        return total == value * self.size and squares == value * value * self.size

    def wait(self) -> None:
        """Return when all ranks have come here.

        Raises:
            LostProcessError: a rank was lost, or did not answer within the time-out.
        """
        if self.size > 1:
            self._together(dist.barrier)

    @contextmanager
    def watched(self, num_updates: Callable[[], int]) -> Iterator[None]:
        """Train, validate and save in the block; should another rank be lost, say after which update.

        Raises:
            LostProcessError: a rank was lost, or did not answer within the time-out.
        """
        try:
            yield
        except LostProcessError as error:
            cause = error.__cause__ or error
            raise self._lost(cause, f" after update {num_updates()}") from cause
        except RuntimeError as error:
            if self.size == 1 or not _is_of_processes(error):
                raise
            raise self._lost(error, f" after update {num_updates()}") from error

    def _together(self, operation: Callable[[], object]) -> None:
        try:
            operation()
        except RuntimeError as error:
            raise self._lost(error) from error

    def _lost(self, cause: BaseException, place: str = "") -> LostProcessError:
        return LostProcessError(
            f"rank {self.rank} of {self.size}: another rank was lost or hangs{place} ({reason_of(cause)}); see its "
            "messages above, then start again with --resume; one that is only slow needs a longer --timeout-minutes"
        )


SINGLE = World(0, 1, torch.device("cpu"))


def join_world(device: torch.device, timeout_minutes: float) -> World:
    """Return this process's place among those that torchrun started; a world of one where it did not.

    Raises:
        ConfigError: there are fewer CUDA devices on this machine than processes, or the environment is not torchrun's.
        TrainingError: the other ranks can't be reached.
    """
    if "RANK" not in os.environ:
        return dataclasses.replace(SINGLE, device=device)
    missing = [name for name in ENVIRONMENT if name not in os.environ]
    if missing:
        raise ConfigError(f"RANK is set, but {', '.join(missing)} is not: start the processes with torchrun")
    rank, size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if device.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local_rank} of this machine has no CUDA device of its own; there are "
                f"{torch.cuda.device_count()}: start torchrun with that --nproc-per-node, or train with --device cpu"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        timeout = timedelta(minutes=timeout_minutes)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            store = _store(rank, size, timeout)
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        except dist.DistError as error:
            raise TrainingError(
                f"rank {rank} of {size} can't reach the others through {os.environ['MASTER_ADDR']}:"
                f"{os.environ['MASTER_PORT']}: {str(error).splitlines()[0]}; check the address and the network"
            ) from error
    return World(rank, size, device)


def is_first_process() -> bool:
    """Return whether this process is the first of those that torchrun started, or was started without it."""
    return os.environ.get("RANK", "0") == "0"


def leave_world() -> None:
    """End the connection with the other ranks, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _is_of_processes(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in _OF_PROCESSES)


def _store(rank: int, size: int, timeout: timedelta) -> dist.Store:
    """Return the store of this attempt.

    torchrun keeps one store over its restarts; without a prefix a restarted rank reads the address of a dead peer.
    """
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    is_server = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = dist.TCPStore(host, port, size, is_server, timeout)
    return dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def parallelise(
    model: nn.Module,
    encoder: Any,
    world: World,
    parallelism: Parallelism,
    *,
    checkpoint_activations: bool = False,
    compiled: bool = False,
) -> nn.Module:
    """Return what to call in the place of a finished model on its device, so that gradients are means over ranks.

    With `ddp` every rank holds the model; with `fsdp` parameters, gradients and optimizer state are sharded, layer by
    layer. A world of one needs neither. `encoder` is the part of the model whose `layers` are checkpointed (computed
    twice to save memory) and `compiled`, as are losses that heads compute themselves.

    Raises:
        ConfigError: layers are to be sharded and dropped.
    """
    encoder.checkpoint_activations = checkpoint_activations
    if compiled:
        for layer in encoder.layers:
            layer.combine = torch.compile(layer.combine, dynamic=True)  # attention stays outside: its shapes vary
        for module in model.modules():
            part: Any = module
            if hasattr(module, "is_compiled"):
                part.is_compiled = True
    if world.size == 1:
        return model
    if parallelism == "fsdp" and encoder.layerdrop:
        raise ConfigError("--encoder-layerdrop and --parallelism fsdp exclude each other: all ranks gather each layer")
    if parallelism == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(world.device.type, (world.size,))
        for layer in encoder.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model
    devices = [world.device.index] if world.device.type == "cuda" else None
    return DistributedDataParallel(
        model, device_ids=devices, gradient_as_bucket_view=True, find_unused_parameters=encoder.layerdrop > 0.0
    )


def drops_layers_together(model: nn.Module) -> bool:
    """Return whether the ranks exchange gradients of a model that leaves layers out of its passes."""
    return isinstance(model, DistributedDataParallel) and bool(model.find_unused_parameters)


def synchronise_gradients(model: nn.Module, *, enabled: bool) -> None:
    """Say whether the next backward pass exchanges gradients; only the last one of an update needs to."""
    module: Any = model
    if isinstance(model, DistributedDataParallel):
        module.require_backward_grad_sync = enabled
    elif hasattr(model, "set_requires_gradient_sync"):
        module.set_requires_gradient_sync(enabled)


def forget_gathered(model: nn.Module) -> None:
    """Free what a sharded model has gathered of its parameters, so that the next pass sees a change of its shards."""
    for module in model.modules():
        sharded: Any = module
        if hasattr(module, "reshard"):
            sharded.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with all its parts; every rank must ask for it."""
    return tensor.full_tensor().clone() if hasattr(tensor, "full_tensor") else tensor  # the copy waits for the parts


def sharded_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return a whole tensor in the form and on the device of a parameter."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    tensor = tensor.to(parameter.device)
    if isinstance(parameter, DTensor) and tensor.shape == parameter.shape:
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
    return tensor
