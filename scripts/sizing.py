"""Write the sizing table of k8s/README.md: pods for a rate, from what an answer costs and the manifests' own numbers.

python scripts/sizing.py                        # from k8s/costs.json
python scripts/sizing.py --capacity FILE        # from capacity.json of `dermserve-loadtest capacity --local`
"""

import argparse
import json
import math
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "k8s" / "README.md"
COSTS = ROOT / "k8s" / "costs.json"
RATES = (5, 20, 100)
_BETWEEN = re.compile(r"(?<=<!-- sizing: begin -->\n).*(?=<!-- sizing: end -->)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one answer takes, in cores × milliseconds."""

    model: str
    mode: str
    server: float
    gateway: float


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A Deployment's pods, as the manifests have them."""

    cores: float
    """Busy in each when the autoscaler is content."""
    most: int
    """Pods."""

    def count(self, rate: float, cost: float) -> int:
        """Count the pods for so many answers a second at so many cores × ms each, with one to spare, at least two."""
        return max(2, math.ceil(rate * cost / 1000 / self.cores) + 1)


def from_measurements() -> Iterator[Cost]:
    """Read the committed costs: cores × ms of an answer in the model server and in the gateway."""
    for each in json.loads(COSTS.read_text())["core_ms"]:
        yield Cost(**each)


def from_capacity(file: pathlib.Path) -> Iterator[Cost]:
    """Take costs from the open-loop run at the highest rate that kept its threshold."""
    for each in json.loads(file.read_text())["capacity"]:
        points = [point for point in each["open_points"] if point["rate"] == each["found"]["kept"]]
        if points:
            yield Cost(
                model=each["model"],
                mode=each["mode"],
                server=_cores(points, "modelserver"),
                gateway=_cores(points, "gateway"),
            )


def _cores(points: Sequence[dict[str, Any]], process: str) -> float:
    busy = sum(use for point in points for name, use in point["cores"].items() if name.startswith(process))
    return 1000 * busy / sum(point["answers"] for point in points)


def read_pod(name: str) -> Pod:
    """Read what the autoscaler of a Deployment aims at."""
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


def table(costs: Sequence[Cost], *, command: str) -> str:
    """Draw the table."""
    server, gateway = read_pod("modelserver"), read_pod("gateway")
    head = ["model", "views", "core-ms, model server", "core-ms, gateway", "answers/s, model server",
            "answers/s, gateway", *(f"{rate}/s" for rate in RATES)]  # fmt: skip
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for cost in costs:
        pods = [
            _shown(server.count(rate, cost.server), server) + " + " + _shown(gateway.count(rate, cost.gateway), gateway)
            for rate in RATES
        ]
        numbers = [cost.server, cost.gateway, 1000 * server.cores / cost.server, 1000 * gateway.cores / cost.gateway]
        rows.append(f"| {' | '.join([cost.model, cost.mode, *(f'{each:.3g}' for each in numbers), *pods])} |")
    return f"`{command}`:\n\n" + "\n".join(rows) + "\n"


def _shown(count: int, pod: Pod) -> str:
    return f"{count}*" if count > pod.most else str(count)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capacity", type=pathlib.Path, help="capacity.json of dermserve-loadtest")
    options = parser.parse_args()
    costs = list(from_capacity(options.capacity) if options.capacity else from_measurements())
    if not costs:
        sys.exit("there is no rate that kept its threshold")
    command = "python scripts/sizing.py" + (f" --capacity {options.capacity}" if options.capacity else "")
    PAGE.write_text(_BETWEEN.sub(lambda _: table(costs, command=command), PAGE.read_text()))


if __name__ == "__main__":
    main()
