"""A one-node Slurm on the loopback interface, for tests: `python tests/cluster/slurm.py up|down FOLDER`.

Needs root and Debian's packages (`PACKAGES`). Nothing of the host's configuration is read or changed: keys, sockets,
logs, the accounting database and every process' number lie in FOLDER, which all users must be able to enter (the
database runs as its own user). `export SLURM_CONF=FOLDER/slurm.conf` points Slurm's commands to it.

Accounting is part of it because that is what clusters have, and because a job that was killed leaves no other trace.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

PACKAGES = ("slurm-wlm", "slurm-client", "munge", "slurmdbd", "mariadb-server")
PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch")
PID_FILES = ("slurmd.pid", "slurmctld.pid", "slurmdbd.pid", "database/pid", "munge/pid")
"""In the order in which they are stopped."""

SLURM_CONF = """\
ClusterName=lcp
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that is started again waits until its old credential is void: 120 s unless said otherwise.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={slurmctld}
SlurmdPort={slurmd}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
MpiDefault=none
SwitchType=switch/none
TaskPlugin=task/none
# No cgroups in a container: limits are booked, not enforced.
ProctrackType=proctrack/linuxproc
JobAcctGatherType=jobacct_gather/linux
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=5,batch_sched_delay=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={slurmdbd}
# With munge this is its socket.
AccountingStoragePass={folder}/munge/socket
ReturnToService=2
KillWait=5
JobRequeue=1
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cores} RealMemory={memory_mb} State=UNKNOWN
PartitionName=debug Nodes=localhost Default=YES MaxTime=120 State=UP DefMemPerCPU=512
"""
SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={slurmdbd}
SlurmUser=root
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
"""
ACCOUNT = """\
create user if not exists slurm@'127.0.0.1' identified by 'slurm';
create user if not exists slurm@localhost identified by 'slurm';
grant all on slurm_acct_db.* to slurm@'127.0.0.1';
grant all on slurm_acct_db.* to slurm@localhost;
"""


class SlurmError(RuntimeError):
    """A part of it did not start; the message says which, with the end of its log."""


def why_not() -> str:
    """Why this machine cannot have it; empty if it can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install -y --no-install-recommends {' '.join(PACKAGES)}"
    return "" if os.geteuid() == 0 else "Slurm's daemons need root here"


def up(folder: Path) -> dict[str, str]:
    """Start it.

    Returns:
        The environment for Slurm's commands.

    Raises:
        SlurmError: A part did not come up; everything that did is stopped again.
    """
    folder = folder.resolve()
    try:
        ports = _free_ports()
        _write(folder, ports)
        _start_munge(folder)
        _start_database(folder, ports["database"])
        return _start_slurm(folder)
    except (SlurmError, OSError, subprocess.SubprocessError) as error:
        logs = "\n".join(
            f"{path.name}: {_tail(path)}" for path in sorted([*folder.glob("log/*"), *folder.glob("database/log")])
        )
        down(folder)
        raise SlurmError(f"{error}\n{logs}") from error


def down(folder: Path) -> None:
    """End all its jobs and stop exactly what `up` started, by process number."""
    folder = folder.resolve()
    if (folder / "slurmctld.pid").exists():
        environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        subprocess.run(["scancel", "--user=root"], env=environment, timeout=60, check=False, capture_output=True)
        time.sleep(1)
    for name in PID_FILES:
        path = folder / name
        if not path.exists() or not path.read_text().strip():
            continue
        process = int(path.read_text())
        try:
            os.kill(process, signal.SIGTERM)
            _wait(f"the end of {name}", 20, lambda process=process: _is_gone(process))
        except ProcessLookupError:
            pass
        except SlurmError as error:
            print(error, file=sys.stderr)


def _is_gone(process: int) -> bool:
    """Also of a process that ended and that nobody has asked about, for which a container may have nobody."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return True


