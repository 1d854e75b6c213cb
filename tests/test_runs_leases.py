"""Leases between real processes: raced for, killed, stopped and continued."""

from __future__ import annotations

import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from llama_scale.errors import StoreError
from llama_scale.runs import leases
from llama_scale.runs.leases import COUNTER_DIGITS, BusyError, hold

HOLDER = """
import sys, time
from pathlib import Path
from llama_scale.runs import leases
leases.HEARTBEAT_SECONDS = 0.05
try:
    with leases.hold(Path(sys.argv[1])) as lease:
        print(lease.token, flush=True)
        sys.stdin.readline()
        lease.check()
        print("written", flush=True)
except leases.BusyError as error:
    print(error.message, flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "leases"


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    with ExitStack() as stack:

        def holder() -> subprocess.Popen[str]:
            command = [sys.executable, "-c", HOLDER, str(folder)]
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield holder


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()
    return said(process)


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_tokens_grow_and_the_last_stays_behind(folder: Path) -> None:
    for token in (1, 2, 3):
        with hold(folder) as lease:
            assert lease.token == token
            assert files(folder) == [f"{token}.held"]
    assert files(folder) == ["3.released"]


def test_one_process_holds_a_run_at_a_time(folder: Path, start: Callable[[], subprocess.Popen[str]]) -> None:
    process = start()
    assert said(process) == "1"
    with pytest.raises(BusyError, match="being trained"), hold(folder):
        pass
    assert answer(process) == "written"
    process.wait()
    with hold(folder) as lease:
        assert lease.token == 2
        with pytest.raises(BusyError), hold(folder):
            pass


def test_of_many_that_race_one_wins_each_time(folder: Path) -> None:
    race = (
        "import sys, time; from pathlib import Path; from llama_scale.runs.leases import BusyError, hold\n"
        "for _ in sys.stdin:\n"
        "    try:\n"
        "        with hold(Path(sys.argv[1])): time.sleep(.05)\n"
        "        print('won', flush=True)\n"
        "    except BusyError: print('busy', flush=True)\n"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", race, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for _ in range(3)
    ]
    won = 0
    for _ in range(20):
        for racer in racers:
            assert racer.stdin
            racer.stdin.write("go\n")
        winners = [said(racer) for racer in racers].count("won")
        # One that was held up may come when the winner has let go, but never while it holds.
        assert winners >= 1
        won += winners
    for racer in racers:
        racer.communicate()
    assert int(files(folder)[0].split(".")[0]) == won and len(files(folder)) == 1


def test_a_killed_holder_is_replaced_at_once(
    folder: Path, start: Callable[[], subprocess.Popen[str]]
) -> None:
    process = start()
    assert said(process) == "1"
    process.kill()
    process.wait()
    with hold(folder) as lease:
        assert lease.token == 2


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc here")
def test_a_killed_holder_that_nobody_reaps_is_replaced_too(
    folder: Path, start: Callable[[], subprocess.Popen[str]]
) -> None:
    """As in a container whose first process waits for none of the orphans that it gets."""
    process = start()
    assert said(process) == "1"
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended and stays listed
    assert Path(f"/proc/{process.pid}").exists()
    with hold(folder) as lease:
        assert lease.token == 2
    process.wait()


def test_a_stopped_holder_is_fenced_off_when_it_goes_on(
    folder: Path, start: Callable[[], subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.6)
    process = start()
    assert said(process) == "1"
    deadline = time.monotonic() + 1.2
    while time.monotonic() < deadline:  # its heart beats: nobody may take the run
        with pytest.raises(BusyError), hold(folder):
            pass
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)
    for _ in range(100):
        try:
            with hold(folder) as lease:
                assert lease.token == 2
                process.send_signal(signal.SIGCONT)
                assert "taken over" in answer(process)
                lease.check()
            break
        except BusyError:
            time.sleep(0.05)
    else:
        pytest.fail("a holder that stands still kept the run")


def written_by(folder: Path, **changes: object) -> None:
    """A lease as another holder would have left it: this process's, with parts changed."""
    with hold(folder):
        [name] = files(folder)
        content = (folder / name).read_bytes()
    identity = json.loads(content[COUNTER_DIGITS + 1 :]) | changes
    for file in folder.iterdir():
        file.unlink()
    (folder / "7.held").write_bytes(content[: COUNTER_DIGITS + 1] + json.dumps(identity).encode())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="starts of processes are read from /proc")
