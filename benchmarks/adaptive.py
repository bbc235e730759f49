"""What ADAPTIVE test-time augmentation saves on a folder of photos, and how often it agrees with FULL.

    python -m benchmarks.adaptive --photos DIR
    python -m benchmarks.adaptive --photos DIR --model mobilenet_v3_small --most 500 --json

Every photo is asked about in both modes, pinned to one version, through a gateway of the local stack.
Exit codes: 0 measured, 1 some photos failed, 2 wrong usage.
"""

import json
import pathlib
import sys

import click

from benchmarks.serving import json_option, local_stack, store_option
from dermserve.client import Client, DermserveError, Prediction

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def _ask(client: Client, model: str, photo: pathlib.Path) -> tuple[Prediction, Prediction] | None:
    """Ask about a photo in both modes; None when that fails."""
    try:
        full = client.classify(photo.read_bytes(), model=model, tta="full")
        return full, client.classify(photo.read_bytes(), model=model, tta="adaptive", version=full.version)
    except (DermserveError, OSError) as error:
        click.echo(f"{photo}: {error}", err=True)
        return None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--photos", "folder", type=click.Path(exists=True, file_okay=False, path_type=pathlib.Path), required=True
)
@click.option("--model", default="mobilenet_v3_small", show_default=True)
@click.option("--most", type=click.IntRange(1), help="Photos, evenly spread over the folder. [default: all]")
@store_option
@json_option
def main(folder: pathlib.Path, model: str, most: int | None, store: pathlib.Path, as_json: bool) -> None:
    """Report what ADAPTIVE saves on a folder of photos, and its agreement with FULL."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    photos = found[:: -(-len(found) // most) if most and found else 1]
    if not photos:
        raise click.UsageError(f"there is no photo ({', '.join(sorted(_SUFFIXES))}) below {folder}")
    with (
        local_stack(store, (model,)) as (stack, _),
        Client(stack.gateway_address, deadline=60) as client,
        click.progressbar(photos, file=sys.stderr) as shown,
    ):
        pairs = [pair for photo in shown if (pair := _ask(client, model, photo))]
    count = max(1, len(pairs))
    report = {
        "views saved": 1 - sum(adaptive.views_asked for _, adaptive in pairs) / (10 * count),
        "one view was enough": sum(adaptive.views_asked == 1 for _, adaptive in pairs) / count,
        "same class as FULL": sum(full.top.code == adaptive.top.code for full, adaptive in pairs) / count,
        "same verdict as FULL": sum(full.verdict == adaptive.verdict for full, adaptive in pairs) / count,
    }
    failed = len(photos) - len(pairs)
    if as_json:
        click.echo(json.dumps({"model": model, "photos": len(pairs), "failed": failed, **report}))
    else:
        click.echo(f"{model}, {len(pairs)} photos below {folder} ({failed} failed)")
        click.echo("\n".join(f"{name:21} {share:7.1%}" for name, share in report.items()))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
