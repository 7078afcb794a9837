"""What each precision does to the demo model's answers, against fp32."""

from pathlib import Path

import pytest

from benchmarks.quality import Extent, Quality, measured

# The least share of equal greedy tokens, and the most that perplexity may grow. bf16 is what the weights are stored in,
# and int4 holds them without loss, so that both lose by rounding of activations alone.
BOUNDS = {
    "bf16": (0.95, 0.01),
    "fp16": (0.98, 0.005),
    "int8": (0.93, 0.02),
    "int4": (0.95, 0.01),
    "int4, 4 rows": (0.95, 0.01),
}
# Less than the benchmark reads, for the sake of time: 96 tokens of answers, and about a third of the text.
EXTENT = Extent(questions=3, answer_tokens=32, text_tokens=224)


@pytest.fixture(scope="module")
def found(demo_model: Path) -> dict[str, Quality]:
    return dict(measured(demo_model, extent=EXTENT))


def test_full_precision_reads_english(found: dict[str, Quality]) -> None:
    assert found["fp32"].agreement == 1
    assert 5 < found["fp32"].perplexity < 40


@pytest.mark.parametrize("precision", BOUNDS)
def test_a_lower_precision_stays_near(found: dict[str, Quality], precision: str) -> None:
    least, growth = BOUNDS[precision]
    assert found[precision].agreement >= least
    assert found[precision].perplexity <= (1 + growth) * found["fp32"].perplexity
