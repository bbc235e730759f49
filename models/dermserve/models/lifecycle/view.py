"""What `dermserve model list` and `status` show, as plain values and as text."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

from dermserve.models.lifecycle.errors import ConfigError, StoreError
from dermserve.models.lifecycle.moves import CANARY, STABLE
from dermserve.models.lifecycle.server_config import ConfigMap, Desk, ServerConfig
from dermserve.models.lifecycle.servers import Server, Servers, state_name
from dermserve.models.lifecycle.stores import Store, manifest_of


def stored(store: Store, config_file: pathlib.Path | ConfigMap | None, model: str | None) -> Iterator[dict[str, Any]]:
    """Give a row for each version in a store, of one model when it is named."""
    config = _config(store, config_file)
    for name in [model] if model else store.models():
        labels, pins = (config.labels(name), config.pins(name)) if name in config.models else ({}, [])
        for version in store.versions(name):
            manifest = None
            with contextlib.suppress(StoreError):
                manifest = manifest_of(store, name, version)
            yield {
                "model": name,
                "version": version,
                "labels": sorted(label for label, number in labels.items() if number == version),
                "pinned": version in pins,
                "digest": manifest.digest if manifest else None,
                "about": dict(manifest.about) if manifest else {},
            }


def stored_line(row: dict[str, Any]) -> str:
    """Put a row in words."""
    labels = f" [{', '.join(row['labels'])}]" if row["labels"] else ""
    about = row["about"]
    training = {"TRAINED": "trained", "NONE": "never trained"}.get(about.get("training"), "")
    digest = f"sha256 {row['digest'][:12]}" if row["digest"] else "no manifest"
    details = ", ".join(part for part in (about.get("exported_at", ""), training, digest) if part)
    return f"{row['model']:<20} {row['version']:>4}{labels}  {details}"


def live(
    store: Store, servers: Servers, config_file: pathlib.Path | ConfigMap | None, model: str | None
) -> Iterator[dict[str, Any]]:
    """Give a row for each model and server.

    Raises:
        NoServerError: one does not answer.
        ConfigError: no model is named, and neither models.config nor the store knows one.
    """
    config = _config(store, config_file)
    names = [model] if model else config.models or store.models()
    if not names:
        raise ConfigError(f"{store.base} has no model, and no models.config lists one: name a model")
    for name in names:
        wanted = config.labels(name) if name in config.models else {}
        for server in servers:
            yield _live(server, name, wanted)


def _live(server: Server, model: str, wanted: dict[str, int]) -> dict[str, Any]:
    versions = [
        {"version": state.version, "state": state_name(state.state), "error": state.status.error_message or None}
        for state in server.states(model)
    ]
    asked = sorted({STABLE, CANARY, *wanted}) if versions else []
    labels = {label: version for label in asked if (version := server.label(model, label)) is not None}
    row = {"model": model, "server": server.address, "versions": versions, "labels": labels, "labels_wanted": wanted}
    return {**row, "ok": labels == wanted and any(one["state"] == "AVAILABLE" for one in versions)}


def live_text(row: dict[str, Any]) -> str:
    """Put a row in words, a line a version."""
    lines = [f"{row['model']} at {row['server']}{'' if row['versions'] else ': not served'}"]
    for one in row["versions"]:
        labels = [label for label, version in sorted(row["labels"].items()) if version == one["version"]]
        why = f": {one['error']}" if one["error"] else ""
        named = f" [{', '.join(labels)}]" if labels else ""
        lines.append(f"  {one['version']:>4}  {one['state']}{named}{why}")
    if row["labels"] != row["labels_wanted"]:
        lines.append(f"  labels are {row['labels'] or 'none'}, models.config says {row['labels_wanted'] or 'none'}")
    return "\n".join(lines)


def _config(store: Store, config_file: pathlib.Path | ConfigMap | None) -> ServerConfig:
    """Read models.config, or take it as empty where the store has none: then nothing is labelled."""
    try:
        return Desk(store=store, servers=Servers(()), config_file=config_file).read_config()
    except ConfigError as error:
        if config_file is None and isinstance(error.__cause__, FileNotFoundError):
            return ServerConfig()
        raise
