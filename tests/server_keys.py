"""Users and keys of a running server, made as its operator could: `python -m tests.server_keys JSON` beside it."""

import json
import os
import subprocess
import sys
from typing import Any

from tests.running_server import ROOT, RunningServer


def make_keys(server: RunningServer, *wanted: dict[str, Any]) -> list[str]:
    """A key for each description: the fields of an ApiKey, and the `owner`'s name (a new operator, if unknown)."""
    output = subprocess.run(
        [sys.executable, "-m", "tests.server_keys", json.dumps(wanted)],
        cwd=ROOT,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "llama_gpu_site.settings",
            "LLAMA_GPU_DATA_DIR": str(server.data_dir),
        },
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    ).stdout
    keys: list[str] = json.loads(output)
    return keys


def _make(description: dict[str, Any]) -> str:
    from accounts.keys import create_api_key
    from accounts.models import ApiKey, Role, User

    fields = {"permission": "write", "name": "test", **description}
    name = fields.pop("owner", "operator")
    owner = User.objects.filter(username=name).first() or User.objects.create_user(name, role=Role.OPERATOR)
    made = {field: fields.pop(field) for field in ("name", "permission", "tier") if field in fields}
    row, key = create_api_key(owner=owner, **made)
    ApiKey.objects.filter(pk=row.pk).update(**fields)
    return key


if __name__ == "__main__":
    import django

    django.setup()
    print(json.dumps([_make(description) for description in json.loads(sys.argv[1])]))
