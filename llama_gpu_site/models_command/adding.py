"""`manage.py models add`."""

import argparse
from typing import Any, TextIO

from accounts.audit import commanding
from common.byte_sizes import format_bytes
from llama_gpu_site.models_command.progress_bar import ProgressBar
from models_mgmt.expected_memory import expected_memory
from models_mgmt.looking import describe
from models_mgmt.models import Model
from models_mgmt.services import register_model
from models_mgmt.sources import prepare

HELP = "Register a model."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        help="a repository of the hub (org/name), a GGUF file in one (org/name/file.gguf), a folder or GGUF file under "
        "a model root, or demo",
    )
    parser.add_argument("--id", default="", help="as requests will name it; by default as its source is called")
    parser.add_argument("--name", default="", help="for people")
    parser.add_argument("--kind", default="", choices=Model.SourceKind.values, help="what the source is")
    parser.add_argument("--type", default="", choices=Model.Type.values, help="by default as the files say")
    parser.add_argument("--revision", default="", help="branch, tag or commit of a repository")
    parser.add_argument("--alias", action="append", default=[], help="another name of it; may be given several times")
    parser.add_argument("--default", action="store_true", help="make it the default model")
    parser.add_argument("--pinned", action="store_true", help="never unload it for being idle or to make room")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that comes with the model")
    parser.add_argument("--allow-pickle", action="store_true", help="read weights stored as pickles")
    parser.add_argument("--prepare", action="store_true", help="download and convert it now, not when it is loaded")


def run(options: dict[str, Any], out: TextIO) -> None:
    described = describe(
        options["source"],
        kind=options["kind"],
        revision=options["revision"],
        trust_remote_code=options["trust_remote_code"],
        allow_pickle=options["allow_pickle"],
    )
    model = register_model(
        described,
        id=options["id"],
        name=options["name"],
        type=options["type"],
        default=options["default"],
        aliases=options["alias"],
        pinned=options["pinned"],
        trust_remote_code=options["trust_remote_code"],
        allow_pickle=options["allow_pickle"],
        actor=commanding("models add"),
    )
    out.write(f"{model.id} is registered: {_summary(model)}.\n")
    if options["prepare"]:
        bar = ProgressBar()
        try:
            prepare(model, bar)
        finally:
            bar.close()
        out.write(f"{model.id} is ready to be loaded.\n")


def _summary(model: Model) -> str:
    parts = [part for part in (model.architecture, model.size, model.type) if part]
    expected = expected_memory(model, "cpu")
    if expected is not None:
        parts.append(f"about {format_bytes(expected.estimate.total)} on a CPU")
    return ", ".join(parts) or model.source_kind
