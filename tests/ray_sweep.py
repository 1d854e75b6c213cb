"""A sweep on a real Ray cluster of two nodes; one dies with all its processes while it trains.

Run by test_launch_ray.py in a network of its own: Ray looks for the machine's outer address otherwise.
Arguments: recipe, store.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

os.environ |= {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}

from llama_scale.launch import prepare_sweep, run_sweep
from llama_scale.runs import run_folders


def main() -> None:
    recipe, store = sys.argv[1], Path(sys.argv[2])
    memory = 80_000_000
    head = {"num_cpus": 0, "object_store_memory": memory, "include_dashboard": False}
    cluster = import_module("ray.cluster_utils").Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=memory) for _ in range(2)]

    def lose_a_node() -> None:
        while not any(folder.last_event() for folder in run_folders(store)):
            time.sleep(0.05)
        cluster.remove_node(nodes[1], allow_graceful=False)
        print("a node died", flush=True)

    prepared = prepare_sweep(recipe, store=store, workers=2, device="cpu")
    threading.Thread(target=lose_a_node, daemon=True).start()
    report = run_sweep(
        prepared, store=store, device="cpu", launcher="ray", launcher_options=f"address={cluster.address}"
    )
    print(f"failed: {list(report.failed)}", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
