"""Kernels in C for what a training step does between matrix products, and where they apply."""

from __future__ import annotations

from llama_scale.training.kernels.library import Absent, Library, library
from llama_scale.training.kernels.step import KernelObjective, supports

__all__ = ["Absent", "KernelObjective", "Library", "library", "supports"]
