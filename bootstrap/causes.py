"""What pip and venv say when they fail, and what that means."""

_CAUSES = (
    (("No space left on device", "Errno 28"), "the disk is full; free some space and run it again."),
    (
        ("NewConnectionError", "NameResolutionError", "ConnectTimeout", "ReadTimeout", "ProxyError", "SSLError"),
        "the package index could not be reached; check the network or pip's settings, and run it again.",
    ),
    (
        ("No matching distribution", "Could not find a version"),
        "a package was not found: the package index can't be reached, or it has no build for this machine and Python.",
    ),
    (("Permission denied",), "a folder can't be written; mend its permissions and run it again."),
)


def cause_of(complaints: str) -> str:
    """One sentence for what a tool printed when it failed."""
    for signs, sentence in _CAUSES:
        if any(sign in complaints for sign in signs):
            return sentence
    last = [line.strip() for line in complaints.splitlines() if line.strip()][-1:]
    return last[0] if last else "it gave no reason."
