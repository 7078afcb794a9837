"""`manage.py up`: the whole server in the foreground."""

import sys
from typing import Any

from django.core.management.base import BaseCommand

from llama_gpu_site.supervisor.console import Console
from llama_gpu_site.supervisor.failure import StartError
from llama_gpu_site.supervisor.supervisor import Supervisor


class Command(BaseCommand):
    help = "Prepare everything, start the server's processes and keep them running until Ctrl-C."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            status = Supervisor(Console()).run()
        except StartError as error:
            sys.exit(str(error))
        sys.exit(status)
