"""One POST to a webhook, to the address that was checked and to no other: redirects are not followed."""

import asyncio
import contextlib
import ssl
from collections.abc import Mapping

from django.conf import settings

from jobs.webhook_addresses import Target, resolve

_MAX_STATUS_LINE = 8 * 1024


class BadAnswer(Exception):
    """What answered does not speak HTTP."""


async def post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """Send it and return the answer's status.

    Raises BlockedAddress, OSError (of TLS and timeouts too) and BadAnswer.
    """
    async with asyncio.timeout(settings.WEBHOOK_TIMEOUT_SECONDS):
        target = await asyncio.to_thread(resolve, url)
        return await _post(target, body, headers)


async def _post(target: Target, body: bytes, headers: Mapping[str, str]) -> int:
    is_secure = target.scheme == "https"
    reader, writer = await asyncio.open_connection(
        target.address,
        target.port,
        limit=_MAX_STATUS_LINE,
        ssl=ssl.create_default_context() if is_secure else None,
        server_hostname=target.host if is_secure else None,
    )
    try:
        fields = {"Host": target.host_header, **headers, "Content-Length": str(len(body)), "Connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"POST {target.path} HTTP/1.1\r\n{head}\r\n".encode("ascii") + body)
        await writer.drain()
        return _status_of(await reader.readline())
    except ValueError as error:  # a first line without an end
        raise BadAnswer("It does not answer in HTTP.") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _status_of(line: bytes) -> int:
    version, _, rest = line.partition(b" ")
    status = rest[:3]
    if not version.startswith(b"HTTP/1.") or not status.isdigit():
        raise BadAnswer("It does not answer in HTTP.")
    return int(status)
