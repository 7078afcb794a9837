"""`python -m benchmarks [engine|gateway|plugins|…]`: measure, print tables, keep them under benchmarks/results/."""

import argparse
import tempfile
from pathlib import Path

from benchmarks import engine, events, gateway, http_streams, monitoring, plugins, quality
from benchmarks.report import RESULTS, Report
from tests.running_server import running_server

PARTS = ("engine", "ttft", "quality", "http", "gateway", "plugins", "events", "monitoring")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all if none is named")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the tables")
    arguments = parser.parse_args()
    parts = arguments.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}")
    report = Report()
    if "engine" in parts:
        engine.throughput(report, arguments.rounds)
    if "ttft" in parts:
        engine.first_token(report, arguments.rounds)
    if "quality" in parts:
        quality.report_on(report)
    if "http" in parts:
        http_streams.streams(report, arguments.rounds)
    if "gateway" in parts:
        with (
            tempfile.TemporaryDirectory() as folder,
            running_server(Path(folder), LLAMA_GPU_DEFAULT_MODEL="echo") as server,
        ):
            gateway.report_on(server.url, server.api_key, report)
    if "plugins" in parts:
        plugins.costs(report)
    if "events" in parts:
        events.watchers(report, 4 * arguments.rounds)
    if "monitoring" in parts:
        monitoring.answers(report)
    print(f"written to {report.save(arguments.out, '-'.join(['cpu', *arguments.parts]))}")


if __name__ == "__main__":
    main()
