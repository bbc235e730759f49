"""`dermserve-loadtest`: the table of its commands."""

import os

import click

from dermserve.cli.root import Entry, LazyGroup

_ENTRIES = {
    "run": Entry("dermserve.loadtest.run:run", "Put load on a gateway and report.", "loadtest"),
    "worker": Entry("dermserve.loadtest.run:worker", "Generate load for a run on another machine.", "loadtest"),
    "capacity": Entry("dermserve.loadtest.capacity:capacity", "Find the highest rate within a threshold.", "loadtest"),
}
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's messages are already in the errors
_SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(cls=LazyGroup, entries=_ENTRIES, context_settings=_SETTINGS)
@click.version_option(package_name="dermserve", prog_name="dermserve-loadtest")
def main() -> None:
    """Load tests of a dermserve gateway: throughput, latency, errors and capacity.

    Exit codes: 0 all thresholds kept, 1 one breached or the test failed, 2 wrong usage, 3 no server, 4 thresholds kept,
    but the generator did not keep its rate, so that they prove nothing, 130 interrupted.
    """
