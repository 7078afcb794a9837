"""What the server has made of a model's files, its conversion, and how to be rid of it. What others made stays."""

import shutil
from pathlib import Path

from django.conf import settings

from models_mgmt.conversion import is_conversion
from models_mgmt.deployments import send
from models_mgmt.file_lock import exclusive
from models_mgmt.models import Model
from models_mgmt.presence import live_workers

REMOVE_TASK = "models_mgmt.tasks.remove_conversion"
_CONVERTED = (Model.SourceKind.GGUF, Model.SourceKind.HUB, Model.SourceKind.DEMO)


def conversion_of(model: Model) -> str:
    """Where the conversion of a model's files lies, under the models folder; "" for one that has none of its own."""
    folder = Path(model.path)
    if model.source_kind not in _CONVERTED or not model.path or not folder.is_relative_to(settings.MODELS_DIR):
        return ""
    if Model.objects.filter(path=model.path).exclude(pk=model.pk).exists():
        return ""
    return str(folder.relative_to(settings.MODELS_DIR))


def remove_everywhere(place: str) -> int:
    """Remove a conversion from this host, and have the workers of other hosts do so; returns the bytes freed here."""
    others = {worker.host: worker for worker in live_workers() if worker.host != settings.WORKER_HOST}
    for worker in others.values():
        send(REMOVE_TASK, worker, place)
    return remove(place)


def remove(place: str) -> int:
    """Remove a conversion from this host, if it is there; returns the bytes freed. Nothing else is ever removed."""
    folder = settings.MODELS_DIR / place
    if not place or ".." in folder.parts or not is_conversion(folder):
        return 0
    with exclusive(folder.with_name(f".{folder.name}.lock")):
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        shutil.rmtree(folder, ignore_errors=True)
    return size
