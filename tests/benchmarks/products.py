"""The arithmetic limit of a training step: its linear layers' matrix products and nothing else.

    forward     y = x W^T           of N tokens: N x I x O
    backward    dx = dy W, dW = dy^T x

Without padding, each at a shape that was multiplied before, so that nothing is set up for it. Attention's own
products (Q K^T and P V), some percent of these at SNLI's lengths, are left out.
"""

import time

import torch
from torch import Tensor

from bertjobs.modeling.config import BertConfig


class StepProducts:
    """The products of one step of fine-tuning, on tensors of their own."""

    def __init__(self, config: BertConfig, *, dtype: torch.dtype, max_tokens: int) -> None:
        D, F = config.hidden_size, config.intermediate_size
        self._dtype = dtype
        # Query, key, value, output, and both halves of the feed-forward network.
        self._layers = [
            [torch.randn(o, i).to(dtype) for o, i in ((D, D), (D, D), (D, D), (D, D), (F, D), (D, F))]
            for _ in range(config.num_hidden_layers)
        ]
        self._inputs = {size: torch.randn(max_tokens, size).to(dtype) for size in {D, F}}

    def run(self, *, num_tokens: int, num_rows: int) -> None:
        """Multiply; of the last layer, as in training, only keys and values for more than first tokens."""
        *lower, last = self._layers
        for layer in lower:
            for weight in layer:
                self._multiply(weight, num_tokens)
        for i, weight in enumerate(last):
            self._multiply(weight, num_tokens if i in (1, 2) else num_rows)

    def seconds(self, *, num_tokens: int, num_rows: int) -> tuple[float, float]:
        """Return wall and CPU time of the products of a step."""
        self.run(num_tokens=num_tokens, num_rows=num_rows)  # makes the primitives of these shapes
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        self.run(num_tokens=num_tokens, num_rows=num_rows)
        return time.perf_counter() - wall_s, time.process_time() - cpu_s

    def _multiply(self, weight: Tensor, num_tokens: int) -> None:
        num_outputs, num_inputs = weight.shape
        x, dy = self._inputs[num_inputs][:num_tokens], self._inputs[num_outputs][:num_tokens]
        torch.mm(x, weight.t())
        torch.mm(dy, weight)
        torch.mm(dy.t(), x)
