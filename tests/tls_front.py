"""Speak TLS for a server that cannot: `python tls_front.py PORT SERVER_PORT CERTIFICATE KEY`.

Stands in tests before a redis-server that was built without TLS, on the same host.
"""

import asyncio
import contextlib
import ssl
import sys


async def serve(port: int, server_port: int, context: ssl.SSLContext) -> None:
    """Take connections on all addresses until killed."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", server_port)
        except OSError:
            writer.close()  # the server is down, and so are we
            return
        both = [
            asyncio.create_task(_carry(reader, behind_writer)),
            asyncio.create_task(_carry(behind_reader, writer)),
        ]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for end in (writer, behind_writer):
            end.close()

    server = await asyncio.start_server(take, "0.0.0.0", port, ssl=context)
    await server.serve_forever()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


if __name__ == "__main__":
    certificate = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.load_cert_chain(sys.argv[3], sys.argv[4])
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2]), certificate))
