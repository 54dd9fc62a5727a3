"""A parallel group's followers on several processes: the results of one, each member once, and no failure hangs.

The quick tests fork this process, so that nobody waits for torch; the slow ones start the real command by torchrun.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from family import Draw, random_conditions, seeded_unet, two_levels
from lcp_bench.accel.lightningcp import LightningCP
from lcp_bench.accel.schedule import Group, Plan, ScheduleConfig, plan_of_keys
from lcp_bench.accel.scope import Scope, decoder_scope, shell_scope
from lcp_bench.accel.strategy import Strategy
from lcp_bench.errors import ConfigError, EngagementError, LcpBenchError
from lcp_bench.launch import Launch, launched, require_one_parallel_run
from lcp_bench.measure.clock import monotonic_s, pause
from lcp_bench.measure.device import across
from lcp_bench.models.features import Engagement
from lcp_bench.models.topology import Topology
from lcp_bench.models.unet import UNet
from lcp_bench.parallel import Ranks, SeveralRanks, joined, merged
from lcp_bench.sampling import Sampler
from lcp_bench.schedulers import DDIM

SHAPE, STEPS, TIMEOUT_S = (1, 4, 4, 8, 8), 8, 20.0
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
Work = Callable[[Ranks], Any]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def child(work: Work, launch: Launch, port: int, timeout_s: float, answer: Connection) -> None:
    """One process of several: what `work` returned, or its error's class and message."""
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(launch.rank),
        "WORLD_SIZE": str(launch.processes),
    }  # fmt: skip
    said: Any = None
    try:
        with joined(launch, torch.device("cpu"), timeout_s) as ranks:
            try:
                said = work(ranks)
            except Exception as error:
                said = (type(error).__name__, str(error))
                raise
    except Exception as error:
        said = said or (type(error).__name__, str(error))
    answer.send(said)
    os._exit(0)


def on_ranks(work: Work, processes: int = 2, timeout_s: float = TIMEOUT_S, heard: int | None = None) -> list[Any]:
    """What each of several processes, or the first `heard`, has to say after `work`; None from one that died."""
    context, port = multiprocessing.get_context("fork"), free_port()
    pipes, children = [], []
    for rank in range(processes):
        here, there = context.Pipe(duplex=False)
        launch = Launch(rank, processes, rank, processes)
        process = context.Process(target=child, args=(work, launch, port, timeout_s, there))
        process.start()
        there.close()
        pipes.append(here)
        children.append(process)
    answers: list[Any] = []
    try:
        for pipe in pipes[:heard]:
            assert pipe.poll(60), "hangs"
            try:
                answers.append(pipe.recv())
            except EOFError:
                answers.append(None)
    finally:
        for process in children:
            process.kill()
            process.join()
    return answers


def lcp(**options: Any) -> LightningCP:
    """Groups of 4, 1 and 0 followers."""
    return LightningCP(LightningCP.Config(schedule=ScheduleConfig(key_steps=[0, 5, 7]), site="up.1.2", **options))


class TwoScopes(Strategy):
    """One group whose followers change their scope twice."""

    def plan(self, num_steps: int) -> Plan:
        """One group."""
        return Plan(num_steps, (Group(0, tuple(range(1, num_steps)), parallel=True),))

    def follower_scope(self, step: int, plan: Plan, topology: Topology) -> Scope:
        """The decoder for steps 3 and 4, else the shell."""
        return decoder_scope(topology) if step in (3, 4) else shell_scope(topology, "up.1.2")


