#!/usr/bin/env python3
"""Speaks TLS on a loopback port for a server that speaks none, and asks every client for a certificate; for `check-examples`.

usage: tls-front.py TARGET_PORT AUTHORITY_PEM OWN_PEM      prints its own port, and ends when its standard input does
"""

import asyncio
import ssl
import sys

CHUNK_BYTES = 64 * 1024


async def pump(reader, writer):
    """Carries bytes one way until either side ends."""
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def main():
    port, authority, own = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(own)
    tls.load_verify_locations(authority)
    tls.verify_mode = ssl.CERT_REQUIRED

    async def serve(reader, writer):
        there, here = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, here), pump(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


asyncio.run(main())
