"""`python -m benchmarks [engine|ttft|http|gateway …]`: measure, print tables, keep them under benchmarks/results/."""

import argparse
import tempfile
from pathlib import Path

from benchmarks import engine, gateway, http_streams
from benchmarks.report import RESULTS, Report
from tests.running_server import running_server

PARTS = ("engine", "ttft", "http", "gateway")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the tables")
    arguments = parser.parse_args()
    report = Report()
    if "engine" in arguments.parts:
        engine.throughput(report, arguments.rounds)
    if "ttft" in arguments.parts:
        engine.first_token(report, arguments.rounds)
    if "http" in arguments.parts:
        http_streams.streams(report, arguments.rounds)
    if "gateway" in arguments.parts:
        with (
            tempfile.TemporaryDirectory() as folder,
            running_server(Path(folder), LLAMA_GPU_DEFAULT_MODEL="echo") as server,
        ):
            gateway.report_on(server.url, server.api_key, report)
    print(f"written to {report.save(arguments.out)}")


if __name__ == "__main__":
    main()
