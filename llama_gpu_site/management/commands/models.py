"""`manage.py models`: the registry of models from the command line."""

from types import ModuleType
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from common.errors import ApiError
from llama_gpu_site.models_command import adding, benching, listing, loading, unloading
from models_mgmt.source_error import SourceError

COMMANDS: dict[str, ModuleType] = {
    "list": listing,
    "add": adding,
    "load": loading,
    "unload": unloading,
    "bench": benching,
}


class Command(BaseCommand):
    help = "List, register, load, unload and measure models."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        for name, module in COMMANDS.items():
            module.add_arguments(commands.add_parser(name, help=module.HELP, description=module.HELP))

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            COMMANDS[options["command"]].run(options, self.stdout)
        except (ApiError, SourceError) as error:
            raise CommandError(error.message) from error
