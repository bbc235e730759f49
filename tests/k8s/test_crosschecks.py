"""What the manifests name exists in the code: settings, flags, ports, models, metrics, runbooks, files."""

import json
import pathlib
import re
import subprocess
import tomllib
from typing import Any

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from dermserve.gateway.config import PREFIX, Config
from dermserve.modelserver import flags
from dermserve.tfserving.v1 import management_pb2
from tests.k8s.rendering import K8S, LOAD_TEST, ROOT, TARGETS, containers, named, of_kind, pod, render, settings

METRIC = re.compile(r"(?<![:\w])dermserve_gateway_[a-z_]+")  # not the names of recording rules


@pytest.mark.parametrize("target", TARGETS)
def test_settings_are_the_gateways_and_it_accepts_them(
    target: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings(render(target)).items():
        assert name.removeprefix(PREFIX).lower() in Config.model_fields
        if value.startswith("/"):  # a file, which is here somewhere else
            (tmp_path / name).touch()
        monkeypatch.setenv(name, str(tmp_path / name) if value.startswith("/") else value)
    config = Config()
    assert config.listen.endswith(":50051")
    (service,) = (s for s in of_kind(render(target), "Service") if s["metadata"]["name"] == "modelserver")
    assert config.tfs == (f"modelserver:{service['spec']['ports'][0]['port']}",)


@pytest.mark.parametrize("target", TARGETS)
def test_flags_are_tensorflow_servings(target: str) -> None:
    known = flags.SERVED.keys() | flags.REFUSED | {"grpc_channel_arguments"}  # which changes nothing in the stand-in
    (server,) = pod(named(render(target), "Deployment", "modelserver"))["containers"]
    names = [argument.removeprefix("--").partition("=")[0] for argument in server["args"]]
    assert set(names) <= known - (set() if "dermserve/local" in server["image"] else {"host"})
    assert "--port=8500" in server["args"]


@pytest.mark.parametrize("target", TARGETS)
def test_ports_are_those_that_the_gateway_listens_on(target: str) -> None:
    manifests = render(target)
    (gateway,) = pod(named(manifests, "Deployment", "gateway"))["containers"]
    ports = {port["name"]: port["containerPort"] for port in gateway["ports"]}
    listens = {"grpc": "LISTEN", "health": "HEALTH_LISTEN", "metrics": "METRICS_LISTEN"}
    assert {name: int(settings(manifests)[f"{PREFIX}{listens[name]}"].rpartition(":")[2]) for name in ports} == ports
    assert gateway["readinessProbe"]["grpc"]["port"] == ports["health"]


@pytest.mark.parametrize("target", TARGETS)
def test_models_config_serves_the_gateways_models_from_where_they_are_mounted(target: str) -> None:
    manifests = render(target)
    config = management_pb2.ModelServerConfig()
    text_format.Parse(named(manifests, "ConfigMap", "models-config")["data"]["models.config"], config)
    models = [model.name for model in config.model_config_list.config]
    assert ",".join(models) == settings(manifests)["DERMSERVE_MODELS"]
    mounts = [
        mount["mountPath"] for mount in containers(named(manifests, "Deployment", "modelserver"))[-1]["volumeMounts"]
    ]
    for model in config.model_config_list.config:
        assert model.base_path == f"/models/{model.name}"
        for label, version in model.version_labels.items():
            assert version in model.model_version_policy.specific.versions, label
    assert {"/models", "/config"} <= set(mounts)


def test_a_canary_has_the_labels_that_the_gateway_asks_for() -> None:
    manifests = render("production+canary")
    data = named(manifests, "ConfigMap", "models-config")["data"]
    config = text_format.Parse(data["models.config"], management_pb2.ModelServerConfig())
    file = pathlib.PurePosixPath(settings(manifests)["DERMSERVE_CANARY_FILE"])
    mounts = containers(named(manifests, "Deployment", "gateway"))[-1]["volumeMounts"]
    assert str(file.parent) in {mount["mountPath"] for mount in mounts if mount["name"] == "models-config"}
    (model,) = tomllib.loads(data[file.name])["canary_shares"]
    (entry,) = (each for each in config.model_config_list.config if each.name == model)
    assert set(entry.version_labels) == {"stable", "canary"}


@pytest.mark.parametrize("target", TARGETS)
def test_services_and_network_policies_name_ports_of_the_pods_they_select(target: str) -> None:
    manifests = render(target)
    for kind in ("gateway", "modelserver"):
        opened = {port["containerPort"]: port["name"] for c in containers(named(manifests, "Deployment", kind))
                  for port in c.get("ports", [])}  # fmt: skip
        for service in of_kind(manifests, "Service"):
            if service["spec"]["selector"].get("app.kubernetes.io/name") == kind:
                assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(opened.values())
        for policy in of_kind(manifests, "NetworkPolicy"):
            if policy["spec"]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/name") == kind:
                asked = {port["port"] for rule in policy["spec"].get("ingress", []) for port in rule["ports"]}
                assert asked <= set(opened)


def test_load_tests_reach_gateways_that_only_the_edge_may_call_otherwise() -> None:
    job = named(render(LOAD_TEST), "Job", "dermserve-loadtest-workers")["spec"]["template"]["metadata"]["labels"]
    gateway = named(render("production+edge"), "Deployment", "gateway")["spec"]["template"]["metadata"]["labels"]
    ways = [
        (rule, peer["podSelector"]["matchLabels"].items())
        for policy in of_kind(render("production+edge") + render(LOAD_TEST), "NetworkPolicy")
        if policy["spec"]["podSelector"].get("matchLabels", {"none": ""}).items() <= gateway.items()
        for rule in policy["spec"].get("ingress", [])
        for peer in rule["from"]
    ]
    assert 50051 in {port["port"] for rule, label in ways if label <= job.items() for port in rule["ports"]}


def test_load_tests_are_callers_whom_the_policies_let_out() -> None:
    (policy,) = (
        each for each in of_kind(render("production"), "NetworkPolicy") if each["metadata"]["name"] == "callers"
    )
    label = policy["spec"]["podSelector"]["matchLabels"].items()
    jobs = of_kind(render(LOAD_TEST), "Job")
    assert jobs
    assert all(label <= job["spec"]["template"]["metadata"]["labels"].items() for job in jobs)


@pytest.mark.parametrize("target", TARGETS)
def test_volumes_and_mounts_belong_together(target: str) -> None:
    for deployment in of_kind(render(target), "Deployment"):
        volumes = {volume["name"] for volume in pod(deployment).get("volumes", [])}
        mounted = {mount["name"] for c in containers(deployment) for mount in c.get("volumeMounts", [])}
        assert mounted == volumes


@pytest.mark.parametrize("target", ["production+signed", "production+all", "command", LOAD_TEST])
def test_programs_that_use_a_store_have_a_folder_for_temporary_files(target: str) -> None:
    workloads = of_kind(render(target), "Deployment") + of_kind(render(target), "Job")
    users = [c for each in workloads for c in containers(each) if re.search("dermserve/(store|loadtest):", c["image"])]
    assert users
    assert all("/tmp" in {mount["mountPath"] for mount in c["volumeMounts"]} for c in users)


@pytest.mark.parametrize("target", ["production+edge", "production+all"])
def test_files_that_the_edges_configuration_names_are_mounted_where_envoy_runs(target: str) -> None:
    manifests = render(target)
    edge = pod(named(manifests, "Deployment", "edge"))
    (config,) = (each for each in edge["initContainers"] if each["name"] == "config")
    (source,) = config["envFrom"]
    values = named(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    values |= {each["name"]: each["value"] for each in config.get("env", [])}
    mounts = {mount["mountPath"]: mount["name"] for mount in edge["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in edge["volumes"]}
    found = {name: pathlib.PurePath(value) for name, value in values.items() if value.startswith("/")}
    assert {mounts[next(str(up) for up in path.parents if str(up) in mounts)] for name, path in found.items()
            if name != "DERMSERVE_EDGE_KEYS"} <= volumes.keys()  # fmt: skip
    assert not [name for name, volume in volumes.items() if volume.get("secret", {}).get("optional")]
    shown = mounts[str(found["DERMSERVE_EDGE_GATEWAY_TLS_CERT"].parent)]
    asked = "DERMSERVE_TLS_CLIENT_CA" in settings(manifests)
    assert volumes[shown]["secret"]["secretName"] == ("caller-tls" if asked else "edge-tls")


def test_alerts_and_the_dashboard_name_metrics_that_exist() -> None:
    documented = (ROOT / "docs" / "metrics.md").read_text()
    known = set(METRIC.findall(documented))
    folder = K8S / "components" / "monitoring"
    alerts = yaml.safe_load((folder / "alerts.yaml").read_text())
    rules = [rule for group in alerts["spec"]["groups"] for rule in group["rules"]]
    used = {name for rule in rules for name in METRIC.findall(rule["expr"])}
    used |= set(METRIC.findall(json.dumps(json.loads((folder / "dashboard.json").read_text()))))
    assert used
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} <= known


def test_every_alert_has_its_runbook() -> None:
    headings = re.findall(r"^#+ (.*)$", (K8S / "runbooks.md").read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    alerts = yaml.safe_load((K8S / "components" / "monitoring" / "alerts.yaml").read_text())
    for rule in (rule for group in alerts["spec"]["groups"] for rule in group["rules"] if "alert" in rule):
        path, _, anchor = rule["annotations"]["runbook_url"].rpartition("#")
        assert path.endswith("k8s/runbooks.md")
        assert anchor in anchors, rule["alert"]


def _ssl_config() -> type[Any]:
    """Make TensorFlow Serving's message SSLConfig, which no package on PyPI has."""
    file = descriptor_pb2.FileDescriptorProto(name="ssl_config.proto", package="tensorflow.serving", syntax="proto3")
    message = file.message_type.add(name="SSLConfig")
    kinds = descriptor_pb2.FieldDescriptorProto
    for number, name in enumerate(("server_key", "server_cert", "custom_ca", "client_verify"), start=1):
        kind = kinds.TYPE_BOOL if name == "client_verify" else kinds.TYPE_STRING
        message.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.SSLConfig"))


def test_the_ssl_config_that_the_init_container_writes_is_tensorflow_servings(tmp_path: pathlib.Path) -> None:
    pem = "-----BEGIN CERTIFICATE-----\nMIIB+/=\n-----END CERTIFICATE-----\n"
    for name in ("tls.key", "tls.crt", "ca.crt"):
        (tmp_path / name).write_text(pem)
    script = K8S / "components" / "cert-manager" / "ssl_config.sh"
    subprocess.run(["sh", script, tmp_path, tmp_path], check=True)
    written = text_format.Parse((tmp_path / "ssl.config").read_text(), _ssl_config()())
    assert (written.server_key, written.server_cert, written.custom_ca, written.client_verify) == (pem, pem, pem, True)
