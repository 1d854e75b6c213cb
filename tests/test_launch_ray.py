"""A sweep on a real Ray cluster that loses a node ends with the records of one that nothing happened to."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from recipes import write_recipe

from llama_scale.errors import InputError
from llama_scale.launch import option_words, prepare_sweep, run_sweep
from llama_scale.launch.on_ray import METHODS, _check_room, _Flight, check_ray, task_needs
from llama_scale.launch.tasks import ATTEMPTS
from llama_scale.runs import EXIT_DONE, read_records


def missing() -> str | None:
    """Why no Ray cluster can be started here; None if one can."""
    if importlib.util.find_spec("ray") is None:
        return "Ray is not installed: pip install 'llama-scale[ray]'"
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return "a network of its own needs unshare and ip (Debian packages util-linux and iproute2)"
    return None if os.geteuid() == 0 else "a network of its own needs root"


needs_ray = pytest.mark.skipif(bool(missing()), reason=str(missing()))


def alone_on_the_net(*words: str) -> subprocess.CompletedProcess[str]:
    """What Python said to `words` in a network of its own."""
    inner = 'ip link set lo up && exec "$@"'
    command = ["unshare", "-n", "bash", "-c", inner, "-", sys.executable, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@needs_ray
def test_a_sweep_survives_the_death_of_a_node(tmp_path: Path) -> None:
    recipe, store, calm = write_recipe(tmp_path / "recipe"), tmp_path / "runs", tmp_path / "calm"
    done = alone_on_the_net(str(Path(__file__).with_name("ray_sweep.py")), str(recipe), str(store))
    assert done.returncode == 0, done.stderr[-4000:]
    assert "a node died" in done.stdout and "failed: []" in done.stdout
    run_sweep(prepare_sweep(recipe, store=calm, workers=2, device="cpu"), store=calm, device="cpu")
    assert read_records(store) == read_records(calm)


@needs_ray
def test_a_card_that_this_machine_has_not_is_not_waited_for(tmp_path: Path) -> None:
    words = ["sweep", str(write_recipe(tmp_path)), "--store", str(tmp_path / "runs"), "--launcher", "ray"]
    done = alone_on_the_net(
        "-m", "llama_scale", *words, "--device", "cuda", "--launcher-options", "num_gpus=7"
    )
    assert done.returncode == 2
    refused = "a Ray task takes num_cpus=1 and num_gpus=7 here, which the Ray of this machine has not"
    assert refused in done.stderr


@needs_ray
@pytest.mark.parametrize(
    ("option", "environment", "address"),
    [
        ("auto", None, "auto"),
        (None, "no-host-of-ours", "no-host-of-ours"),
        ("127.0.0.1:1", "no-host-of-ours", "127.0.0.1:1"),
        ("auto", "127.0.0.1:1", "127.0.0.1:1"),
        ("ray://127.0.0.1:1", None, "ray://127.0.0.1:1"),
    ],
)
def test_a_cluster_that_is_not_there_is_named(
    tmp_path: Path,
    option: str | None,
    environment: str | None,
    address: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At once: Ray would ask a port where nothing listens for longer than the test waits."""
    words = ["sweep", str(write_recipe(tmp_path)), "--store", str(tmp_path / "runs"), "--launcher", "ray"]
    if environment:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    if option:
        words += ["--launcher-options", f"address={option}"]
    done = alone_on_the_net("-m", "llama_scale", *words)
    assert done.returncode == 2
    assert f"error: no Ray cluster answers at {address}: " in done.stderr and "ray start" in done.stderr
    is_a_port = ":" in address  # which is asked before a text is cut into tokens
    assert is_a_port != (tmp_path / "runs" / "data").exists()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1 ", "at 127.0.0.1:1: Connection refused"),
        (" ray://127.0.0.1:1", "at ray://127.0.0.1:1: Connection refused"),
        ("127.0.0.1:port", "at 127.0.0.1:port: a port is a whole number up to 65,535"),
        ("127.0.0.1:65536", "at 127.0.0.1:65536: a port is a whole number up to 65,535"),
    ],
)
@pytest.mark.parametrize("is_set", [False, True])
def test_an_address_may_have_blanks_about_it_but_no_port_of_words(
    address: str, said: str, is_set: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_scale.launch.on_ray.imported_ray", lambda: None)
    monkeypatch.setenv("RAY_ADDRESS", address if is_set else "")
    with pytest.raises(InputError) as refused:
        check_ray({"address": " auto" if is_set else address})
    assert refused.value.message == f"no Ray cluster answers {said}"


@pytest.mark.parametrize(
    "greeting", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", None]
)
def test_what_is_not_ray_is_not_waited_for(greeting: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that answers in other words, hangs up, or (None) listens and says nothing."""
    monkeypatch.setattr("llama_scale.launch.on_ray.imported_ray", lambda: None)
    monkeypatch.setattr("llama_scale.launch.on_ray.ANSWER_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(greeting or b"")

        greeter = threading.Thread(target=answer)
        if greeting is not None:  # else the system itself takes the connection
            greeter.start()
        with pytest.raises(InputError, match="something other than Ray listens there"):
            check_ray({"address": f"127.0.0.1:{server.getsockname()[1]}"})
        if greeting is not None:
            greeter.join()


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_what_speaks_grpc_and_is_not_ray_is_not_waited_for(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the port of ray:// clients, named without it: Ray would ask it for minutes."""
    grpc = pytest.importorskip("grpc")
    monkeypatch.setattr("llama_scale.launch.on_ray.imported_ray", lambda: None)
    server = grpc.server(ThreadPoolExecutor(1))
    address = f"{scheme}127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    with pytest.raises(InputError, match="something other than Ray listens there"):
        check_ray({"address": address})
    service, _, method = METHODS[scheme.partition(":")[0]][1:].partition("/")
    knows = grpc.unary_unary_rpc_method_handler(lambda request, context: request)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: knows})])
    check_ray({"address": address})
    server.stop(None).wait()


