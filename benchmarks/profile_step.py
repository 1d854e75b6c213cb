"""Where the time of one of our training steps goes, beside what the machine could do it in.

    python benchmarks/profile_step.py --device cuda [--sizes 400M 1B] [--context 1024] [--eager]
    python benchmarks/profile_step.py --sizes 1M --context 256    # torch's own part on a CPU

"floor" is the larger of two: the step's FLOPs at the rate of the machine's best matrix product, and the bytes
of weights, gradients and moments that an update has to read and write at the rate of its best copy. Kernels
are told apart by their names; "waiting" is the time of a step in which none of them ran.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

from contestants import Contestant, trainer_of
from train_step import CPU_SIZES, GPU_SIZES, Size, machine, matrix_product_flops

STEPS, WARM = 5, 5
KINDS = {  # the first that matches a kernel's name, or on a CPU an operator's
    "compiled": r"^triton_|Compiled",  # first: named by all that they fuse, be it beside attention
    "attention": r"flash|fmha|attention|sdpa",
    "products": r"gemm|gemv|cutlass|nvjet|xmma|::(?:mm|addmm|bmm|linear)\b|mkl|dnnl",
    "update": r"adam|multi_tensor|foreach|NormTwoOps|linalg_vector_norm",
    "copies": r"memcpy|memset|::copy_|::_to_copy|copy_kernel",
}


def main() -> None:
    asked = arguments()
    if asked.device == "cpu":
        os.environ["LLAMA_SCALE_KERNELS"] = "off"  # the profiler sees torch's operators, not our kernels
    known = GPU_SIZES if asked.device == "cuda" else CPU_SIZES
    flops, copied = matrix_product_flops(asked.device, asked.precision), copy_bytes(asked.device)
    found: dict[str, Any] = {"machine": machine(asked.device), "product_flops": flops, "copy_bytes": copied}
    found["steps"] = []
    print(f"matrix products {flops / 1e12:.3g} TFLOP/s, copies {copied / 1e9:.3g} GB/s", file=sys.stderr)
    print(f"| size | how | step, ms | floor, ms | {' | '.join([*KINDS, 'other', 'waiting'])} |")
    print("|---" * (4 + len(KINDS) + 2) + "|")
    for size in (one for one in known if one.name in asked.sizes):
        for compiled in (False,) if asked.eager else (False, True):
            contestant = Contestant(
                who="llama-scale", compiled=compiled, precision=asked.precision, device=asked.device
            )
            row = profiled(contestant, size, asked.context, asked.top, flops, copied)
            found["steps"].append(row)
            print(line(row), flush=True)
            if asked.json:
                asked.json.write_text(json.dumps(found, indent=2))


def profiled(
    contestant: Contestant, size: Size, context: int, top: int, flops: float, copied: float
) -> dict[str, Any]:
    """Milliseconds of a step by the clock and by kind, and the kernels that take most."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    torch.set_num_threads(1)
    model = size.model(8192 if contestant.device == "cuda" else 256, context)
    trainer = trainer_of(contestant, model, size.sequences)

    def take(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            trainer.advance()
        trainer.collect()  # waits for the device
        return (time.perf_counter() - began) / steps

    take(WARM)
    seconds = min(take(STEPS) for _ in range(3))
    on_gpu = contestant.device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        take(STEPS)
    taken = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / STEPS / 1e3
        for event in seen.key_averages()
        if not event.is_user_annotation  # spans that kernels lie in
    }
    if not any(taken.values()):
        raise SystemExit("torch's profiler saw no kernel: it may lack the right to the card (CUPTI)")
    by_kind = dict.fromkeys([*KINDS, "other"], 0.0)
    for name, milliseconds in taken.items():
        by_kind[kind_of(name)] += milliseconds
    tokens = size.sequences * context
    of_flops = tokens * model.train_flops_per_token(context // 2) / flops
    of_bytes = update_bytes(model.parameters.total, contestant.precision) / copied
    return {
        "size": size.name,
        "how": f"{contestant.precision}{', compiled' if contestant.compiled else ''}",
        "milliseconds": seconds * 1e3,
        "floor": max(of_flops, of_bytes) * 1e3,
        "floor_of_flops": of_flops * 1e3,
        "floor_of_bytes": of_bytes * 1e3,
        "by_kind": by_kind | {"waiting": max(0.0, seconds * 1e3 - sum(by_kind.values()))},
        "longest": dict(sorted(taken.items(), key=lambda item: -item[1])[:top]),
    }


def kind_of(name: str) -> str:
    """What a kernel is for, by its name."""
    return next((kind for kind, words in KINDS.items() if re.search(words, name, re.IGNORECASE)), "other")


def update_bytes(parameters: float, precision: str) -> float:
    """Of AdamW, which reads weights, gradients and two moments of 32 bits and writes all but gradients.

    In bf16 the model's weights are written anew, and its gradients read and added up in 32 bits, too.
    """
    return parameters * (7 * 4 + (2 + 2 + 4 + 4 if precision == "bf16" else 0))


def copy_bytes(device: str) -> float:
    """Bytes a second, read and written, of the best of some large copies."""
    import torch

    source = torch.empty(1 << (30 if device == "cuda" else 27), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * source.numel() / best


def line(row: dict[str, Any]) -> str:
    cells = [row["size"], row["how"], f"{row['milliseconds']:.3g}", f"{row['floor']:.3g}"]
    return f"| {' | '.join([*cells, *(f'{value:.3g}' for value in row['by_kind'].values())])} |"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sizes", nargs="+")
    parser.add_argument("--context", type=int)
    parser.add_argument("--precision", choices=("f32", "bf16"))
    parser.add_argument("--eager", action="store_true", help="nothing compiled")
    parser.add_argument("--top", type=int, default=12, help="how many kernels to name in the JSON")
    parser.add_argument("--json", type=Path, help="where to write all figures")
    asked = parser.parse_args()
    on_gpu = asked.device == "cuda"
    known = [size.name for size in (GPU_SIZES if on_gpu else CPU_SIZES)]
    if unknown := set(asked.sizes or ()) - set(known):
        parser.error(f"no size is called {', '.join(unknown)}: use {', '.join(known)}")
    asked.sizes = asked.sizes or (["100M", "400M", "1B"] if on_gpu else ["1M"])
    asked.context = asked.context or (1024 if on_gpu else 256)
    asked.precision = asked.precision or ("bf16" if on_gpu else "f32")
    return asked


if __name__ == "__main__":
    main()
