"""bertjobs queues BERT work and runs it on a Ray cluster."""

__version__ = "0.1.0"
