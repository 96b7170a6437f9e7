"""The rows of the word table that training can meet, kept together so that no step walks the whole table.

The word table is half of a small BERT, and a batch touches some hundred of its rows. Autograd adds a sparse
gradient into a dense one that is zero everywhere else; the touched rows are taken out of it, exchanged,
measured and stepped in a compact copy, and what was touched is cleared. A row that the training data never
uses has no gradient ever: like a head that the task does not use it is not trained, and not decayed either.

Legend: V vocabulary, U rows in use, T rows touched by one batch, D hidden size.
"""

import torch
from torch import Tensor, nn


class WordRows:
    """Compact views (U, D) of a word table's weights and gradients, in buffers that the optimizer owns."""

    def __init__(self, table: nn.Embedding, *, token_ids_U: Tensor) -> None:
        self.token_ids_U = token_ids_U
        """Sorted ids of all wordpieces that training can meet, special ones included."""
        self.parameter = table.weight
        self._touched_T: Tensor | None = None
        self._position_V = torch.full(
            (table.num_embeddings,), -1, dtype=torch.int64, device=token_ids_U.device
        )
        self._position_V[token_ids_U] = torch.arange(len(token_ids_U), device=token_ids_U.device)
        table.sparse = True  # gradients of the touched rows only; a dense one would cost 20 times as much
        table.weight.grad = torch.zeros_like(table.weight)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.token_ids_U), self.parameter.shape[1]))

    def place(self, weights_UD: Tensor, gradients_UD: Tensor) -> None:
        """Take the optimizer's buffers into use, the weights filled from the table."""
        self._weights_UD, self._gradients_UD = weights_UD, gradients_UD
        self.pull()

    def pull(self) -> None:
        """Copy the rows in use out of the table."""
        torch.index_select(self.parameter.data, 0, self.token_ids_U, out=self._weights_UD)

    def push(self) -> None:
        """Copy the rows in use, after a step, into the table that the model reads."""
        self.parameter.data.index_copy_(0, self.token_ids_U, self._weights_UD)

    def take_gradients(self, token_ids_T: Tensor) -> Tensor:
        """Move the gradients of these rows out of the table's gradient, which is zero again; (T, D)."""
        gradient_VD = self.parameter.grad
        assert gradient_VD is not None
        taken_TD = gradient_VD.index_select(0, token_ids_T)
        gradient_VD.index_fill_(0, token_ids_T, 0.0)
        return taken_TD

    def put_gradients(self, token_ids_T: Tensor, gradients_TD: Tensor) -> None:
        """Give the next step the gradients of these rows."""
        self._touched_T = self._position_V[token_ids_T]
        self._gradients_UD.index_copy_(0, self._touched_T, gradients_TD)

    def clear(self) -> None:
        """Forget the gradients that were put last."""
        if self._touched_T is not None:
            self._gradients_UD.index_fill_(0, self._touched_T, 0.0)
