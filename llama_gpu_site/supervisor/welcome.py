"""What the terminal shows when the server is ready."""

from llama_gpu_site.supervisor.provision import Credentials
from llama_gpu_site.supervisor.readiness import Answer

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 — what to connect to when it listens everywhere
_LOCAL = frozenset({"127.0.0.1", "::1", "localhost"})


def reachable_url(host: str, port: int) -> str:
    """How a program on this machine reaches the server."""
    name = _LOOPBACK.get(host, host)
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def display_url(host: str, port: int) -> str:
    """The same for people."""
    return f"http://localhost:{port}" if _LOOPBACK.get(host, host) in _LOCAL else reachable_url(host, port)


def welcome(url: str, model_id: str, credentials: Credentials, answer: Answer, *, seconds: float) -> str:
    result = answer.body.get("result")
    backend = result.get("backend", "") if isinstance(result, dict) else ""
    password = credentials.password or "the password that was shown or set before"
    key = credentials.api_key or "the key that was shown or set before"
    example = credentials.api_key or "YOUR_API_KEY"
    return f"""
LLaMA GPU is ready after {seconds:.1f} s: {model_id}{f" on {backend}" if backend else ""}.

  API        {url}/api/v1   (description: {url}/api/v1/docs)
  Admin      {url}/admin/
  Login      admin, {password}
  API key    {key}

Try it:
  curl {url}/api/v1/infer -H "Authorization: Bearer {example}" \\
    -H "Content-Type: application/json" -d '{{"text": "Why is the sky blue?", "max_tokens": 60}}'

Ctrl-C ends the server.
"""
