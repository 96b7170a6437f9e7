"""The step loop, optimizer, schedule, checkpoints, evaluation, metrics and pictures of one training run.

Knows torch and the rooms `text` and `modeling`; knows nothing of Ray, Redis or the command line. Who calls it
gives it folders to write to and `Hooks` to report through.
"""
