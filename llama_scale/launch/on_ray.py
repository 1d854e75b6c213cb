"""The Ray launcher: a task a run, on whatever nodes the cluster has; each starts the same worker.

Ray runs a task again when its node dies, and may run it twice when it only thinks so: the run's lease
lets one of them write. The store must be on a file system that all nodes share.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from llama_scale.errors import InputError
from llama_scale.launch.tasks import (
    Attempts,
    Launch,
    LaunchReport,
    Progress,
    Task,
    note_death,
    noting_interrupts,
)
from llama_scale.runs import EXIT_DONE, EXIT_RETRY

POLL_SECONDS = 0.5
RETRY_SECONDS = 5.0  # before a run that waits for its trunk, or for another process, is tried again
NODE_DEATHS = 20  # that one task may live through
STOP_SECONDS = 60.0
ANSWER_SECONDS = 10.0  # Ray itself asks an address that is not Ray's again and again, for minutes
# A call of gRPC as HTTP/2 has it, by hand, for not every Ray brings grpcio along: types of frames, the most
# that one holds unasked (RFC 9113, 4.2), and as headers (RFC 7541) POST, http, path, host, content type, te.
DATA, HEADERS, SETTINGS, MOST_BYTES = 0, 1, 4, 2**14
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CALL = b"\x83\x86\x04%b\x01%b\x0f\x10\x10application/grpc\0\x02te\x08trailers"
# What a cluster and its ray:// know; in the headers of an answer: that gRPC gives it (status 200), and that
# it knows no such method (grpc-status 12).
METHODS = {"": "/ray.rpc.NodeInfoGcsService/GetClusterId", "ray": "/ray.rpc.RayletDriver/ClusterInfo"}
OF_GRPC, UNKNOWN = b"\x88", b"\x0212"
KINDS = {"num_cpus": "CPU", "num_gpus": "GPU"}  # what a task takes, and what a node has of it
MOST_NEEDED = 2**16  # cores or cards of a node


@dataclass(slots=True)
class _Flight:
    """Tasks that Ray has, and what became of those that it gave back."""

    running: dict[Any, Task] = field(default_factory=dict)
    attempts: Attempts = field(default_factory=Attempts)

    def settle(self, task: Task, code: int) -> None:
        """What a worker's exit code means for its run."""
        if code == EXIT_DONE and task.is_finished():
            return
        if code == EXIT_RETRY:
            self.attempts.not_before[task.run] = time.monotonic() + RETRY_SECONDS
            return
        if code < 0:
            note_death(task.folder, code)
        self.attempts.add(task)


def launch_on_ray(
    store: Path,
    tasks: Sequence[Task],
    *,
    options: Mapping[str, str],
    device: str,
    watch: Callable[[Progress], None],
    tell: Callable[[str], None],
) -> LaunchReport:
    """Run every task on a Ray cluster; returns when all are finished or have failed.

    `options` may name the cluster's `address` and what a task takes: `num_cpus`, `num_gpus`, one where the
    device is cuda. Without an address it is that of RAY_ADDRESS, else the one started on this machine last,
    else Ray starts here for the sweep alone. KeyboardInterrupt asks the workers to save first. Raises
    InputError where none answers, and where none is named for more than this machine's Ray has; `tell` hears
    what no node has of a cluster that is named, for it may grow.
    """
    check_ray(options)  # again: the cluster may have ended while the text was cut into tokens
    ray, needs, address = imported_ray(), task_needs(options, device), _address(options)
    with _naming_what_does_not_answer(address):
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
    try:
        _check_room(ray.nodes(), needs, tell, grows=address not in (None, "local"))
        return _fly(ray, store, tasks, needs=needs, device=device, watch=watch)
    finally:
        ray.shutdown()


def check_ray(options: Mapping[str, str]) -> None:
    """Raises InputError where Ray is not installed, or does not answer at the address of the cluster."""
    imported_ray()
    address = _address(options)
    with _naming_what_does_not_answer(address):
        _check_ray_listens(address or "")


def _address(options: Mapping[str, str]) -> str | None:
    """That of the cluster as Ray understands it, for which RAY_ADDRESS comes before auto."""
    address = options.get("address", "").strip() or None
    return os.environ.get("RAY_ADDRESS", "").strip() or address if address in (None, "auto") else address


@contextmanager
def _naming_what_does_not_answer(address: str | None) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"no Ray cluster answers at {address or 'this machine'}: {_said(error)}",
            hint="start one with `ray start --head`, or name another in --launcher-options address=HOST:PORT",
        ) from error


def _fly(
    ray: Any,
    store: Path,
    tasks: Sequence[Task],
    *,
    needs: dict[str, float],
    device: str,
    watch: Callable[[Progress], None],
) -> LaunchReport:
    train = ray.remote(max_retries=NODE_DEATHS, **needs)(_train)
    flight, place = _Flight(), str(store.resolve())
    launch = Launch(tasks, watch, flight.attempts)
    with noting_interrupts() as interrupted:
        while True:
            running = {task.run for task in flight.running.values()}
            ended, report = launch.look(running)
            if report and not running:
                return report
            if interrupted():
                _stop(ray, flight)
                raise KeyboardInterrupt
            room = max(0, _places(ray, needs) - len(running))
            for task in flight.attempts.ready(tasks, ended | running)[:room]:
                flight.running[train.remote(place, task.run, device)] = task
            _collect(ray, flight)


