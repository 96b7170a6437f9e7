"""From source files to batches of integers: tasks, readers, tokenizers, truncation, encoding, batching.

Knows numpy, pyarrow and the `tokenizers` library; knows no torch model, no Ray, no queue.
"""
