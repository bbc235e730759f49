"""Write docs/sizing.md: pods for a rate, from what a photo costs and the manifests' own numbers.

python scripts/sizing.py                        # from k8s/costs.json
python scripts/sizing.py --capacity FILE        # from build/capacity/capacity.json, which `make loadtest` writes
"""

import argparse
import datetime
import json
import math
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "sizing.md"
COSTS = ROOT / "k8s" / "costs.json"
RATES = (5, 20, 100)
_TEXT = """\
# Pods for a rate

`scripts/sizing.py` writes this page; change it there.

```console
$ make loadtest                                                    # on an idle machine like yours
$ python scripts/sizing.py --capacity build/capacity/capacity.json
```

The cost of a photo is the processor time of a model server and of a gateway for each answer, in cores ×
milliseconds, at the highest throughput. A model server counts with {server:.3g} cores and a gateway with
{gateway:.3g}, the targets of their autoscalers. Pods are rounded up, with one more of each, so that one may fail.
`3 + 2` is three model servers and two gateways; `*` is more than `maxReplicas`. ADAPTIVE lies between NONE and
FULL.

The costs in [k8s/costs.json](../k8s/costs.json) are of {machine}, {date} (`{command}`).

{table}
These numbers are **computed, not measured in a cluster**: they assume that throughput grows with the cores. In a
cluster, run `dermserve-loadtest capacity --server …` against one pod of each to measure the rate.
"""


class Cost(NamedTuple):
    """The cost of one photo, in cores × milliseconds."""

    model: str
    mode: str
    server: float
    gateway: float


class Pod(NamedTuple):
    """A Deployment's pods, from the manifests."""

    cores: float
    """Busy cores of a pod at the autoscaler's target."""
    most: int
    """Pods."""

    def count(self, rate: float, cost: float) -> int:
        """Count the pods for a rate of answers at a cost of cores × ms each: one more than needed, at least two."""
        return max(2, math.ceil(rate * cost / 1000 / self.cores) + 1)


def read_costs(capacities: Sequence[dict[str, Any]]) -> Iterator[Cost]:
    """Read the costs from a result of `dermserve-loadtest capacity`, for models and modes that gave answers."""
    for each in capacities:
        if cost := each["core_ms"]:
            yield Cost(each["model"], each["mode"], cost["model_server"], cost["gateway"])


def read_pod(name: str) -> Pod:
    """Read the target of a Deployment's autoscaler."""
    base = ROOT / "k8s" / "base"
    scalers = yaml.safe_load_all((base / "autoscaling.yaml").read_text())
    scaler = next(each["spec"] for each in scalers if each["metadata"]["name"] == name)
    (metric,) = scaler["metrics"]
    target = metric.get("resource", metric.get("containerResource"))["target"]["averageUtilization"] / 100
    kinds = {each["kind"]: each for each in yaml.safe_load_all((base / f"{name}.yaml").read_text())}
    (container,) = kinds["Deployment"]["spec"]["template"]["spec"]["containers"]
    request = str(container["resources"]["requests"]["cpu"])
    cores = float(request[:-1]) / 1000 if request.endswith("m") else float(request)
    return Pod(cores=cores * target, most=scaler["maxReplicas"])


def page(found: dict[str, Any]) -> str:
    """Write the page from k8s/costs.json."""
    server, gateway = read_pod("modelserver"), read_pod("gateway")
    rows = [["model", "views", "core-ms, model server", "core-ms, gateway", "photos/s a core", "photos/s, model server",
             "photos/s, gateway", *(f"{rate}/s" for rate in RATES)]]  # fmt: skip
    rows.append(["---"] * len(rows[0]))
    for model, mode, *costs in read_costs(found["capacity"]):
        needs = list(zip((server, gateway), costs, strict=True))
        numbers = [*costs, 1000 / sum(costs), *(1000 * pod.cores / cost for pod, cost in needs)]
        counts = [[(pod.count(rate, cost), pod.most) for pod, cost in needs] for rate in RATES]
        pods = [" + ".join(f"{count}{'*' * (count > most)}" for count, most in pair) for pair in counts]
        rows.append([model, mode, *(f"{each:.3g}" for each in numbers), *pods])
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    named = {key: found[key] for key in ("machine", "date", "command")}
    return _TEXT.format(**named, table=table, server=server.cores, gateway=gateway.cores)


def keep(capacity: dict[str, Any], *, date: str) -> dict[str, Any]:
    """Select from capacity.json what the page needs, for k8s/costs.json."""
    machine = capacity["machine"]
    return {
        "machine": f"{machine['cores']} cores of {machine['processor']}",
        "date": date,
        "command": "make loadtest",
        "capacity": [{key: each[key] for key in ("model", "mode", "core_ms")} for each in capacity["capacity"]],
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capacity", type=pathlib.Path, help="capacity.json of dermserve-loadtest")
    options = parser.parse_args()
    if options.capacity:
        found = keep(json.loads(options.capacity.read_text()), date=f"{datetime.date.today():%Y-%m-%d}")
        if not any(each["core_ms"] for each in found["capacity"]):
            sys.exit(f"{options.capacity} has no processor time of servers: run `dermserve-loadtest capacity --local`")
        COSTS.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(page(json.loads(COSTS.read_text())))


if __name__ == "__main__":
    main()
