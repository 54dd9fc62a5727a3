"""The followers of a parallel group on several devices, one process for each.

All processes run the same program on the same inputs: each of them computes every key step and keeps its features, and
of the followers only its share. What travels are the followers' guided predictions, one latent each (Hallo: 1 MB).
The other way, key steps on one device only, would send the features of every key step (Hallo: 84 MB for LightningCP,
430 MB for Faster Diffusion) to devices that had nothing better to do meanwhile.

Everything that processes say to each other passes a *round*: each gives a note, empty if all is well, and each reads
all notes. A process that fails gives its note in the round that the others reach next, whichever that is; then all
leave what they were doing, and nobody waits for somebody who will not come. Rounds pass through host memory (gloo),
also where tensors travel between GPUs (nccl), so that they wait for no device. A process that died closes its
connections, which the others see at once; one that hangs is given up after `run.ranks_timeout_s`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lcp_bench.errors import ClipError, ConfigError, EngagementError, RankError, StoreError
from lcp_bench.launch import Launch
from lcp_bench.measure.clock import synchronize
from lcp_bench.models.features import Engagement

log = logging.getLogger(__name__)

ENDS_RUN = (ConfigError, StoreError, EngagementError, RankError)
"""Errors that are no clip's own: the whole run would fail the same way."""

_NOTE_BYTES = 1024
_LARGEST_DRIFT = 0.05
"""Of the final latents' norm, between two ranks: rounding stays far below it, other weights or inputs do not."""


class PeerError(ClipError):
    """The clip failed on another rank."""


class Ranks:
    """One process: all work is its own, and there is nobody to wait for.

    Attributes:
        rank: Number of this process; 0 leads.
        processes: How many there are.
    """

    rank = 0
    processes = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes files, logs and prints."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` followers this rank evaluates."""
        return range(count)

    def gather(self, own: Sequence[Tensor], count: int, like: Tensor) -> list[Tensor]:
        """The predictions of all `count` followers in order, from every rank's own share.

        Args:
            own: Predictions of this rank's share, in order.
            count: Followers in all.
            like: A tensor with the shape, type and device of a prediction.
        """
        return list(own)

    def settle(self, latents: Tensor, engagement: Engagement, split: Collection[int]) -> tuple[Tensor, Engagement]:
        """End a segment: the leader's latents, and what all ranks together computed and reused.

        Args:
            latents: This rank's final latents.
            engagement: This rank's counters.
            split: Steps that were shared out; every other step ran on all ranks and counts once.

        Raises:
            EngagementError: Ranks did not compute the same.
        """
        return latents, engagement

    def meet(self, device: torch.device | str) -> None:
        """Begin timed work together, from idle devices."""

    def tell(self, value: Any) -> Any:
        """The leader's `value`, plain JSON, on every rank; what the others give is ignored."""
        return value

    def together(self) -> AbstractContextManager[None]:
        """Work that fails on all ranks if it fails on one, and that all of them leave together.

        Raises:
            PeerError: It failed elsewhere; the run may go on with the next clip.
            RankError: It failed elsewhere so that the run ends, or another rank was lost.
        """
        return nullcontext()

    def part(self) -> None:
        """End the work in common; what follows is the leader's alone."""