def _free_ports() -> dict[str, int]:
    """One for each service, so that several can run on a host."""
    with ExitStack() as stack:
        sockets = {
            name: stack.enter_context(socket.socket()) for name in ("slurmctld", "slurmd", "slurmdbd", "database")
        }
        for each in sockets.values():
            each.bind(("127.0.0.1", 0))
        return {name: each.getsockname()[1] for name, each in sockets.items()}


def _write(folder: Path, ports: dict[str, int]) -> None:
    for name in ("", "state", "spool", "log", "munge"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name).chmod(0o755)
    _write_private(folder / "munge" / "key", secrets.token_bytes(1024))
    memory_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * 85 // 100 // 2**20
    values = {"folder": folder, "cores": os.cpu_count(), "memory_mb": memory_mb, **ports}
    (folder / "slurm.conf").write_text(SLURM_CONF.format(**values))
    _write_private(folder / "slurmdbd.conf", SLURMDBD_CONF.format(**values).encode())


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content)


def _start_munge(folder: Path) -> None:
    places = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    _run(["munged", *(f"--{option}={folder / 'munge' / name}" for option, name in places.items())])


def _start_database(folder: Path, port: int) -> None:
    data = folder / "database"
    if not (data / "mysql").exists():
        data.mkdir(exist_ok=True)
        shutil.chown(data, "mysql", "mysql")
        _run(["mariadb-install-db", "--user=mysql", f"--datadir={data}", "--auth-root-authentication-method=normal",
              "--skip-test-db"])  # fmt: skip
    # It does not go to the background by itself.
    _run(
        ["setsid", "--fork", "mariadbd", "--no-defaults", "--user=mysql", f"--datadir={data}",
         f"--socket={data / 'socket'}", f"--pid-file={data / 'pid'}", "--bind-address=127.0.0.1", f"--port={port}",
         "--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900", f"--log-error={data / 'log'}"]
    )  # fmt: skip
    client = ["--no-defaults", f"--socket={data / 'socket'}", "--user=root"]
    _wait("the database", 60, lambda: _succeeds(["mariadb-admin", *client, "ping"]))
    _run(["mariadb", *client, "--execute", ACCOUNT])


def _start_slurm(folder: Path) -> dict[str, str]:
    conf = {"SLURM_CONF": str(folder / "slurm.conf")}
    environment = os.environ | conf
    _run(["slurmdbd"], environment)
    clusters = ["sacctmgr", "-n", "show", "cluster", "format=cluster"]
    _wait("slurmdbd", 60, lambda: _succeeds(clusters, environment))
    if "lcp" not in _run(clusters, environment):
        _run(["sacctmgr", "-i", "add", "cluster", "lcp"], environment)
    _run(["slurmctld", "-f", conf["SLURM_CONF"]], environment)
    _run(["slurmd", "-f", conf["SLURM_CONF"], "-N", "localhost"], environment)
    _wait("an idle node", 60, lambda: "idle" in _run(["sinfo", "-h", "-o", "%T"], environment, check=False))
    return conf


def _run(command: Sequence[str], environment: dict[str, str] | None = None, *, check: bool = True) -> str:
    # Files, not pipes: a daemon keeps what it inherits open.
    done = subprocess.run(
        command, env=environment, timeout=120, check=False, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if command[0] in ("sacctmgr", "sinfo") else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    if check and done.returncode:
        raise SlurmError(f"{' '.join(command[:3])} ... ended with code {done.returncode}")
    return done.stdout or ""


def _succeeds(command: Sequence[str], environment: dict[str, str] | None = None) -> bool:
    silent = subprocess.DEVNULL
    return (
        subprocess.run(command, env=environment, timeout=60, check=False, stdout=silent, stderr=silent).returncode == 0
    )


def _wait(what: str, seconds: float, ready: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise SlurmError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)


def _tail(path: Path) -> str:
    return path.read_text(errors="replace")[-600:].strip()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Start or stop a one-node Slurm for tests.")
    parser.add_argument("action", choices=["up", "down"])
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.action == "down":
        down(arguments.folder)
        return 0
    if reason := why_not():
        print(reason, file=sys.stderr)
        return 1
    for name, value in up(arguments.folder).items():
        print(f"export {name}={value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
