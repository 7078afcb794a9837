"""Which processes a server consists of."""

import os
import sys
from pathlib import Path

from llama_gpu_site.supervisor.child import ChildSpec

# The supervisor alone needs these; what its processes don't know, they can't leak.
_NOT_INHERITED = ("LLAMA_GPU_ADMIN_PASSWORD", "LLAMA_GPU_API_KEY")


def child_environment(redis_url: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    return inherited | {"REDIS_URL": redis_url, "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"}


def server_processes(
    *, manage: Path, environment: dict[str, str], devices: list[str], web_processes: int, listening_fd: int
) -> list[ChildSpec]:
    """Workers first: the model they load is what takes longest."""

    def django(name: str, *arguments: str, pass_fds: tuple[int, ...] = ()) -> ChildSpec:
        return ChildSpec(name, (sys.executable, str(manage), *arguments), environment, pass_fds)

    workers = [
        django(f"worker-{device}", "worker", "--device", device, "--workers-on-host", str(len(devices)))
        for device in devices
    ]
    names = ["web"] if web_processes == 1 else [f"web-{number}" for number in range(1, web_processes + 1)]
    webs = [django(name, "web", "--fd", str(listening_fd), pass_fds=(listening_fd,)) for name in names]
    return [*workers, *webs, django("scheduler", "scheduler")]
