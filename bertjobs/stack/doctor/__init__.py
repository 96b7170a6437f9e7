"""The checks of `bertjobs doctor`; `examine.py` runs them all."""
