"""The server of `bertjobs web`: the page's files, and the API that the page and the command line share.

One process on aiohttp's event loop. What it answers is computed by the functions that the commands use; calls
of Redis and of storage run in a few threads beside the loop.
"""
