"""`bertjobs top`: the queue on a terminal, with keys. Textual is imported only when it runs."""
