"""Make the plain model fast on a CPU: the same numbers, in other operations.

Everything here has a plain counterpart in `bertjobs.modeling` or in torch, with which the tests compare it.
The plain model does not know this package.
"""
