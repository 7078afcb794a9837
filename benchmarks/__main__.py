"""`python -m benchmarks [engine|gateway|plugins|…]`: measure, print tables, keep them under benchmarks/results/."""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import counting, dashboard, engine, events, gateway, http_streams, jobs, monitoring, plugins, quality
from benchmarks.report import RESULTS, Report
from tests.running_server import running_server


def _gateway(report: Report) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder), LLAMA_GPU_DEFAULT_MODEL="echo") as server,
    ):
        gateway.report_on(server.url, server.api_key, report)


# In the order in which they run; each is told how many rounds are wanted.
PARTS: dict[str, Callable[[Report, int], None]] = {
    "engine": engine.throughput,
    "ttft": engine.first_token,
    "quality": lambda report, _: quality.report_on(report),
    "http": http_streams.streams,
    "gateway": lambda report, _: _gateway(report),
    "plugins": lambda report, _: plugins.costs(report),
    "events": lambda report, rounds: events.watchers(report, 4 * rounds),
    "monitoring": lambda report, _: monitoring.answers(report),
    "counting": lambda report, _: counting.costs(report),
    "jobs": lambda report, _: jobs.latency(report),
    "dashboard": lambda report, _: dashboard.pages(report),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all if none is named")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the tables")
    arguments = parser.parse_args()
    parts = arguments.parts or list(PARTS)
    if unknown := set(parts) - PARTS.keys():
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    report = Report()
    for name, measure in PARTS.items():
        if name in parts:
            measure(report, arguments.rounds)
    print(f"written to {report.save(arguments.out, '-'.join(['cpu', *arguments.parts]))}")


if __name__ == "__main__":
    main()
