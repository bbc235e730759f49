"""Write the table of docs/sizing.md: pods for a rate, from what a photo costs and the manifests' own numbers.

python scripts/sizing.py                        # from k8s/costs.json
python scripts/sizing.py FILE                   # from build/capacity/capacity.json, which `make loadtest` writes
"""

import datetime
import json
import math
import pathlib
import re
import sys
from typing import Any, NamedTuple, TextIO

import click
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "sizing.md"
COSTS = ROOT / "k8s" / "costs.json"
RATES = (5, 20, 100)
_TABLE = re.compile("(?<=<!-- table -->\n).*(?=<!-- end -->)", re.DOTALL)


class Pod(NamedTuple):
    """A Deployment's pods, from the manifests."""

    cores: float  # busy cores of a pod at the autoscaler's target
    most: int  # pods

    def count(self, rate: float, cost: float) -> int:
        """Count the pods for a rate of answers at a cost of cores × ms each: one more than needed, at least two."""
        return max(2, math.ceil(rate * cost / 1000 / self.cores) + 1)


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
    """Return the page with the table of k8s/costs.json."""
    pods = {"model_server": read_pod("modelserver"), "gateway": read_pod("gateway")}
    rows = [["model", "views", "core-ms, model server", "core-ms, gateway", "photos/s a core", "photos/s, model server",
             "photos/s, gateway", *(f"{rate}/s" for rate in RATES)]]  # fmt: skip
    rows.append(["---"] * len(rows[0]))
    for each in found["capacity"]:
        needs = [(pod, each["core_ms"][name]) for name, pod in pods.items()]
        costs = [cost for _, cost in needs]
        numbers = [*costs, 1000 / sum(costs), *(1000 * pod.cores / cost for pod, cost in needs)]
        counts = [[(pod.count(rate, cost), pod.most) for pod, cost in needs] for rate in RATES]
        shown = [" + ".join(f"{count}{'*' * (count > most)}" for count, most in pair) for pair in counts]
        rows.append([each["model"], each["mode"], *(f"{number:.3g}" for number in numbers), *shown])
    cores = [f"{pod.cores:.3g}" for pod in pods.values()]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    text = f"""\
Measured on {found["machine"]}, {found["date"]} (`{found["command"]}`, [k8s/costs.json](../k8s/costs.json)).
A model server counts with {cores[0]} cores and a gateway with {cores[1]}, the targets of their autoscalers.

{table}"""
    return _TABLE.sub(lambda _: text, PAGE.read_text())


def keep(capacity: dict[str, Any], *, date: str) -> dict[str, Any]:
    """Select from capacity.json what the page needs, for k8s/costs.json: models and modes that gave answers."""
    machine = capacity["machine"]
    costs = [{key: each[key] for key in ("model", "mode", "core_ms")} for each in capacity["capacity"]]
    return {
        "machine": f"{machine['cores']} cores of {machine['processor']}",
        "date": date,
        "command": "make loadtest",
        "capacity": [each for each in costs if each["core_ms"]],
    }


@click.command()
@click.argument("capacity", type=click.File(), required=False)
def main(capacity: TextIO | None) -> None:
    """Write the table of docs/sizing.md, anew from the capacity.json of dermserve-loadtest if one is given."""
    if capacity:
        found = keep(json.load(capacity), date=f"{datetime.date.today():%Y-%m-%d}")
        if not found["capacity"]:
            sys.exit(f"{capacity.name} has no processor time of servers: run `dermserve-loadtest capacity --local`")
        COSTS.write_text(json.dumps(found, indent=1) + "\n")
    PAGE.write_text(page(json.loads(COSTS.read_text())))


if __name__ == "__main__":
    main()
