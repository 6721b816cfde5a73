"""What passes between ranks. Alone, a process comes through every function here untouched.

Each rank takes its rows of every global batch, and after an update all ranks hold the same state, to the bit. So
a checkpoint knows nothing of ranks, rank 0 alone writes, and all come to the same decisions at the same time.
"""

import atexit
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from inspect import signature
from ipaddress import ip_address
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from mobilenet_train import foreach
from mobilenet_train.errors import RunError
from mobilenet_train.machine import follow_parent
from mobilenet_train.ranks import Ranks, let_the_first_report, ranks_from_environment

T = TypeVar("T")
PORT_KEY = "mnet-train/port"
TORCHRUN = "TORCHELASTIC_RUN_ID"  # torchrun sets it in its ranks, which end with it; other parents may leave first
SECONDS_TO_MEET = 300  # torch's own patience
SHORT = timedelta(seconds=3)  # for a port where perhaps nobody listens any more
DDP_TAKES = signature(DistributedDataParallel.__init__).parameters
BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in DDP_TAKES else "broadcast_buffers"  # torch's old name


def join() -> Ranks:
    """Meets the other ranks, if there are any, and returns this one's place. Later calls find them there.

    Raises RunError if they cannot be reached.
    """
    ranks = ranks_from_environment()
    if ranks.size == 1 or dist.is_initialized():
        return ranks
    if TORCHRUN in os.environ:
        follow_parent(os.getppid())
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        shared = next(dist.rendezvous("env://"))[0]
        store = _own_store(shared, ranks)
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.size)
    except (RuntimeError, ValueError) as error:
        raise RunError(f"the {ranks.size} ranks cannot meet ({_reason(error)}); start them with torchrun") from error
    atexit.register(dist.destroy_process_group)

    def first_to_fail() -> bool:
        try:
            return shared.add(f"mnet-train/failures/{store.port}", 1) == 1
        except RuntimeError:  # the store is gone: rank 0 held it, as no torchrun did, and was killed
            return True

    let_the_first_report(first_to_fail)
    return ranks


def _own_store(shared: dist.Store, ranks: Ranks) -> dist.TCPStore:
    """A store for this start of the group alone, held by rank 0, whose port is published through `shared`.

    torchrun keeps its store over restarts, and in it where the killed ranks were: new ones would call them.
    """
    host = os.environ["MASTER_ADDR"]
    if ranks.leads:
        store = _listening(host, ranks)
        shared.set(PORT_KEY, str(store.port))
        return store
    deadline = time.monotonic() + SECONDS_TO_MEET
    while True:
        port = int(shared.get(PORT_KEY))  # perhaps that of the start before, until rank 0 is there
        try:
            store = dist.TCPStore(host, port, timeout=SHORT, wait_for_workers=False)
        except dist.DistError:
            if time.monotonic() > deadline:
                raise
            continue
        store.set_timeout(timedelta(seconds=SECONDS_TO_MEET))
        return store


def _listening(host: str, ranks: Ranks) -> dist.TCPStore:
    """A store that listens at the address that the other ranks call `host` alone.

    It listens at all of this machine's addresses where that one is not known: a name may mean the loopback here and
    something else to other machines, and a container's may be its host's.
    """
    try:
        family, _, _, _, (address, *_) = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        if ranks.size > ranks.local_size and ip_address(address).is_loopback:
            raise OSError("other machines cannot call that")
        with socket.create_server((address, 0), family=family) as server:
            port, descriptor = server.getsockname()[1], server.detach()  # the store closes it
    except OSError:
        return dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)
    fixed: dict[str, Any] = {"wait_for_workers": False, "master_listen_fd": descriptor}
    return dist.TCPStore(host, port, is_master=True, use_libuv=False, **fixed)  # libuv took no socket before torch 2.7


@contextmanager
def contact(ranks: Ranks) -> Iterator[None]:
    """Turns the loss of another rank into a RunError with advice."""
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, dist.DistError) or "gloo" in str(error)
        if ranks.size == 1 or not lost:
            raise
        raise RunError(
            f"another rank was killed, or its machine can no longer be reached ({_reason(error)}). With run_dir=DIR "
            "the same command resumes from the last checkpoint; torchrun --max-restarts=N repeats it by itself"
        ) from error


