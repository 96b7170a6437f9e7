"""Make the plain model fast on a CPU: the same numbers, in other operations.

Everything here has a plain counterpart in `bertjobs.modeling` or in torch, with which the tests compare it.
The plain model does not know this package. docs/cpu.md says what each part does, and what it gains.
"""

from bertjobs.modeling.cpu.accelerate import accelerate, set_dropout, state_of, write_gradients
from bertjobs.modeling.cpu.dropout import DropoutPool, row_keys

__all__ = ["DropoutPool", "accelerate", "row_keys", "set_dropout", "state_of", "write_gradients"]
