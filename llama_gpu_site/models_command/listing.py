"""`manage.py models list`."""

import argparse
import json
from typing import Any, TextIO

from common.byte_sizes import format_bytes
from llama_gpu_site.models_command.running import workers_if_any
from llama_gpu_site.models_command.table import table
from models_mgmt.expected_memory import best_kind, expected_memory
from models_mgmt.live import LiveModel, with_workers
from models_mgmt.models import Model
from models_mgmt.selectors import find_models, known_deployments
from models_mgmt.serializers import shown_source, summary_body

HELP = "Show the models, and which of them are loaded."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("search", nargs="?", default="", help="a part of an id, name, alias or architecture")
    parser.add_argument("--loaded", action="store_true", help="only models that are loaded")
    parser.add_argument("--disabled", action="store_true", help="the disabled models instead")
    parser.add_argument("--json", action="store_true", help="as JSON, as GET /api/v1/models answers")


def run(options: dict[str, Any], out: TextIO) -> None:
    workers = workers_if_any()
    kind = best_kind(workers or ())
    found = find_models(search=options["search"], enabled=not options["disabled"])
    # Without a server nothing runs, and nothing is lost.
    models = with_workers(found, workers or (), () if workers is None else known_deployments())
    if options["loaded"]:
        models = [model for model in models if model.is_loaded]
    if options["json"]:
        out.write(json.dumps([summary_body(model, kind) for model in models], indent=2) + "\n")
        return
    if not models:
        out.write("There are none.\n")
        return
    rows = [[*_names(live.model), live.model.size or "–", live.model.type, *_memory(live, kind)] for live in models]
    out.write(table(("ID", "ALIASES", "SOURCE", "SIZE", "TYPE", "STATE", "MEMORY"), rows) + "\n")


def _names(model: Model) -> tuple[str, str, str]:
    aliases = [alias.name for alias in model.aliases.all()]
    return (
        f"{model.id} (default)" if model.is_default else model.id,
        ", ".join(aliases) or "–",
        shown_source(model) or model.source_kind,
    )


def _memory(live: LiveModel, kind: Any) -> tuple[str, str]:
    state = f"{live.state} on {', '.join(live.places)}" if live.places else live.state
    if live.lost_on:
        lost = f"lost on {', '.join(live.lost_on)}"
        state = lost if live.state == "lost" else f"{state}, {lost}"
    if live.memory_bytes:
        return state, format_bytes(live.memory_bytes)
    expected = expected_memory(live.model, kind)
    return state, f"~{format_bytes(expected.estimate.total)}" if expected else "–"
