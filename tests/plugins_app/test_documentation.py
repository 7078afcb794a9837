"""docs/plugins.md names every hook, built-in plugin and field of a configuration, and shows the real sample."""

from pathlib import Path

from plugins_app.discovery import BUILT_IN
from plugins_app.loaded import HOOKS
from plugins_app.models import Plugin

PAGE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
SAMPLE = Path(__file__).parent / "sample_package" / "llama_gpu_shout" / "__init__.py"


def test_the_sample_is_the_one_that_is_installed_and_has_30_lines() -> None:
    source = SAMPLE.read_text().rstrip()
    assert f"```python\n{source}\n```" in PAGE
    assert len(source.splitlines()) <= 30


def test_everything_has_its_row() -> None:
    for plugin in BUILT_IN:
        assert f"| `{plugin.info.id}` |" in PAGE
    for hook in HOOKS:
        assert f"| `{hook}(" in PAGE
    for field in Plugin().config:
        assert f"| `{field}` |" in PAGE