def test_the_first_words_of_a_cluster_may_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As through a tunnel: its settings, empty here, are nine bytes."""
    monkeypatch.setattr("llama_scale.launch.on_ray.imported_ray", lambda: None)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"\0\0\0\4")
                time.sleep(0.1)
                connection.sendall(b"\0\0\0\0\0")

        cluster = threading.Thread(target=answer)
        cluster.start()
        check_ray({"address": f"127.0.0.1:{server.getsockname()[1]}"})
        cluster.join()


def test_what_no_node_of_a_cluster_has_is_told() -> None:
    told: list[str] = []
    card = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}}
    for nodes in ([], [{**card, "Alive": False}], [card]):
        _check_room(nodes, task_needs({}, "cuda"), told.append, grows=True)
    waits = "a Ray task takes num_cpus=1 and num_gpus=1, which no node of the Ray cluster has"
    assert [one.partition(":")[0] for one in told] == [waits] * 2


JOINING = """
import os, sys
from importlib import import_module
from pathlib import Path
from llama_scale.launch.on_ray import launch_on_ray
head = {"num_cpus": 0, "object_store_memory": 80_000_000, "include_dashboard": False}
cluster = import_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args=head)
os.environ["RAY_ADDRESS"] = cluster.address
launch_on_ray(Path(sys.argv[1]), [], options={}, device="cuda", watch=lambda progress: None, tell=print)
cluster.shutdown()
"""


@needs_ray
def test_a_cluster_that_the_environment_names_may_grow(tmp_path: Path) -> None:
    """As one whose nodes are started when tasks ask for them: its head has no card."""
    done = alone_on_the_net("-c", JOINING, str(tmp_path))
    assert done.returncode == 0, done.stderr[-4000:]
    assert "which no node of the Ray cluster has: runs wait for one to join" in done.stdout


def test_a_run_that_ends_well_and_is_not_finished_is_given_up(tmp_path: Path) -> None:
    task, *_ = prepare_sweep(write_recipe(tmp_path), store=tmp_path / "runs", device="cpu").tasks
    flight = _Flight()
    for _ in range(ATTEMPTS):
        flight.settle(task, EXIT_DONE)
    assert flight.attempts.failed([task], ()) == (task.run,)


def test_where_ray_is_missing_it_is_named(tmp_path: Path) -> None:
    words = ["sweep", str(write_recipe(tmp_path)), "--launcher", "ray", "--store", str(tmp_path / "runs")]
    without = "import sys; sys.modules['ray'] = None; from llama_scale.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", without, *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2 and "Ray is not installed" in done.stderr


@pytest.mark.parametrize("option", ["num_tpus=1", "num_cpus=nan", "num_gpus=1.5", "num_cpus=-1", "num_gpus"])
def test_options_that_ray_tasks_do_not_take_are_named(option: str) -> None:
    with pytest.raises(InputError, match=option.partition("=")[0]):
        option_words("ray", f"address=auto {option}")


def test_what_ray_tasks_take_is_read() -> None:
    assert option_words("ray", "num_gpus=0.25 num_cpus=2") == ["num_gpus=0.25", "num_cpus=2"]
    assert task_needs({"num_gpus": "0.25", "num_cpus": "2"}) == {"num_gpus": 0.25, "num_cpus": 2.0}
