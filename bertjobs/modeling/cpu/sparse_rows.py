"""Keep the rows of the word table that the training data uses in a compact copy, and step only those.

The word table is half of a small BERT, and a batch touches a few hundred of its rows. Autograd adds a sparse
gradient into a dense one that is zero everywhere else. The touched rows are moved out of it, summed over the
ranks, measured and stepped in the compact copy. A row that the training data never uses never has a gradient:
like a head that the task does not use, it is neither trained nor decayed.

Shape suffixes: V: vocabulary. U: rows in use. T: rows touched by one batch. D: hidden size.
"""

import torch
from torch import Tensor, nn


class SparseRows:
    """Compact weights and gradients (U, D) of a word table, in buffers that the optimizer owns."""

    def __init__(self, table: nn.Embedding, *, token_ids_U: Tensor) -> None:
        self.token_ids_U = token_ids_U
        """Sorted ids of all wordpieces of the training data, special ones included."""
        self.parameter = table.weight
        self._touched_T: Tensor | None = None
        # Maps an id to its row in the compact copy; -1 where the training data does not use it.
        self._row_of_id_V = torch.full(
            (table.num_embeddings,), -1, dtype=torch.int64, device=token_ids_U.device
        )
        self._row_of_id_V[token_ids_U] = torch.arange(len(token_ids_U), device=token_ids_U.device)
        table.sparse = True  # gradients of the touched rows only; a dense one would cost 20 times as much
        # Allocated once (V, D): autograd adds the sparse gradients into it in place.
        table.weight.grad = torch.zeros_like(table.weight)

    @property
    def shape(self) -> torch.Size:
        """(U, D)."""
        return torch.Size((len(self.token_ids_U), self.parameter.shape[1]))

    def attach(self, weights_UD: Tensor, gradients_UD: Tensor) -> None:
        """Use the optimizer's buffers from now on, the weights filled from the table."""
        self._weights_UD, self._gradients_UD = weights_UD, gradients_UD
        self.copy_from_table()

    def copy_from_table(self) -> None:
        """Copy the rows in use out of the table, after its weights were loaded."""
        torch.index_select(self.parameter.data, 0, self.token_ids_U, out=self._weights_UD)

    def copy_to_table(self) -> None:
        """Copy the rows in use, after a step, into the table that the model reads."""
        self.parameter.data.index_copy_(0, self.token_ids_U, self._weights_UD)

    def take_gradients(self, token_ids_T: Tensor) -> Tensor:
        """Move the gradients of these rows (T, D) out of the table's gradient, which is zero again."""
        gradient_VD = self.parameter.grad
        assert gradient_VD is not None
        taken_TD = gradient_VD.index_select(0, token_ids_T)
        # Only these T rows can be non-zero, so this clears all of it.
        gradient_VD.index_fill_(0, token_ids_T, 0.0)
        return taken_TD

    def put_gradients(self, token_ids_T: Tensor, gradients_TD: Tensor) -> None:
        """Write the gradients of these rows where the optimizer reads them."""
        # Kept for `zero_grad`: the next step touches other rows, and these must not be stepped again.
        self._touched_T = self._row_of_id_V[token_ids_T]
        self._gradients_UD.index_copy_(0, self._touched_T, gradients_TD)

    def zero_grad(self) -> None:
        """Set the gradients that `put_gradients` wrote last to zero; all others are zero already."""
        if self._touched_T is not None:
            self._gradients_UD.index_fill_(0, self._touched_T, 0.0)