def _check_ray_listens(address: str) -> None:
    """Raises OSError or ValueError where an address HOST:PORT, of a cluster or its ray://, is not Ray's."""
    scheme, _, place = address.rpartition("://")
    found = urlsplit(f"//{place}")
    if scheme not in METHODS:
        return
    try:
        port = found.port
    except ValueError:  # whose words are of Python's integers
        raise ValueError("a port is a whole number up to 65,535") from None
    if found.hostname and port:
        with socket.create_connection((found.hostname, port), ANSWER_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() not in ("1", "true"):  # of which Ray has the keys
                _check_grpc(connection, METHODS[scheme], found.netloc)


def _check_grpc(connection: socket.socket, method: str, host: str) -> None:
    """Raises ConnectionError where what listens knows no such method; one that is too busy to answer may."""
    words = (bytes([len(word)]) + word.encode() for word in (method, host))
    call = _frame(HEADERS, 4, CALL % tuple(words)) + _frame(DATA, 1, bytes(5))  # the last of either
    connection.sendall(PREFACE + _frame(SETTINGS, 0, b"") + call)
    with connection.makefile("rb") as reader:
        answer = _frames(reader)
        first, _ = next(answer, (None, b""))
        headers = next((said for kind, said in answer if kind == HEADERS), OF_GRPC)
    if first != SETTINGS or OF_GRPC not in headers or UNKNOWN in headers:
        ports = "6379 is a cluster's, 10001 that of ray://"
        raise ConnectionError(f"something other than Ray listens there, or another of its ports ({ports})")


def _frame(kind: int, flags: int, said: bytes) -> bytes:
    return len(said).to_bytes(3, "big") + bytes([kind, flags, 0, 0, 0, kind != SETTINGS]) + said


def _frames(answer: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Type and payload of each frame, until the other side ends, falls silent or speaks no HTTP/2."""
    with suppress(TimeoutError, ConnectionError):
        while len(head := answer.read(9)) == 9 and (size := int.from_bytes(head[:3], "big")) <= MOST_BYTES:
            yield head[3], answer.read(size)  # which waits for all of them, as a recv need not


def _said(error: Exception) -> str:
    of_system = isinstance(error, OSError) and error.strerror
    return of_system or str(error).strip().partition("\n")[0]


def _check_room(
    nodes: Sequence[Mapping[str, Any]],
    needs: Mapping[str, float],
    tell: Callable[[str], None],
    *,
    grows: bool,
) -> None:
    """Where no node has what a task takes, Ray waits for one: told if one may join, else refused."""
    rooms = [node["Resources"] for node in nodes if node["Alive"]]
    if any(all(has.get(KINDS[name], 0.0) >= need for name, need in needs.items()) for has in rooms):
        return
    asked = " and ".join(f"{name}={need:g}" for name, need in needs.items() if need)
    if not grows:
        raise InputError(
            f"a Ray task takes {asked} here, which the Ray of this machine has not",
            hint="ask for less in --launcher-options, name a cluster there (address=auto), or train on cpu",
        )
    tell(f"a Ray task takes {asked}, which no node of the Ray cluster has: runs wait for one to join")


def _places(ray: Any, needs: Mapping[str, float]) -> int:
    """How many tasks the cluster can run at once; one at least, for a cluster that is still growing."""
    has = ray.cluster_resources()
    room = [has.get(KINDS[name], 0.0) / need for name, need in needs.items() if need]
    return max(1, int(min(room, default=1)))


def _collect(ray: Any, flight: _Flight) -> None:
    """Take in what has ended within POLL_SECONDS."""
    if not flight.running:
        time.sleep(POLL_SECONDS)
        return
    done, _ = ray.wait(list(flight.running), num_returns=1, timeout=POLL_SECONDS)
    for reference in done:
        task = flight.running.pop(reference)
        try:
            code = int(ray.get(reference))
        except ray.exceptions.RayError:  # its node died too often, or the worker could not be started
            code = -1
        flight.settle(task, code)


def _stop(ray: Any, flight: _Flight) -> None:
    """Ask every worker to save and leave, and wait for them."""
    for reference in flight.running:
        ray.cancel(reference, force=False)
    ray.wait(list(flight.running), num_returns=len(flight.running), timeout=STOP_SECONDS)


def _train(store: str, run: str, device: str) -> int:
    """One run on a node, in a process of its own: Ray's worker only waits for it."""
    command = [sys.executable, "-m", "llama_scale", "worker", run, "--store", store, "--device", device]
    process = subprocess.Popen(command, env={"OMP_NUM_THREADS": "1", **os.environ})
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait(STOP_SECONDS)
        raise


def task_needs(options: Mapping[str, str], device: str = "auto") -> dict[str, float]:
    """What a task takes of a node, by Ray's own names; raises InputError for what Ray does not take.

    A card to itself where it trains on cuda: Ray would start it on nodes without one otherwise.
    """
    known = {"num_cpus": 1.0, "num_gpus": 1.0 if device == "cuda" else 0.0}
    for name, text in options.items():
        if name == "address":
            continue
        if name not in known:
            raise InputError(
                f"--launcher-options has {name}, which Ray tasks do not take here",
                hint=f"use address, {', '.join(known)}, such as 'address=auto num_gpus=0.25'",
            )
        with suppress(ValueError):
            known[name] = float(text)
            if 0 <= known[name] < 1 or known[name] in range(1, MOST_NEEDED):
                continue
        raise InputError(
            f"--launcher-options: {name} is {text!r}, neither a whole number nor a part of one",
            hint=f"write {name}=1",
        )
    return known


def imported_ray() -> Any:
    """Ray, as we want it to behave; raises InputError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return import_module("ray")
    except ImportError:
        raise InputError(
            "Ray is not installed", hint="pip install 'llama-scale[ray]', or use --launcher local"
        ) from None