class SeveralRanks(Ranks):
    """One of several processes, joined by torch.distributed.

    Args:
        launch: This process among the others.
    """

    def __init__(self, launch: Launch) -> None:
        self.rank, self.processes = launch.rank, launch.processes
        self.lost = False
        """Whether another rank did not come when it was expected."""
        self._over = False
        self._told: BaseException | None = None

    def share(self, count: int) -> range:
        """See `Ranks`; sizes differ by one at most, and a single follower is evaluated everywhere: nothing to send."""
        if count == 1:
            return range(1)
        size, larger = divmod(count, self.processes)
        start = self.rank * size + min(self.rank, larger)
        return range(start, start + size + (self.rank < larger))

    def gather(self, own: Sequence[Tensor], count: int, like: Tensor) -> list[Tensor]:
        """See `Ranks`; shares are padded to equal size, which is what collective operations need."""
        if count == 1:
            return list(own)
        largest = -(-count // self.processes)
        padded = like.new_zeros((largest, *like.shape))
        for place, prediction in enumerate(own):
            padded[place] = prediction
        shares = [torch.empty_like(padded) for _ in range(self.processes)]
        self._round()  # right before the operation, so that nothing can fail in between
        self._reach(lambda: dist.all_gather(shares, padded))
        sizes = [count // self.processes + (rank < count % self.processes) for rank in range(self.processes)]
        return [share[place] for share, size in zip(shares, sizes, strict=True) for place in range(size)]

    def settle(self, latents: Tensor, engagement: Engagement, split: Collection[int]) -> tuple[Tensor, Engagement]:
        """See `Ranks`; costs one look at a value per segment."""
        common = latents.clone()
        self._round()
        self._reach(lambda: dist.broadcast(common, 0))
        drift = float((latents - common).norm() / common.norm())
        said = self._collect({"drift": str(drift), "counts": _listed(engagement)})
        drifts = [float(each["drift"]) for each in said]
        if any(value > _LARGEST_DRIFT for value in drifts):
            raise EngagementError(
                f"every rank must reach the same latents up to rounding, but they differ from the leader's by {drifts} "
                "of their norm, rank by rank; use equal devices, files and libraries on all ranks"
            )
        return common, merged([_counted(each["counts"]) for each in said], split)

    def meet(self, device: torch.device | str) -> None:
        """See `Ranks`."""
        synchronize(device)
        self._round()

    def tell(self, value: Any) -> Any:
        """See `Ranks`."""
        self._round()
        content = _as_bytes(value) if self.leads else torch.empty(0, dtype=torch.uint8)
        size = torch.tensor([content.numel()])
        self._reach(lambda: dist.broadcast(size, 0))
        if not self.leads:
            content = torch.empty(int(size), dtype=torch.uint8)
        self._reach(lambda: dist.broadcast(content, 0))
        return _as_value(content)

    @contextmanager
    def together(self) -> Iterator[None]:
        """See `Ranks`."""
        with self.alarm(ends_run=False):
            yield
            self._round()

    @contextmanager
    def alarm(self, *, ends_run: bool = True) -> Iterator[None]:
        """Tell the others of an error, unless they know it already."""
        try:
            yield
        except (PeerError, RankError):
            raise
        except Exception as error:
            if not self._over and error is not self._told:
                self._told, ends = error, ends_run or isinstance(error, ENDS_RUN)
                with suppress(PeerError, RankError):  # what this rank has to say is `error`
                    self._round(_note(error, ends_run=ends))
                self._over = self._over or ends
            raise

    def part(self) -> None:
        """See `Ranks`."""
        self._round()
        self._over = True
        dist.destroy_process_group()

    def _round(self, note: bytes = b"") -> None:
        """Give a note and read everybody's; raises if another rank's says that it failed."""
        notes = self._exchange(torch.frombuffer(bytearray(note.ljust(_NOTE_BYTES)), dtype=torch.uint8))
        for rank, other in enumerate(notes):
            text = bytes(other.tolist()).strip()
            if text and rank != self.rank:
                self._raise(rank, json.loads(text))

    def _raise(self, rank: int, note: dict[str, Any]) -> None:
        message = f"rank {rank} of {self.processes}: {note['reason']}"
        if note["ends_run"]:
            self._over = True
            raise RankError(message)
        raise PeerError(message, clip=note["clip"], stage=note["stage"])

    def _collect(self, value: Any) -> list[Any]:
        """Everybody's `value`, plain JSON, by rank."""
        content = _as_bytes(value)
        sizes = [int(size) for size in self._exchange(torch.tensor([content.numel()]))]
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: content.numel()] = content
        return [_as_value(each[:size]) for each, size in zip(self._exchange(padded), sizes, strict=True)]

    def _exchange(self, own: Tensor) -> list[Tensor]:
        every = [torch.empty_like(own) for _ in range(self.processes)]
        self._reach(lambda: dist.all_gather(every, own))
        return every

    def _reach(self, operation: Callable[[], object]) -> None:
        """Run a collective operation; torch says with a RuntimeError that somebody did not come."""
        try:
            operation()
        except RuntimeError as error:
            self._over = self.lost = True
            raise RankError(
                f"rank {self.rank} lost another of {self.processes} ranks ({_first_line(error)}); see what that one "
                "said, and give the command again: finished clips are kept"
            ) from error


@contextmanager
def joined(launch: Launch, device: torch.device, timeout_s: float) -> Iterator[Ranks]:
    """The ranks of a run. An error that leaves the block is told to the others, and raised by the leader only.

    Args:
        launch: How this process was started.
        device: Where it computes; with several processes on GPUs each takes the one of its local rank.
        timeout_s: How long a rank waits for another that is alive but does not come.

    Raises:
        ConfigError: More processes than GPUs on this host, or no time to wait.
    """
    if launch.processes == 1:
        yield Ranks()
        return
    if timeout_s <= 0:
        raise ConfigError(f"run.ranks_timeout_s must be more than 0 seconds, got {timeout_s}")
    if device.type == "cuda":
        _take_gpu(launch)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    ranks = SeveralRanks(launch)
    try:
        with ranks.alarm():  # after an error the group is left as it is: nccl would wait for a rank that is gone
            yield ranks
    except Exception:
        if ranks.leads or ranks.lost:
            raise
        # The leader knows, and says it. A failure of this process would make torchrun end the leader before that.


def _take_gpu(launch: Launch) -> None:
    count = torch.cuda.device_count()
    if launch.local_processes > count:
        raise ConfigError(
            f"every process needs a GPU of its own, got {launch.local_processes} processes for {count} GPUs on this "
            "host; lower --nproc-per-node, or use run.device=cpu"
        )
    torch.cuda.set_device(launch.local_rank)


def merged(engagements: Sequence[Engagement], split: Collection[int]) -> Engagement:
    """What ranks did together: steps that were shared out add up, all other steps ran everywhere and count once.

    Raises:
        EngagementError: A step that every rank runs did not run alike on all of them.
    """
    total = Engagement()
    for kind in ("computed", "reused", "dropped"):
        counts = [getattr(each, kind) for each in engagements]
        for key in sorted(set().union(*counts)):
            got = [count[key] for count in counts]
            if key[0] not in split and len(set(got)) > 1:
                step, name = key
                raise EngagementError(f"step {step}: {name} was {kind} {got} times, rank by rank; all must do the same")
            getattr(total, kind)[key] = sum(got) if key[0] in split else got[0]
    return total


def _listed(engagement: Engagement) -> dict[str, list[list[Any]]]:
    return {
        kind: [[step, name, count] for (step, name), count in getattr(engagement, kind).items()]
        for kind in ("computed", "reused", "dropped")
    }


def _counted(listed: dict[str, list[list[Any]]]) -> Engagement:
    engagement = Engagement()
    for kind, entries in listed.items():
        getattr(engagement, kind).update({(step, name): count for step, name, count in entries})
    return engagement


def _note(error: Exception, *, ends_run: bool) -> bytes:
    """An error in few bytes."""
    clip, stage = getattr(error, "clip", ""), getattr(error, "stage", "denoise")
    note = {"ends_run": ends_run, "clip": clip[:100], "stage": stage, "reason": ""}
    room = _NOTE_BYTES - len(json.dumps(note))
    reason = f"{type(error).__name__}: {error}".encode("ascii", "replace").decode()
    while len(json.dumps(reason)) > room:
        reason = reason[: len(reason) * 3 // 4]
    return json.dumps({**note, "reason": reason}).encode()


def _as_bytes(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value, allow_nan=False).encode()), dtype=torch.uint8)


def _as_value(content: Tensor) -> Any:
    return json.loads(bytes(content.tolist()))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
