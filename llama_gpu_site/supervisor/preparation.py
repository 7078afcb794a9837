"""Everything that is done and checked before the first process is started."""

import socket
from dataclasses import dataclass

import redis
from django.conf import settings
from django.db import connections

from llama_gpu_site.supervisor import provision
from llama_gpu_site.supervisor.child import ChildSpec
from llama_gpu_site.supervisor.console import Console
from llama_gpu_site.supervisor.failure import StartError
from llama_gpu_site.supervisor.instance import DataDirLock, InstanceFile, check_data_dir, reserve_port
from llama_gpu_site.supervisor.processes import child_environment, server_processes
from llama_gpu_site.supervisor.valkey import prepare_valkey
from models_mgmt.devices import discover_devices, is_device

# What valkey writes at every start and end, whatever its log level.
_VALKEY_NOISE = ("overcommit", "signal-handler", "ready to exit")


@dataclass(frozen=True)
class Plan:
    """What the preparation came to: what to start, what to show, and what to hand back at the end."""

    specs: list[ChildSpec]
    redis_url: str
    model_id: str
    credentials: provision.Credentials
    access_token: str
    lock: DataDirLock
    sock: socket.socket
    instance: InstanceFile

    def close(self) -> None:
        self.instance.remove()
        self.sock.close()
        self.lock.close()


def prepare(console: Console) -> Plan:
    """Claim the data folder and the port, and set up what the processes need. Raises StartError."""

    def say(text: str) -> None:
        console.line("up", text)

    devices = discover_devices(settings.DEVICES)
    check_devices(devices)
    check_data_dir(settings.DATA_DIR)
    lock = DataDirLock(settings.DATA_DIR, console=console)
    instance = InstanceFile(settings.DATA_DIR)
    instance.remove()  # a killed supervisor's
    sock = reserve_port(settings.HOST, settings.PORT)
    valkey = prepare_valkey(settings.DATA_DIR) if settings.EMBEDDED_REDIS else None
    if valkey is None:
        check_redis(settings.REDIS_URL)
    credentials = provision.provision_database(say)
    if credentials.password:
        say(f"made the user admin with the password {credentials.password}")
    if credentials.api_key:
        say(f"made the first API key: {credentials.api_key}")
    model_id = provision.provision_model(say)
    access_token = provision.access_token()
    connections.close_all()
    redis_url = valkey.url if valkey else settings.REDIS_URL
    environment = child_environment(redis_url)
    specs = server_processes(
        manage=settings.BASE_DIR / "manage.py",
        environment=environment,
        devices=devices,
        web_processes=settings.WEB_PROCESSES,
        listening_fd=sock.fileno(),
    )
    if valkey:
        specs.insert(0, ChildSpec("valkey", valkey.command, environment, last=True, unshown=_VALKEY_NOISE))
    return Plan(specs, redis_url, model_id, credentials, access_token, lock, sock, instance)


def check_devices(devices: list[str]) -> None:
    """Raises StartError for a name that is no device."""
    for device in devices:
        if not is_device(device):
            raise StartError(
                f"LLAMA_GPU_DEVICES contains {device!r}; it may list cpu, mps, and cuda with a number, such as cuda0."
            )


def check_redis(url: str) -> None:
    """Raises StartError when the configured Redis does not answer."""
    client = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
    try:
        client.ping()
    except (redis.RedisError, OSError) as error:
        raise StartError(
            f"The Redis server that REDIS_URL names does not answer ({error}); start it or correct it."
        ) from error
    finally:
        client.close()
