"""The report of a run: one HTML page, its figures as PNG and its numbers as JSON, in RUN/report."""

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dermserve.models.catalogue import SPECS
from dermserve.models.training.errors import RunError
from dermserve.models.training.evaluate.plots import (
    draw_abstention,
    draw_confusion,
    draw_history,
    draw_malignancy,
    draw_reliability,
    draw_roc,
)
from dermserve.models.training.train.finished import FinishedRun

_FIGURES = "figures.npz"
_LEVELS = ("LOW", "INTERMEDIATE", "HIGH", "REJECTED")

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; }} td, th {{ border: 1px solid #ccc; padding: .25rem .6rem; }}
td:not(:first-child) {{ text-align: right; }} img {{ max-width: 100%; }}
</style>
<h1>{title}</h1>
<p>A screening aid, never a diagnosis.</p>
{body}
</html>
"""


def keep_figures(run: FinishedRun, figures: Mapping[str, Any]) -> None:
    """Keep what evaluate_own returns under "figures" in the run, so that its report can be written again."""
    np.savez_compressed(run.folder / _FIGURES, **figures)


def write_report(run: FinishedRun, *, paper: FinishedRun | None = None) -> Path:
    """Write a run's report, from its numbers and the figures kept in it.

    Args:
        run: evaluated.
        paper: an evaluated run of the same model by the paper's protocol (random by image), to set beside it.

    Returns:
        The HTML page.

    Raises:
        RunError: a run is not evaluated.
    """
    if not (run.folder / _FIGURES).is_file():
        raise RunError(f"{run.folder} lacks {_FIGURES}: run `dermserve evaluate` on the data it was trained from")
    with np.load(run.folder / _FIGURES) as kept:
        figures: dict[str, Any] = dict(kept)
    folder = run.folder / "report"
    folder.mkdir(exist_ok=True)
    codes = [item.code for item in SPECS[run.model].classes]
    labels = figures["labels"]
    tta_labels = figures.get("tta_labels", labels)
    draw_confusion(folder / "confusion.png", tta_labels, figures["tta"], codes)
    draw_roc(folder / "roc.png", tta_labels, figures["tta"], codes)
    curves = {
        "before calibration": (labels, figures["before"]),
        "calibrated": (labels, figures["single"]),
        "ten views": (tta_labels, figures["tta"]),
    }
    draw_reliability(folder / "reliability.png", curves)
    malignant = np.asarray([item.malignant for item in SPECS[run.model].classes])
    thresholds = {name: run.calibration[name]["threshold"] for name in ("rule_out", "rule_in")}
    risks = figures["single"][:, malignant].sum(axis=1)
    draw_malignancy(folder / "malignancy.png", malignant[labels], risks, thresholds)
    draw_abstention(folder / "abstention.png", run.summary["metrics"]["test"]["verdict"]["abstention"])
    draw_history(folder / "curves.png", run.history)
    numbers = _numbers(run, paper)
    (folder / "report.json").write_text(json.dumps(numbers, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    page = folder / "index.html"
    page.write_text(
        _PAGE.format(title=html.escape(f"{run.model}: {run.experiment.name}"), body=_body(numbers)), "utf-8"
    )
    return page


def _numbers(run: FinishedRun, paper: FinishedRun | None) -> dict[str, Any]:
    keys = ("model", "experiment", "initialization", "photos", "training_minutes", "metrics", "other", "packed")
    numbers = {key: run.summary[key] for key in keys if key in run.summary}
    numbers["calibration"] = run.calibration
    numbers["protocol"] = run.experiment.protocol.value
    if paper is not None:
        numbers["paper"] = paper.summary["metrics"]["test"]
    return numbers


def _body(numbers: Mapping[str, Any]) -> str:
    test = numbers["metrics"]["test"]
    return "\n".join(
        (
            "<h2>Test photos</h2>",
            _table(("", "accuracy (95 %)", "balanced accuracy (95 %)", "ECE"), _headline(numbers)),
            "<h2>Classes, ten views</h2>",
            _table(("class", "precision", "recall", "F1", "support", "AUC"), _classes(test["tta"])),
            _image("confusion.png"),
            _image("roc.png"),
            "<h2>Calibration and thresholds</h2>",
            _table(("", "value"), _flat(numbers["calibration"])),
            _image("reliability.png"),
            _table(("on test photos, one view", "value"), _flat({**_plain(test["verdict"]), **test["adaptive"]})),
            "<h2>Malignant or benign</h2>",
            _table(
                ("on test photos, one view", "threshold", "sensitivity (95 %)", "specificity (95 %)"), _points(numbers)
            ),
            _table(("risk level", *_LEVELS), _levels(test["verdict"]["levels"])),
            _image("malignancy.png"),
            _image("abstention.png"),
            "<h2>Photos that should not be judged</h2>",
            _table(("spoiled test photos", "noticed"), _flat(numbers["metrics"].get("spoiled", {}))),
            _table(("pictures without skin", "rejected", "rejected or uncertain"), _strangers(numbers)),
            _table(("lesions of other classes", "neither confident nor LOW"), _other_lesions(numbers)),
            "<h2>Other data, photos of lesions not trained on</h2>",
            _table(("", "accuracy (95 %)", "balanced accuracy (95 %)", "ECE"), _others(numbers)),
            "<h2>Training</h2>",
            _table(("", "value"), _training(numbers)),
            _image("curves.png"),
        )
    )


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if isinstance(value, float | int)}


def _points(numbers: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    for name in ("rule_out", "rule_in"):
        point = numbers["metrics"]["test"]["verdict"][name]
        shares = (point[kind] for kind in ("sensitivity", "specificity"))
        yield (
            name.replace("_", "-"),
            f"{numbers['calibration'][name]['threshold']:.4f}",
            *(f"{share['value']:.3f} ({share['low']:.3f}–{share['high']:.3f})" for share in shares),
        )


def _levels(levels: Mapping[str, Mapping[str, int]]) -> Iterable[Sequence[str]]:
    for code, counts in levels.items():
        yield code, *(str(counts[level]) for level in _LEVELS)


def _strangers(numbers: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    for kind, shares in numbers["metrics"].get("strangers", {}).items():
        yield kind, f"{shares['rejected']:.2f}", f"{shares['rejected_or_uncertain']:.2f}"


def _other_lesions(numbers: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    found = numbers["metrics"].get("others", {})
    for code, share in found.get("by_class", {}).items():
        yield code, f"{share:.3f}"
    if found:
        yield f"all {found['photos']}", f"{found['not_confident']:.3f}"


def _headline(numbers: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    honest = "grouped by lesion" if numbers["protocol"] == "lesion" else "random by image (the paper's protocol)"
    if "paper" in numbers:
        yield _figures_row("random by image (the paper's protocol), one view", numbers["paper"]["single"])
        yield _figures_row("random by image (the paper's protocol), ten views", numbers["paper"]["tta"])
    yield _figures_row(f"{honest}, one view", numbers["metrics"]["test"]["single"])
    yield _figures_row(f"{honest}, ten views", numbers["metrics"]["test"]["tta"])


def _figures_row(name: str, measured: Mapping[str, Any]) -> Sequence[str]:
    def interval(key: str) -> str:
        low, high = measured[f"{key}_95"]
        return f"{measured[key]:.4f} ({low:.3f}–{high:.3f})"

    return name, interval("accuracy"), interval("balanced_accuracy"), f"{measured['ece']:.4f}"


def _classes(measured: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    for code, row in [*measured["classes"].items(), ("macro", measured["macro"]), ("weighted", measured["weighted"])]:
        auc = row.get("auc")
        yield (
            code,
            *(f"{row[key]:.3f}" for key in ("precision", "recall", "f1-score")),
            f"{row['support']:.0f}",
            "" if auc is None else f"{auc:.3f}",
        )


def _others(numbers: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    for name, measured in numbers.get("other", {}).items():
        yield _figures_row(f"{name}, {measured['single']['photos']} photos, one view", measured["single"])
        yield _figures_row(f"{name}, ten views", measured["tta"])


def _training(numbers: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    yield "initial weights", str(numbers["initialization"])
    yield "minutes", str(numbers["training_minutes"])
    for part, counts in numbers["photos"].items():
        yield f"{part} photos", ", ".join(f"{code} {count}" for code, count in counts.items())


def _flat(values: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    for key, value in values.items():
        yield key.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else str(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return "<table>" + line("th", head) + "".join(line("td", row) for row in rows) + "</table>"


def _image(name: str) -> str:
    return f'<img src="{name}" alt="{name.removesuffix(".png")}">'
