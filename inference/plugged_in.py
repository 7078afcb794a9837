"""What plugins have to do with one request."""

from dataclasses import dataclass

from plugins_app.chain import Chain, Output, Run


@dataclass(slots=True)
class PluggedIn:
    """`output` is None when no plugin filters the answer. `has_own_thread`: its pieces are filtered in its job's."""

    chain: Chain
    run: Run
    output: Output | None = None
    is_stream: bool = True
    has_own_thread: bool = True
    taken: int = 0  # characters of the engine's text that the output has had
