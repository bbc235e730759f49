"""`dermserve-loadtest`: run, worker, report, capacity.

Exit codes: 0 done and all thresholds kept, 1 a threshold breached or the test failed, 2 wrong usage, 3 no server,
4 thresholds kept, but the generator could not keep its rate, so that they mean nothing, 130 interrupted.
"""

import click

from dermserve.cli.lazy import Entry, LazyGroup

ENTRIES = {
    "run": Entry("dermserve.loadtest.run_cli:run_command", "Put load on a gateway and report."),
    "worker": Entry("dermserve.loadtest.run_cli:worker", "Generate load for a run on another machine."),
    "report": Entry("dermserve.loadtest.run_cli:report", "Write the report of a recorded result again."),
    "capacity": Entry("dermserve.loadtest.capacity_cli:capacity", "Find the highest rate that keeps a threshold."),
}


@click.group(cls=LazyGroup, entries=ENTRIES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dermserve", prog_name="dermserve-loadtest")
def main() -> None:
    """Load on a dermserve gateway: what it holds, at what latency, and where it breaks.

    Exit codes: 0 all thresholds kept, 1 one breached or the test failed, 2 wrong usage, 3 no server, 4 the generator
    could not keep its rate, 130 interrupted.
    """
