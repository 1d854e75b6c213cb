from __future__ import annotations

import csv
from pathlib import Path

import pytest

from llama_scale.errors import InputError
from llama_scale.hardware import (
    accelerator,
    accelerator_names,
    accelerator_of_device,
    accelerators,
    nearest_names_hint,
)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        *(("h100", "H100-SXM"), ("A100", "A100-80GB-SXM"), ("a100 80", "A100-80GB-SXM")),
        *(("tpu-v5e", "TPUv5e"), ("NVIDIA H100", "H100-SXM"), ("nvidia-a100-80gb", "A100-80GB-SXM")),
    ],
)
def test_names_are_forgiving(asked: str, name: str) -> None:
    assert accelerator(asked).name == name


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "H100-SXM"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", None),
    ],
)
def test_a_part_of_a_card_and_a_slower_one_are_not_the_card(driver: str, name: str | None) -> None:
    found = accelerator_of_device(driver)
    assert (found and found.name) == name


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("Tesla V100-SXM2-16GB", "V100-SXM2"),
        ("Tesla V100-PCIE-32GB", None),
        ("Tesla V100-DGXS-32GB", None),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB-SXM"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB-SXM"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB-SXM"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA H200", "H200-SXM"),
        ("NVIDIA H800 PCIe", None),
        ("NVIDIA B300 SXM6 AC", "B300"),
    ],
)
def test_a_chip_in_another_form_is_meant_only_where_its_peaks_are_the_same(
    driver: str, name: str | None
) -> None:
    found = accelerator_of_device(driver)
    assert (found and found.name) == name


def test_an_unknown_name_gets_the_nearest_ones() -> None:
    with pytest.raises(InputError, match="unknown accelerator 'h1000'") as refused:
        accelerator("h1000")
    assert "H100-SXM" in refused.value.hint
    assert nearest_names_hint("zzzz", ("one", "two")) == "choose from: one, two"


def test_peaks_are_dense_and_by_precision() -> None:
    chip = accelerator("A100-40")
    assert chip.peak("bf16") == chip.peak("fp16") == 312e12
    assert chip.peak("int8") == 624e12
    with pytest.raises(InputError, match="no fp8 rate") as refused:
        chip.peak("fp8")
    assert "bf16, int8" in refused.value.hint
    with pytest.raises(InputError, match="no bf16 rate") as refused:
        accelerator("V100").peak("bf16")
    assert "models train in fp16" in refused.value.hint


def test_every_entry_is_whole() -> None:
    names = [word.lower() for chip in accelerators() for word in (chip.name, *chip.aliases)]
    assert len(names) == len(set(names))
    for chip in accelerators():
        assert 6e13 <= max(chip.peak_flops_per_second.values()) <= 2e16
        assert 2**33 < chip.memory_bytes < 2**39
        assert 2e11 < chip.bandwidth_bytes_per_second < 1e13
        assert chip.source
        if chip.price:
            assert chip.price.date
            assert chip.price.source
            known = [p for p in (chip.price.low, chip.price.reference, chip.price.high) if p is not None]
            assert known == sorted(known)


def test_figures_equal_the_reference_table(shared_data: Path) -> None:
    lines = (shared_data / "accelerators.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    assert [row["accelerator"] for row in rows] == list(accelerator_names())
    for row in rows:
        chip = accelerator(row["accelerator"])
        assert chip.peak("fp16") == pytest.approx(1e12 * float(row["bf16_tflops_dense"]))
        for precision in ("fp8", "int8", "fp4"):
            published = row[f"{precision}_{'tops' if precision == 'int8' else 'tflops'}_dense"]
            assert chip.peak_flops_per_second.get(precision, 0) == pytest.approx(1e12 * float(published or 0))
        assert chip.bandwidth_bytes_per_second == pytest.approx(1e12 * float(row["mem_bw_tb_s"]))
        assert chip.memory_bytes / 2**30 == pytest.approx(
            float(row["memory_gb"]), rel=0.07
        )  # labels of GDDR cards
        reference = chip.price.reference if chip.price else None
        assert (reference or 0) == float(row["usd_per_h_ref"] or 0)
