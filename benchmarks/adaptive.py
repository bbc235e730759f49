"""What ADAPTIVE test-time augmentation saves on a folder of photos, and how often it agrees with FULL.

    python benchmarks/adaptive.py --photos DIR
    python benchmarks/adaptive.py --photos DIR --model mobilenet_v3_small --most 500 --json

Every photo is asked about in both modes, through a gateway of the local stack. The last lines are the gateway's own
metrics of the same run, which a gateway in production shows for its callers' photos.

Exit codes: 0 measured, 1 some photos failed, 2 wrong usage.
"""

import dataclasses
import json
import os
import pathlib
import sys
import urllib.request
from collections.abc import Iterable, Iterator

import click
from prometheus_client.parser import text_string_to_metric_families

from dermserve.client import Client, DermserveError, Prediction
from dermserve.local import Stack

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_METRICS = ("views_saved_total", "adaptive_answers_total", "adaptive_agreement_total")


@dataclasses.dataclass(slots=True)
class Tally:
    """What the answers came to."""

    photos: int = 0
    failed: int = 0
    one_view: int = 0
    """Photos for which one view was enough."""
    asked: int = 0
    """Views that ADAPTIVE asked for."""
    all_views: int = 0
    """Views that FULL asked for."""
    same_class: int = 0
    """Photos whose most probable class is the same in both modes."""
    same_verdict: int = 0

    def add(self, full: Prediction, adaptive: Prediction) -> None:
        """Count one photo."""
        self.photos += 1
        self.one_view += adaptive.views_asked == 1
        self.asked += adaptive.views_asked
        self.all_views += full.views_asked
        self.same_class += full.top.code == adaptive.top.code
        self.same_verdict += full.verdict == adaptive.verdict

    def report(self) -> dict[str, float]:
        """Make JSON values."""
        total = max(1, self.photos)
        return {
            "photos": self.photos,
            "failed": self.failed,
            "views_saved": 1 - self.asked / max(1, self.all_views),
            "one_view": self.one_view / total,
            "agreement": self.same_class / total,
            "same_verdict": self.same_verdict / total,
        }


def _photos(folder: pathlib.Path, most: int | None) -> list[pathlib.Path]:
    """Find the photos below a folder; at most so many, evenly spread."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    step = 1 if most is None else max(1, -(-len(found) // most))
    return found[::step]


def _compare(client: Client, model: str, photos: Iterable[pathlib.Path]) -> Tally:
    tally = Tally()
    for photo in photos:
        try:
            image = photo.read_bytes()
            full = client.classify(image, model=model, tta="full")
            tally.add(full, client.classify(image, model=model, tta="adaptive", version=full.version))
        except (DermserveError, OSError) as error:
            tally.failed += 1
            click.echo(f"{photo}: {error}", err=True)
    return tally


def _metrics(logs: pathlib.Path, model: str) -> Iterator[tuple[str, float]]:
    """Read what the gateway says of itself; its log, which it began for this run, names the address."""
    lines = [json.loads(line) for line in (logs / "gateway.log").read_text().splitlines() if line.startswith("{")]
    address = [line["address"] for line in lines if line["event"] == "metrics_listening"][-1]
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    for sample in (sample for family in families for sample in family.samples):
        if sample.name.removeprefix("dermserve_gateway_") in _METRICS and sample.labels["model"] == model:
            labels = ",".join(f"{key}={value}" for key, value in sample.labels.items())
            yield f"{sample.name}{{{labels}}}", sample.value


@click.command()
@click.option(
    "--photos", "folder", type=click.Path(exists=True, file_okay=False, path_type=pathlib.Path), required=True
)
@click.option("--model", default="mobilenet_v3_small", show_default=True)
@click.option("--most", type=click.IntRange(1), help="Photos, evenly spread over the folder; all of them unless said.")
@click.option(
    "--store", type=click.Path(path_type=pathlib.Path), default=pathlib.Path(".dermserve/store"), show_default=True
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(folder: pathlib.Path, model: str, most: int | None, store: pathlib.Path, as_json: bool) -> None:
    """Report what ADAPTIVE saves on a folder of photos, and its agreement with FULL."""
    photos = _photos(folder, most)
    if not photos:
        raise click.UsageError(f"there is no photo ({', '.join(sorted(_SUFFIXES))}) below {folder}")
    os.environ.setdefault("DERMSERVE_METRICS_LISTEN", "127.0.0.1:0")
    with (
        Stack(store=store, models=(model,), port=0, tfs_port=0) as stack,
        Client(stack.gateway_address, deadline=60) as client,
    ):
        with click.progressbar(photos, file=sys.stderr) as shown:
            tally = _compare(client, model, shown)
        metrics = dict(_metrics(store.resolve().parent / "logs", model))
    report = tally.report()
    if as_json:
        click.echo(json.dumps({"model": model, **report, "metrics": metrics}))
    else:
        click.echo(f"{model}, {tally.photos} photos below {folder} ({tally.failed} failed)")
        click.echo(f"views saved    {report['views_saved']:7.1%}  (one view was enough for {report['one_view']:.1%})")
        click.echo(f"same class     {report['agreement']:7.1%}  as FULL")
        click.echo(f"same verdict   {report['same_verdict']:7.1%}  as FULL")
        click.echo("\n".join(f"{name} {value:g}" for name, value in metrics.items()))
    sys.exit(1 if tally.failed else 0)


if __name__ == "__main__":
    main()
