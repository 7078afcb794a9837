"""`manage.py web`: one web process."""

import socket
from argparse import ArgumentParser
from typing import Any

# Comes first: it installs the asyncio reactor.
from llama_gpu_site.web_server import WebServer  # isort: skip

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    help = "Serve REST, streams, sockets and pages on LLAMA_GPU_HOST and LLAMA_GPU_PORT."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--fd", type=int, help="a bound socket to listen on instead, inherited from the supervisor")

    def handle(self, *args: Any, **options: Any) -> None:
        from common.body_limits import body_limit
        from common.metrics import Flusher
        from inference.gateway import close_gateway
        from llama_gpu_site.asgi import application
        from llama_gpu_site.handover import Handover
        from monitoring.event_hub import close_hub
        from monitoring.logs import keep_log
        from monitoring.socketio_server import event_server, process_of_request

        async def shut_down() -> None:
            await close_hub()
            await close_gateway()

        keep_log("web")
        inherited = socket.socket(fileno=options["fd"]) if options["fd"] is not None else None
        server = WebServer(
            application,
            address=None if inherited else (settings.HOST, settings.PORT),
            listening_socket=inherited,
            slow_reader_seconds=settings.SLOW_READER_SECONDS,
            body_limit=body_limit,
            on_shutdown=shut_down,
            handover=Handover(event_server().process_id, process_of_request),
            websocket_max_message_size=settings.MAX_SOCKET_MESSAGE_BYTES,
        )
        flusher = Flusher()
        flusher.start()
        try:
            server.run()
        except OSError as error:
            raise CommandError(f"Port {settings.PORT} can't be listened on: {error.strerror or error}.") from error
        finally:
            flusher.stop()
        if server.failure:
            raise CommandError(
                f"Port {settings.PORT} on {settings.HOST} can't be listened on: {server.failure.rstrip('.')}."
            )
