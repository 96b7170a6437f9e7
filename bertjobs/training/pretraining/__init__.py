"""Pretraining: examples made on the fly from an encoded corpus, the loop over them, and their metrics."""
