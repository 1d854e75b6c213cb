"""LLaMA (Touvron et al. 2023, section 2.2), readable in one sitting.

Shapes: B sequences, T tokens, D width, H heads, K key-value heads, S head size, F hidden size of
SwiGLU, V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llama_scale.architecture import ModelConfig, Recompute
from llama_scale.training.compiling import compiled_part, start_compiling
from llama_scale.training.recompute import recomputed


class Attention(nn.Module):
    """Causal attention with rotary positions; K < H gives grouped queries, K = 1 multi-query."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = config.heads, config.kv_heads, config.head_size
        self.query = nn.Linear(config.width, config.heads * config.head_size, bias=False)
        self.key = nn.Linear(config.width, config.kv_heads * config.head_size, bias=False)
        self.value = nn.Linear(config.width, config.kv_heads * config.head_size, bias=False)
        self.output = nn.Linear(config.heads * config.head_size, config.width, bias=False)
        self.query_norm, self.key_norm = (
            nn.RMSNorm(config.head_size, config.norm_epsilon) if config.qk_norm else nn.Identity()
            for _ in range(2)
        )

    def forward(self, x_BTD: Tensor, rotation: tuple[Tensor, ...]) -> Tensor:
        batch, length, _ = x_BTD.shape
        q_BTHS = self.query(x_BTD).view(batch, length, self.heads, self.head_size)
        k_BTKS = self.key(x_BTD).view(batch, length, self.kv_heads, self.head_size)
        v_BTKS = self.value(x_BTD).view(batch, length, self.kv_heads, self.head_size)
        q_BTHS = rotate(self.query_norm(q_BTHS), rotation)
        k_BTKS = rotate(self.key_norm(k_BTKS), rotation)
        return self.output(attend(q_BTHS, k_BTKS, v_BTKS).flatten(2))


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x) (Shazeer 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.width, config.hidden, bias=False)
        self.up = nn.Linear(config.width, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))


class Block(nn.Module):
    """Attention, then SwiGLU, each on a normalised input and added to the residual stream.

    `recompute` says what of it the backward pass computes again.
    """

    def __init__(self, config: ModelConfig, recompute: Recompute = "none") -> None:
        super().__init__()
        self.recompute: Recompute = recompute
        self.attention_norm = nn.RMSNorm(config.width, config.norm_epsilon)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.RMSNorm(config.width, config.norm_epsilon)
        self.feed_forward = SwiGLU(config)
        self.output = block_output

    def forward(self, x_BTD: Tensor, rotation: tuple[Tensor, ...]) -> Tensor:
        return self.output(self, x_BTD, rotation)

    def through(self, x_BTD: Tensor, rotation: tuple[Tensor, ...]) -> Tensor:
        """The block itself, of which everything is kept."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotation)
        return x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD))


class Llama(nn.Module):
    """Token ids in, logits out; `compiled` has torch.compile fuse what a block does between its products."""

    def __init__(self, config: ModelConfig, *, recompute: Recompute = "none", compiled: bool = False) -> None:
        super().__init__()
        self.config, self.recompute, self.compiled = config, recompute, compiled
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config, recompute) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.norm_epsilon)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.tied_head:
            self.head.weight = self.embedding.weight
        self.register_buffer("rotation", rotary_table(config), persistent=False)
        self.losses = losses
        if compiled:
            start_compiling()
            self.losses, output = compiled_part(losses), compiled_part(block_output)
            for block in self.blocks:
                cast(Block, block).output = output

    def forward(self, tokens_BT: Tensor) -> Tensor:
        rotation = self.get_buffer("rotation")[:, : tokens_BT.shape[1]].unbind()
        x_BTD = self.embedding(tokens_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD, rotation)
        return self.head(self.norm(x_BTD))

    def loss(self, tokens_BT: Tensor, targets_BT: Tensor, reduction: str = "mean") -> Tensor:
        """Cross entropy in nats per token (or their sum, with reduction="sum")."""
        return cross_entropy(self(tokens_BT).flatten(0, 1), targets_BT.flatten(), reduction)

    def objective(self, tokens_BT: Tensor, targets_BT: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
        """What training descends, mean loss + `z_loss` x mean log^2 Z; and the loss alone, in nats."""
        return self.losses(self(tokens_BT).flatten(0, 1), targets_BT.flatten(), z_loss)


def block_output(block: Block, x_BTD: Tensor, rotation: tuple[Tensor, ...]) -> Tensor:
    """What `block` makes of x, keeping for the backward pass what its `recompute` says."""
    return recomputed(block.recompute, block.through, x_BTD, rotation)


def attend(q_BTHS: Tensor, k_BTKS: Tensor, v_BTKS: Tensor) -> Tensor:
    """Causal attention, [B, T, H, S]; each key-value head serves H / K heads in a row."""
    shared = q_BTHS.shape[2] // k_BTKS.shape[2]
    if shared > 1 and q_BTHS.is_cuda and q_BTHS.dtype == torch.float32:
        # Of the kernels that share heads none but the one that keeps all T x T weights takes 32 bits.
        k_BTKS, v_BTKS = (x.repeat_interleave(shared, 2) for x in (k_BTKS, v_BTKS))
    mixed_BHTS = F.scaled_dot_product_attention(
        q_BTHS.transpose(1, 2),
        k_BTKS.transpose(1, 2),
        v_BTKS.transpose(1, 2),
        is_causal=True,
        enable_gqa=k_BTKS.shape[2] != q_BTHS.shape[2],
    )
    return mixed_BHTS.transpose(1, 2)


def losses(logits_NV: Tensor, targets_N: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
    """Mean cross entropy + `z_loss` x mean log^2 Z; and the cross entropy alone, in nats.

    The second term keeps softmax's denominator Z near one (PaLM, section 5).
    """
    loss = cross_entropy(logits_NV, targets_N, "mean")
    return loss + z_loss * logits_NV.float().logsumexp(-1).square().mean() if z_loss else loss, loss


def cross_entropy(logits_NV: Tensor, targets_N: Tensor, reduction: str) -> Tensor:
    """Nats, in 32 bits whatever the logits have."""
    return F.cross_entropy(logits_NV.float(), targets_N, reduction=reduction)


def rotary_table(config: ModelConfig) -> Tensor:
    """Cosines and sines of position x theta^(-2i/S), [2, T, 1, S], the sines signed for `rotate`."""
    half = config.head_size // 2
    frequency = config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.outer(torch.arange(config.context, dtype=torch.float64), frequency)
    cosine = torch.cat([angle.cos(), angle.cos()], -1)
    sine = torch.cat([-angle.sin(), angle.sin()], -1)
    return torch.stack([cosine, sine])[:, :, None].float()


def rotate(x_BTHS: Tensor, rotation: tuple[Tensor, ...]) -> Tensor:
    """Rotary positions (Su et al. 2021), pairing channel i with i + S/2 as LLaMA in transformers does.

    In 32 bits whatever x has: 8 bits of mantissa do not hold the angle of a late position.
    """
    cosine, sine = rotation
    swapped = x_BTHS.roll(x_BTHS.shape[-1] // 2, -1)
    return torch.addcmul(x_BTHS * cosine, swapped, sine).to(x_BTHS.dtype)