@pytest.mark.parametrize("changes", [{"started": "1"}, {"pid": 10**30}])
def test_a_process_number_that_is_used_again_or_none_holds_nothing(
    folder: Path, changes: dict[str, object]
) -> None:
    written_by(folder, **changes)
    with hold(folder) as lease:
        assert lease.token == 8


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"machine": "another boot 1", "pid": 2**22 - 1},
        {"machine": None},
        {"pid": "x"},
        {"pid": math.inf},
    ],
)
def test_a_holder_that_may_live_is_waited_for(
    folder: Path, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    written_by(folder, **changes)
    with pytest.raises(BusyError), hold(folder):
        pass
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.0)  # as if a minute had passed without a heartbeat
    with hold(folder) as lease:
        assert lease.token == 8


CLOCKED = """
import select, sys, time
from pathlib import Path
from llama_scale.runs import leases
leases.HEARTBEAT_SECONDS, leases.LEASE_SECONDS = 0.05, 2.0
while True:
    try:
        with leases.hold(Path(sys.argv[1])) as lease:
            print(lease.token, flush=True)
            for _ in sys.stdin:
                lease.check()
                print(time.time(), flush=True)
    except leases.BusyError:
        select.select([], [], [], 0.05)  # libfaketime breaks the sleep of Python
"""


def clock_library() -> str:
    """libfaketime, which shows a process another time of day; its monotonic clock is left alone."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        pytest.skip("libfaketime is not installed (Debian package libfaketime)")
    return str(found[0])


def test_a_clock_that_jumps_gives_no_lease_away_and_keeps_none(folder: Path, tmp_path: Path) -> None:
    """The holder's clock jumps by a day both ways, the observer's is a day off."""
    clocks = {name: tmp_path / name for name in ("holder", "observer")}
    faked = {"LD_PRELOAD": clock_library(), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}

    def clocked(name: str) -> subprocess.Popen[str]:
        environment = {**os.environ, **faked, "FAKETIME_TIMESTAMP_FILE": str(clocks[name])}
        command = [sys.executable, "-c", CLOCKED, str(folder)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    clocks["holder"].write_text("+0")
    clocks["observer"].write_text("-1d")
    with ExitStack() as stack:
        holder = stack.enter_context(clocked("holder"))
        stack.callback(holder.kill)
        assert said(holder) == "1"
        observer = stack.enter_context(clocked("observer"))
        stack.callback(observer.kill)
        assert observer.stdout
        for jump, seconds in (("+1d", 86_400), ("-1d", -86_400), ("+0", 0)):
            clocks["holder"].write_text(jump)
            assert abs(float(answer(holder)) - time.time() - seconds) < 3_600
            assert not select.select([observer.stdout], [], [], 1.0)[0], "the lease was given away"
        holder.send_signal(signal.SIGSTOP)
        assert said(observer) == "2", "the lease of one that stands still was kept"


def test_a_torn_lease_is_waited_for(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "1.held").write_bytes(b"")
    with pytest.raises(BusyError), hold(folder):
        pass


def test_what_cannot_be_read_as_a_lease_is_taken_over_in_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder where a lease should be, and names that are no tokens."""
    for name in ("7.held", "\u00b2.held", "x.held"):
        (folder / name).mkdir(parents=True)
    with pytest.raises(BusyError), hold(folder):
        pass
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.0)
    with hold(folder) as lease:
        assert lease.token == 8
    with hold(folder) as lease:
        assert lease.token == 9


def test_a_folder_that_vanishes_is_not_written_any_more(folder: Path) -> None:
    with hold(folder) as lease:
        shutil.rmtree(folder)
        with pytest.raises(StoreError, match="vanished"):
            lease.check()


def test_a_read_only_store_is_named(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    with pytest.raises(StoreError, match="cannot write"), hold(folder):
        pass
