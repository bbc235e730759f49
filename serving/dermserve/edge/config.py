"""Envoy's configuration, the YAML templates beside this file with the settings filled in, and the files it serves."""

import base64
import functools
import hashlib
import importlib.resources
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, json_format
from google.rpc import error_details_pb2, status_pb2  # noqa: F401 - the details' types

from dermserve.edge.settings import SITE, Settings, SettingsError, read_keys, split_address

_TEMPLATES = pathlib.Path(__file__).with_name("templates")
RUNTIME = SITE.with_name("litert")  # LiteRT.js, which `make web` puts here; it is 9 MB, so it is not in the repository
VIEWER = SITE.with_name("rapidoc")  # the viewer of the API page, which `make web` puts here; no page without it
ON_DEVICE = "mobilenet_v3_small"  # the model that is small enough for a phone


def envoy_config(settings: Settings, *, folder: pathlib.Path | None = None) -> dict[str, str]:
    """Write `envoy.yaml`, and a file for each certificate, which Envoy watches in the folder; return texts by name.

    Raises SettingsError: the file of API keys can't be used, or certificates are set and no folder.
    """
    import jinja2  # in the extra `edge`; not needed by `dermserve up` and `demo` without an edge

    certificates = {
        "tls": (settings.tls_cert, settings.tls_key),
        "gateway_ca": (settings.gateway_tls_ca, None),
        "gateway_tls": (settings.gateway_tls_ca and settings.gateway_tls_cert, settings.gateway_tls_key),
    }
    secrets = {name: files for name, files in certificates.items() if files[0]}
    if secrets and folder is None:
        raise SettingsError("certificates are in files beside the configuration, which Envoy reloads: give --out")
    environment = jinja2.Environment(  # noqa: S701 - YAML; each value is quoted by `q`
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["q"] = functools.partial(json.dumps, default=str)

    def sds(name: str) -> str:
        source = {"path_config_source": {"path": str(folder and folder / f"{name}.yaml")}, "resource_api_version": "V3"}
        return json.dumps({"name": name, "sds_config": source})

    values = _values(settings) | {"sds": sds}

    def part(name: str, width: int, **more: Any) -> str:
        text = environment.get_template(name).render(values, part=part, **more)
        return text.strip().replace("\n", "\n" + " " * width)

    files = {f"{name}.yaml": part("secret.yaml", 0, secret=name, certificate=certificate, key=key) + "\n"
             for name, (certificate, key) in secrets.items()}  # fmt: skip
    return {"envoy.yaml": part("envoy.yaml", 0) + "\n", **files}


def write_config(settings: Settings, out: pathlib.Path) -> None:
    """Write the configuration and the files beside it, for owner and group. Raises SettingsError: bad API keys."""
    for name, text in envoy_config(settings, folder=out.absolute().parent).items():
        file = out if name == "envoy.yaml" else out.with_name(name)
        fresh = file.with_name(f".{file.name}")
        fresh.touch(mode=0o640)
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(file)  # whole or not at all


def _values(settings: Settings) -> dict[str, Any]:
    text = importlib.resources.files("dermserve.v1").joinpath("dermserve.protoset").read_bytes()
    described = descriptor_pb2.FileDescriptorSet.FromString(text)
    for file in described.file:
        file.ClearField("source_code_info")  # comments
    return {
        "s": settings,
        "address": _address,
        "descriptors": base64.b64encode(described.SerializeToString(deterministic=True)).decode(),
        "files": list(_files(settings)),
        "gateway_name": settings.gateway_tls_name or split_address(settings.gateway, name="gateway")[0],
        "keys": read_keys(settings.keys) if settings.keys else {},
        "max_json_bytes": (settings.max_photo_bytes + 2) // 3 * 4 + 4096,  # base64, and JSON around it
        "schemes": [
            *(['Bearer realm="dermserve"'] if settings.jwks else []),
            *(['ApiKey realm="dermserve", header="x-api-key"'] if settings.keys else []),
        ],
        "packed": _packed,
        "source": lambda name: (_TEMPLATES / name).read_text(encoding="utf-8"),
    }


def _packed(code: int, message: str, details: Sequence[Mapping[str, Any]]) -> str:
    """Write a google.rpc.Status as gRPC callers get it, in grpc-status-details-bin."""
    status = json_format.ParseDict({"code": code, "message": message, "details": details}, status_pb2.Status())
    return base64.b64encode(status.SerializeToString(deterministic=True)).decode()


def _address(text: str) -> str:
    host, port = split_address(text, name="address")
    return f"{{socket_address: {{address: {json.dumps(host)}, port_value: {port}}}}}"


def _files(settings: Settings) -> Iterator[dict[str, str]]:
    if not settings.www.is_dir():
        raise SettingsError(f"www {settings.www} is not a folder: make it by `dermserve edge files`")
    for path in sorted(settings.www.rglob("*")):
        if path.is_file():
            yield {
                "path": f"/{path.relative_to(settings.www).as_posix().removesuffix('index.html')}",
                "shown": str(path),
                "kind": path.suffix[1:],
                "digest": hashlib.sha256(path.read_bytes()).hexdigest()[:32],
            }


def gather(to: pathlib.Path, *, store: pathlib.Path | None = None) -> dict[str, Any]:
    """Write all files that Envoy serves into a folder; return the content of device/index.json.

    The on-device model is that of the highest version in the store that has one, if any. The on-device runtime and the
    API page are left out where `make web` has not been run. Raises OSError.
    """
    copied = {SITE: to, RUNTIME: to / "app/litert", VIEWER: to / "api"}
    files = {file: place / file.relative_to(folder) for folder, place in copied.items() for file in folder.rglob("*.*")}
    if not VIEWER.is_dir():
        del files[SITE / "api/index.html"]
    found: dict[str, Any] = {"runtime": RUNTIME.is_dir()}
    models = (store / ON_DEVICE).glob("*/model.tflite") if store else ()
    by_version = {int(model.parent.name): model for model in models if model.parent.name.isdecimal()}
    if by_version:
        newest = by_version[max(by_version)]
        files[newest] = to / "device" / ON_DEVICE / newest.parent.name / newest.name
        found |= {"model": ON_DEVICE, "version": newest.parent.name}
    for file, target in files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())  # shutil reports a full disk as a list, or by the name of the source
    index = to / "device/index.json"
    index.parent.mkdir(exist_ok=True)
    index.write_text(json.dumps(found) + "\n", encoding="utf-8")
    return found
