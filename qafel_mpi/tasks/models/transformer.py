"""A decoder-only transformer: GPT-2's block (Radford et al. 2019), of any size."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.models.linear import Linear, linear
from qafel_mpi.tasks.targets import Signature

INITIAL_STD = 0.02


class Attention(nn.Module):
    """Causal self-attention of several heads."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.c_attn = Linear(width, 3 * width)
        self.c_proj = Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, positions, width = x.shape
        split = self.c_attn(x).view(n, positions, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).reshape(n, positions, width))


class Perceptron(nn.Module):
    """width to 4·width and back, with GELU in its tanh form."""

    def __init__(self, width: int):
        super().__init__()
        self.c_fc = Linear(width, 4 * width)
        self.c_proj = Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    """x + attention(norm(x)), then x + perceptron(norm(x)); dropout on both branches."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.ln_2, self.mlp = nn.LayerNorm(width), Perceptron(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attn(self.ln_1(x)))
        return x + self.dropout(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    """Token and position embeddings, `depth` blocks, a last norm, and logits.

    Tensors are named as GPT-2's; of its smallest size (12 blocks of width 768, 50,257 tokens, 1,024 positions) it
    has 124,439,808 parameters. Where a class is a token, the logits are products with the token embeddings (tied
    weights); else a linear layer makes them. each_position: logits at every position, (n, positions, classes);
    else at the last one, which has seen them all, (n, classes). Inputs: (n, positions) int64.
    """

    def __init__(
        self,
        vocabulary: int,
        positions: int,
        classes: int,
        *,
        depth: int,
        width: int,
        heads: int,
        each_position: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.each_position = each_position
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.dropout = nn.Dropout(dropout)
        self.h = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.ln_f = nn.LayerNorm(width)
        self.head = None if classes == vocabulary else Linear(width, classes)
        self._initialise(depth)

    def _initialise(self, depth: int) -> None:
        """N(0, 0.02²), smaller by √(2·depth) where a branch ends, so that the sum of all keeps its size."""
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=INITIAL_STD / math.sqrt(2 * depth))
            elif parameter.dim() > 1:
                nn.init.normal_(parameter, std=INITIAL_STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.dropout(self.wte(tokens) + self.wpe.weight[: tokens.shape[1]])
        for block in self.h:
            x = block(x)
        x = self.ln_f(x if self.each_position else x[:, -1])
        return linear(x, self.wte.weight) if self.head is None else self.head(x)


def transformer(config: TaskConfig, data: Signature) -> nn.Module:
    """Raises DataError where the examples are no sequences of tokens."""
    if data.vocabulary is None or len(data.shape) != 1:
        raise DataError(
            f"model transformer takes sequences of tokens, as stdlib-text has them; this data set's examples are "
            f"{data.shape} numbers (for messages of GPT-2's size without training: vectors:gpt2)"
        )
    (positions,) = data.shape
    if config.context is not None and config.context != positions:
        raise DataError(
            f"task.context = {config.context}, but this data set's examples have {positions} tokens; "
            "leave it out, and the model takes their length"
        )
    return Transformer(
        data.vocabulary,
        positions,
        data.classes,
        depth=config.depth,
        width=config.width,
        heads=config.heads,
        each_position=data.targets == "tokens",
        dropout=config.dropout,
    )
