import random
import statistics

import pytest

from monitoring.distribution import RELATIVE_ERROR, Distribution

SHARES = (0.5, 0.95, 0.99)


@pytest.mark.parametrize(("middle", "spread"), [(0.0, 0.3), (-3.0, 1.5), (2.0, 1.0)])
def test_percentiles_are_as_near_as_promised(middle: float, spread: float) -> None:
    draw = random.Random(7)
    figures = [draw.lognormvariate(middle, spread) for _ in range(5000)]
    distribution = Distribution()
    distribution.add(figures)
    exact = statistics.quantiles(figures, n=100, method="inclusive")
    for share, found in zip(SHARES, distribution.percentiles(SHARES), strict=True):
        assert found == pytest.approx(exact[round(share * 100) - 1], rel=2 * RELATIVE_ERROR)


def test_parts_add_up_to_the_whole() -> None:
    figures = [random.Random(3).uniform(0.01, 9) for _ in range(500)]
    whole, part = Distribution(), Distribution()
    whole.add(figures)
    part.add(figures[:123])
    rest = Distribution.decode(part.encode())
    rest.add(figures[123:])
    assert rest.percentiles(SHARES) == whole.percentiles(SHARES)


def test_one_figure_is_every_percentile() -> None:
    distribution = Distribution()
    distribution.add([0.85])
    assert distribution.percentiles(SHARES) == [pytest.approx(0.85, rel=RELATIVE_ERROR)] * 3


def test_nothing_has_no_percentiles() -> None:
    assert Distribution().percentiles(SHARES) == [None, None, None]


def test_an_instant_counts_too() -> None:
    distribution = Distribution()
    distribution.add([0.0, 0.0, 1.0])
    lowest, highest = distribution.percentiles((0.5, 1.0))
    assert lowest is not None
    assert lowest < 0.001
    assert highest == pytest.approx(1.0, rel=RELATIVE_ERROR)
