"""What `manage.py check --deploy` says of a server that others can reach, beside what Django says."""

from typing import Any

from django.conf import settings
from django.core import checks

NO_TLS = checks.Warning(
    "Keys, passwords and cookies travel in clear: no proxy in front speaks TLS.",
    hint="Put one in front, name it in LLAMA_GPU_TRUSTED_PROXIES, and set LLAMA_GPU_TLS=1.",
    id="llama_gpu.W001",
)
NO_TRUSTED_PROXY = checks.Warning(
    "LLAMA_GPU_TLS is set, but no proxy is trusted to say that a request came by TLS, so pages redirect for ever.",
    hint="Set LLAMA_GPU_TRUSTED_PROXIES to the proxy's address.",
    id="llama_gpu.W002",
)
ANY_HOST = checks.Warning(
    "The server answers to any host name.",
    hint="Name its own in LLAMA_GPU_ALLOWED_HOSTS, instead of *.",
    id="llama_gpu.W003",
)
ANONYMOUS_INFERENCE = checks.Warning(
    "Callers without credentials may run inference.",
    hint="Unset LLAMA_GPU_ANONYMOUS_PERMISSION, or set it to read.",
    id="llama_gpu.W004",
)


@checks.register(checks.Tags.security, deploy=True)
def check_exposure(**_: Any) -> list[checks.CheckMessage]:
    """What is open that should not be."""
    found = (
        (NO_TLS, not settings.TLS),
        (NO_TRUSTED_PROXY, settings.TLS and not settings.TRUSTED_PROXIES),
        (ANY_HOST, "*" in settings.ALLOWED_HOSTS),
        (ANONYMOUS_INFERENCE, settings.ANONYMOUS_PERMISSION == "write"),
    )
    return [message for message, is_so in found if is_so]