def _reason(error: Exception) -> str:
    """The part of a gloo, NCCL or store error that means something to people."""
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return first_line.rpartition("] ")[2].partition(". ")[0]


def agreed(ranks: Ranks, *numbers: int) -> list[int]:
    """The largest of each number that any rank gives, on every rank. They wait for each other, but not for a GPU."""
    if ranks.size == 1:
        return list(numbers)
    values = torch.tensor(numbers)
    dist.all_reduce(values, dist.ReduceOp.MAX)
    return values.tolist()


def from_first(ranks: Ranks, function: Callable[[], T]) -> T:
    """What `function` returns on rank 0, on every rank: plain values, and tensors on the CPU."""
    if ranks.size == 1:
        return function()
    box: list[Any] = [function() if ranks.leads else None]
    dist.broadcast_object_list(box)
    return box[0]


def local_first(ranks: Ranks, function: Callable[[], T]) -> T:
    """`function()` on every rank, on each machine by its first rank before the others: for downloads and caches."""
    if ranks.local_rank > 0:
        agreed(ranks, 0)
    result = function()
    if ranks.local_rank == 0:
        agreed(ranks, 0)
    return result


def summed(ranks: Ranks, values: Tensor) -> Tensor:
    """The sum of `values` over all ranks, on every rank."""
    if ranks.size > 1:
        dist.all_reduce(values)
    return values


def replicate(model: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module | None:
    """What training calls in place of `model` where there are several ranks; its gradients are means over them."""
    if ranks.size == 1:
        return None
    warnings.filterwarnings("ignore", "Grad strides do not match")  # of squeeze-and-excite's few 1x1 weights
    devices = [device] if device.type == "cuda" else None
    settings: dict[str, Any] = {BUFFERS: False, "gradient_as_bucket_view": True}
    return DistributedDataParallel(model, device_ids=devices, **settings)


def exchange(network: nn.Module, now: bool) -> AbstractContextManager[None]:
    """Forward and backward passes inside exchange gradients if `now`, else they add up what is exchanged later."""
    return nullcontext() if now or not isinstance(network, DistributedDataParallel) else network.no_sync()


def share_update(ranks: Ranks, measured: Tensor, model: nn.Module, share: float) -> Tensor:
    """What only ranks need after an update, in one exchange: the sum of `measured` (n,) over them is returned.

    Batch-norm's running statistics become the mean over ranks, weighted by each one's `share` of the images. As an
    average of averages it comes out the same however often it is taken, once an epoch or after every update.
    """
    if ranks.size == 1:
        return measured
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and not isinstance(m, nn.SyncBatchNorm)]
    statistics = [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]
    own = share * torch.cat([measured.new_empty(0), *statistics])  # in measured's type, which is wider
    sums, *means = summed(ranks, torch.cat([measured, own])).split([len(measured), *map(len, statistics)])
    if means:  # a network of one's own may have none
        foreach.copy_(statistics, means)
    return sums


class SharedDropout(nn.Dropout):
    """(b, ...) -> the same shape: this rank's rows of what dropout does to the global batch."""

    def __init__(self, p: float, ranks: Ranks, batch_size: int) -> None:
        super().__init__(p)
        self.batch_size, self.rows = batch_size, ranks.rows(batch_size)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        mask = F.dropout(x.new_ones(self.batch_size, *x.shape[1:]), self.p)
        return x * mask[self.rows]


def share_dropout(module: nn.Module, ranks: Ranks, batch_size: int) -> None:
    """Lets every nn.Dropout in `module` draw its mask for the global batch, so that their number does not change it."""
    if ranks.size == 1:
        return
    for name, child in module.named_children():
        if type(child) is nn.Dropout:
            setattr(module, name, SharedDropout(child.p, ranks, batch_size))
        share_dropout(child, ranks, batch_size)