def denoise(unet: UNet, strategy: Strategy, ranks: Ranks) -> tuple[Any, ...]:
    """Final latents, counters, and the steps of each call of the network."""
    calls: list[tuple[int, ...]] = []
    plan = strategy.check(unet.topology, num_steps=STEPS, eta=0.0)
    forward = unet.forward

    def logged(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(tuple(kwargs["steps"]))
        return forward(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(unet, "forward", logged)
        sampler = Sampler(unet, strategy, plan, DDIM(STEPS), 3.5, ranks)
        result = sampler.denoise(Draw(2)(*SHAPE), random_conditions(unet))
    return result.latents.numpy(), result.engagement.per_layer(), calls


CASES = {
    "two": (lcp(), 2, [[(0,), (1, 2), (5,), (6,), (7,)], [(0,), (3, 4), (5,), (6,), (7,)]]),
    "one at a time": (lcp(batch=1), 2, [[(0,), (1,), (2,), (5,), (6,), (7,)], [(0,), (3,), (4,), (5,), (6,), (7,)]]),
    "uneven": (
        lcp(), 3,
        [[(0,), (1, 2), (5,), (6,), (7,)], [(0,), (3,), (5,), (6,), (7,)], [(0,), (4,), (5,), (6,), (7,)]],
    ),
    "two scopes": (TwoScopes(None), 3, [[(0,), (1,), (3,), (5,)], [(0,), (2,), (4,), (6,)], [(0,), (7,)]]),
}  # fmt: skip


@forks
@pytest.mark.parametrize("case", CASES)
def test_several_processes_reach_what_one_reaches(case: str, small_unet: UNet) -> None:
    """Each follower is evaluated by one process; the counters are those of one process, and so are the latents."""
    strategy, processes, calls = CASES[case]
    alone, counts, _ = denoise(small_unet, strategy, Ranks())
    answers = on_ranks(lambda ranks: denoise(small_unet, strategy, ranks), processes)
    assert [answer[2] for answer in answers] == calls
    for latents, engagement, _ in answers:
        assert (latents == answers[0][0]).all()
        assert engagement == counts
        torch.testing.assert_close(torch.tensor(latents), torch.tensor(alone), rtol=1e-4, atol=1e-5)


@forks
def test_the_leader_speaks_and_all_hear() -> None:
    answers = on_ranks(lambda ranks: ranks.tell({"clips": ["ä", 1]} if ranks.leads else None), 3)
    assert answers == [{"clips": ["ä", 1]}] * 3


def fails_once(ranks: Ranks) -> list[str]:
    """The second rank fails in its first clip, far from any operation that the leader waits in."""
    ends = []
    for number in range(2):
        try:
            with ranks.together():
                if (ranks.rank, number) == (1, 0):
                    raise ValueError("broken")
                ranks.meet("cpu")
            ends.append("good")
        except Exception as error:
            ends.append(f"{type(error).__name__}: {error}")
    ranks.part()
    return ends


@forks
def test_a_clip_that_fails_on_one_rank_fails_on_all_and_the_next_one_works() -> None:
    leader, other = on_ranks(fails_once)
    assert leader == ["PeerError: rank 1 of 2: ValueError: broken", "good"]
    assert other == ["ValueError: broken", "good"]


def voids_the_run(ranks: Ranks) -> None:
    """An error that is no clip's own."""
    with ranks.together():
        if ranks.rank == 1:
            raise EngagementError("x" * 5000)
        ranks.meet("cpu")


@forks
def test_an_error_of_the_run_ends_all_ranks() -> None:
    leader, other = on_ranks(voids_the_run)
    assert leader[0] == "RankError" and leader[1].startswith("rank 1 of 2: EngagementError: xxx")
    assert other[0] == "EngagementError"


@forks
def test_a_dead_rank_is_noticed_at_once(small_unet: UNet) -> None:
    def work(ranks: Ranks) -> Any:
        if ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return denoise(small_unet, lcp(), ranks)

    started = monotonic_s()
    leader, other = on_ranks(work, timeout_s=120)
    assert other is None
    assert leader[0] == "RankError" and "lost another of 2 ranks" in leader[1]
    assert monotonic_s() - started < 30


@forks
def test_a_rank_that_does_not_come_is_given_up() -> None:
    def work(ranks: Ranks) -> None:
        if ranks.rank == 1:
            pause(30)
        ranks.meet("cpu")

    started = monotonic_s()
    leader = on_ranks(work, timeout_s=1.0, heard=1)[0]
    assert leader[0] == "RankError"
    assert monotonic_s() - started < 20


@forks
def test_ranks_with_other_weights_are_found_out(small_unet: UNet) -> None:
    other = seeded_unet(two_levels(), seed=4)
    answers = on_ranks(lambda ranks: denoise((small_unet, other)[ranks.rank], lcp(), ranks))
    assert all(name == "EngagementError" and "same latents" in message for name, message in answers)


# ------------------------------------------------------------------ without processes


def counted(*steps: int) -> Engagement:
    """A layer that ran at these steps."""
    engagement = Engagement()
    engagement.compute(steps, "mid")
    return engagement


def test_shared_steps_add_up_and_common_ones_count_once() -> None:
    total = merged([counted(0, 1), counted(0, 2)], split={1, 2})
    assert total.computed == counted(0, 1, 2).computed
    assert merged([counted(0, 1), counted(0, 1)], split={1, 2}).computed[(1, "mid")] == 2, "a double must show"
    with pytest.raises(EngagementError, match=r"step 3: mid was computed \[1, 0\] times"):
        merged([counted(0, 3), counted(0)], split={1, 2})


@pytest.mark.parametrize("processes", [2, 3, 4, 7])
@pytest.mark.parametrize("count", [2, 3, 5, 9])
def test_shares_cover_a_group_once_and_in_order(processes: int, count: int) -> None:
    shares = [list(SeveralRanks(Launch(rank, processes, rank, processes)).share(count)) for rank in range(processes)]
    assert [member for share in shares for member in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert max(map(len, shares)) == -(-count // processes)


def test_one_process_is_not_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launched() == Launch()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert launched() == Launch(1, 2, 1, 2)


def test_what_several_processes_cannot_do() -> None:
    two = Launch(0, 2, 0, 2)
    parallel, alone = plan_of_keys([0, 3], 5, parallel=True), plan_of_keys([0, 3], 5)
    require_one_parallel_run(two, [("lcp", parallel)], sweep=False)
    require_one_parallel_run(Launch(), [("none", alone)], sweep=True)
    with pytest.raises(ConfigError, match="accel=none has no parallel group"):
        require_one_parallel_run(two, [("none", alone)], sweep=False)
    with pytest.raises(ConfigError, match="one torchrun command per run"):
        require_one_parallel_run(two, [("lcp", parallel)], sweep=True)


def test_the_label_says_how_many_devices() -> None:
    assert across({"label": "NVIDIA X"}, 1) == {"label": "NVIDIA X"}
    assert across({"label": "NVIDIA X"}, 2) == {"label": "2 x NVIDIA X", "processes": 2}


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(LcpBenchError, match="got 2 processes for 1 GPUs"),
        joined(Launch(0, 2, 0, 2), torch.device("cuda"), 9.0),
    ):
        pass


# ------------------------------------------------------------------ the real command

WORDS = (
    "+model=hallo", "+accel=lcp", "model.size=tiny", "model.weights=seeded", "model.frames_per_segment=4",
    "sampler.steps=8", "accel.schedule.key_steps=[0,1,6]", "dataset.max_seconds=0.3", "measure.warmup_clips=0",
    "measure.bootstrap=100", "run.threads=1", "run.device=cpu", "dataset.root=demo",
)  # fmt: skip


@pytest.fixture(scope="module")
def checkout(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code: a run's name holds the code's hash, so an edit between two processes would part them."""
    folder = tmp_path_factory.mktemp("ranks")
    for name in ("lcp_bench", "baselines", "metrics", "conf"):
        shutil.copytree(repository / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def start(folder: Path, *words: str, processes: int = 2) -> subprocess.Popen[str]:
    """The command, by torchrun if there are several processes."""
    runner = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={free_port()}"]
    command = [sys.executable, *(runner if processes > 1 else []), "-m", "lcp_bench", *WORDS, *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    """Exit code, lines of stdout, stderr."""
    out, err = process.communicate(timeout=200)
    return process.returncode, out.splitlines(), err


def read_rows(printed: str, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The record that a run's last line names, and its rows."""
    path = folder / json.loads(printed)["record"]
    rows = [json.loads(line) for line in (path.parent / "rows.jsonl").read_text().splitlines()]
    return json.loads(path.read_text()), rows


@pytest.mark.slow
def test_torchrun_makes_the_run_of_one_process(checkout: Path) -> None:
    """The same frames and counters, one line of stdout, one folder; a second command finds it complete."""
    words = ("measure.pair=none", "measure.pair_clips=1", "measure.pair_repeats=2")
    code, lines, err = finish(start(checkout, *words, "paths.runs=one", processes=1))
    assert code == 0, err
    alone, wanted = read_rows(lines[-1], checkout)
    code, lines, err = finish(start(checkout, *words, "paths.runs=two"))
    assert code == 0, err
    assert len(lines) == 1
    record, rows = read_rows(lines[0], checkout)
    assert [path.name for path in (checkout / "two").iterdir()] == [record["run_id"]]
    same = ("clip", "status", "frames", "segments", "engagement", "cache_bytes", "video", "frames_sha256")
    assert [{key: row[key] for key in same} for row in rows] == [{key: row[key] for key in same} for row in wanted]
    assert record["run_id"] != alone["run_id"]
    assert record["identity"] == {**alone["identity"], "processes": 2}
    assert record["device"]["label"] == f"2 x {alone['device']['label']}"
    assert record["engagement"] == alone["engagement"]
    assert record["pair"]["n"] == 2
    assert record["flops"]["speedup_bound"] > record["flops"]["speedup_bound_one_device"]
    assert err.count("INFO lcp_bench.runner: loading") == 1
    code, lines, _ = finish(start(checkout, *words, "paths.runs=two"))
    assert code == 0 and json.loads(lines[-1])["already_complete"] is True


def descendants(parent: int) -> Iterator[int]:
    """Processes below a process, by Linux' own list."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            yield int(path.parent.name)


def rank_of(pid: int) -> str | None:
    """What torchrun told a process."""
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((word[5:].decode() for word in words if word.startswith(b"RANK=")), None)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["0", "1"])
def test_a_killed_rank_ends_the_run_and_the_next_command_goes_on(checkout: Path, victim: str) -> None:
    for seed in range(5):
        name = f"killed{victim}{seed}"
        words = ("dataset.max_seconds=0.6", "sampler.steps=30", f"sampler.seed={seed}", f"paths.runs={name}")
        process = start(checkout, *words)
        kill_after_the_first_clip(process, checkout / name, victim)
        code, lines, _ = finish(process)
        if not list(checkout.glob(f"{name}/*/record.json")):
            break  # else a busy machine let it finish before the signal came
    else:
        pytest.fail("killed too late for this test to show anything, five times")
    assert code != 0 and lines == []
    code, lines, err = finish(start(checkout, *words))
    assert code == 0, err
    assert "1 clips done, 1 to do" in err
    assert json.loads(lines[-1])["clips_ok"] == 2


def kill_after_the_first_clip(process: subprocess.Popen[str], runs: Path, victim: str) -> None:
    """SIGKILL to one rank as soon as the first clip's row is there."""
    deadline = monotonic_s() + 120
    while not list(runs.glob("*/rows.jsonl")):
        assert process.poll() is None, process.communicate()
        assert monotonic_s() < deadline
        pause(0.005)
    found = [pid for pid in descendants(process.pid) if rank_of(pid) == victim]
    assert len(found) <= 1, "one process a rank; none where it has ended by itself"
    for pid in found:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_torchrun_refuses_what_would_idle(checkout: Path) -> None:
    code, lines, err = finish(start(checkout, "accel=lcp_sequential", "paths.runs=refused"))
    assert code != 0 and lines == []
    assert err.count("accel=lcp_sequential has no parallel group") == 1
    assert not (checkout / "refused").exists()
