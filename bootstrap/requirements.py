"""What is to be installed, as pyproject.toml and constraints.txt say."""

import hashlib
import json
import re
import sys
import tomllib
from pathlib import Path

from bootstrap.failure import SetupError


class Requirements:
    """The dependencies of the server (group "run") and of each dependency group."""

    def __init__(self, root: Path) -> None:
        self.constraints_path = root / "constraints.txt"
        self.constraints = self.constraints_path.read_text()
        project = tomllib.loads((root / "pyproject.toml").read_text())
        self.groups: dict[str, list[str]] = {
            "run": project["project"]["dependencies"],
            **project.get("dependency-groups", {}),
        }

    def of(self, groups: list[str]) -> list[str]:
        """The requirements of several groups. Raises SetupError for a group that is not there."""
        unknown = [group for group in groups if group not in self.groups]
        if unknown:
            raise SetupError(
                f"pyproject.toml has no dependency group {unknown[0]!r}; it has: {', '.join(self.groups)}."
            )
        return [requirement for group in groups for requirement in self.groups[group]]

    def torch_pin(self) -> str:
        """`torch==…`, from constraints.txt. It is installed alone and first: a looser range may fetch other builds."""
        found = re.search(r"^torch==\S+", self.constraints, re.MULTILINE)
        if found is None:
            raise SetupError("constraints.txt has no line 'torch==…'; restore the file.")
        return found.group()

    def fingerprint(self, group: str) -> str:
        """Changes whenever the group's packages or the Python version do."""
        content = json.dumps([self.groups[group], self.constraints, sys.version_info[:2]])
        return hashlib.sha256(content.encode()).hexdigest()
