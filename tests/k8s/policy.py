"""The rules our pods keep. Each takes all manifests of a target and yields what breaks it, in words."""

from collections.abc import Callable, Iterator

from dermserve.edge import Settings
from dermserve.gateway.config import Config
from tests.k8s.rendering import Manifest, containers, named, of_kind, pod, settings

Rule = Callable[[list[Manifest]], Iterator[str]]
RULES: list[Rule] = []
GATEWAY_BYTES = 120e6
"""Of the process before the first photo, at most: tests/gateway/test_process.py."""
LOGS = 50 * 2**20
"""Of a container, which the kubelet keeps by default: five files of 10 MiB."""
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")


def rule(check: Rule) -> Rule:
    RULES.append(check)
    return check


def broken(manifests: list[Manifest]) -> dict[str, list[str]]:
    """Give what breaks which rule."""
    found = {check.__name__: list(check(manifests)) for check in RULES}
    return {name: problems for name, problems in found.items() if problems}


def _workloads(manifests: list[Manifest]) -> list[Manifest]:
    return [manifest for kind in WORKLOADS for manifest in of_kind(manifests, kind)]


def _each(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest, Manifest]]:
    for workload in _workloads(manifests):
        for container in containers(workload):
            yield f"{workload['metadata']['name']}/{container['name']}", container, pod(workload)


def _images(manifests: list[Manifest]) -> Iterator[tuple[str, str]]:
    """Give the images of containers and of volumes."""
    for name, container, _ in _each(manifests):
        yield name, container["image"]
    for workload in _workloads(manifests):
        for volume in pod(workload).get("volumes", []):
            if "image" in volume:
                yield volume["name"], volume["image"]["reference"]


@rule
def namespace_enforces_restricted(manifests: list[Manifest]) -> Iterator[str]:
    for namespace in of_kind(manifests, "Namespace"):
        for mode in ("enforce", "audit", "warn"):
            if namespace["metadata"].get("labels", {}).get(f"pod-security.kubernetes.io/{mode}") != "restricted":
                yield f"{namespace['metadata']['name']}: {mode}"
    if not of_kind(manifests, "Namespace"):
        yield "no namespace"


@rule
def runs_as_a_numeric_user_that_is_not_root(manifests: list[Manifest]) -> Iterator[str]:
    for name, container, spec in _each(manifests):
        context = spec.get("securityContext", {}) | container.get("securityContext", {})
        user, group = context.get("runAsUser"), context.get("runAsGroup")
        if context.get("runAsNonRoot") is not True or not isinstance(user, int) or user < 1000 or not group:
            yield name


@rule
def cannot_gain_privileges(manifests: list[Manifest]) -> Iterator[str]:
    for name, container, _ in _each(manifests):
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            yield name


@rule
def drops_all_capabilities(manifests: list[Manifest]) -> Iterator[str]:
    for name, container, _ in _each(manifests):
        capabilities = container.get("securityContext", {}).get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
            yield name


@rule
def has_the_default_seccomp_profile(manifests: list[Manifest]) -> Iterator[str]:
    for name, container, spec in _each(manifests):
        context = spec.get("securityContext", {}) | container.get("securityContext", {})
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield name


@rule
def has_a_read_only_root(manifests: list[Manifest]) -> Iterator[str]:
    for name, container, _ in _each(manifests):
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield name


@rule
def writes_only_to_bounded_volumes(manifests: list[Manifest]) -> Iterator[str]:
    for workload in _workloads(manifests):
        for volume in pod(workload).get("volumes", []):
            where = f"{workload['metadata']['name']}: {volume['name']}"
            if "hostPath" in volume:
                yield f"{where} is the host's"
            if "emptyDir" in volume and not volume["emptyDir"].get("sizeLimit"):
                yield f"{where} has no sizeLimit"


@rule
def shares_nothing_with_its_host(manifests: list[Manifest]) -> Iterator[str]:
    for workload in _workloads(manifests):
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod(workload).get(key):
                yield f"{workload['metadata']['name']}: {key}"
    for name, container, _ in _each(manifests):
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"{name}: hostPort"


@rule
def has_no_token_of_the_cluster(manifests: list[Manifest]) -> Iterator[str]:
    accounts = {account["metadata"]["name"]: account for account in of_kind(manifests, "ServiceAccount")}
    for workload in _workloads(manifests):
        spec = pod(workload)
        account = accounts.get(spec.get("serviceAccountName", ""), {})
        if spec.get("automountServiceAccountToken") is not False or not account:
            yield workload["metadata"]["name"]
        if account.get("automountServiceAccountToken") is not False:
            yield f"{workload['metadata']['name']}: its account"


@rule
def gets_no_variables_of_services(manifests: list[Manifest]) -> Iterator[str]:
    for workload in _workloads(manifests):
        if pod(workload).get("enableServiceLinks") is not False:
            yield workload["metadata"]["name"]


@rule
def says_what_it_needs_and_may_take(manifests: list[Manifest]) -> Iterator[str]:
    for name, container, _ in _each(manifests):
        for kind in ("requests", "limits"):
            for resource in ("cpu", "memory", "ephemeral-storage"):
                if not container.get("resources", {}).get(kind, {}).get(resource):
                    yield f"{name}: {kind}.{resource}"


@rule
def may_fill_its_volumes(manifests: list[Manifest]) -> Iterator[str]:
    """The kubelet evicts a pod that takes more disk for its emptyDirs and logs than its containers may."""
    for workload in _workloads(manifests):
        spec = pod(workload)
        disks = [v["emptyDir"] for v in spec.get("volumes", []) if "emptyDir" in v and "medium" not in v["emptyDir"]]
        limits = [c.get("resources", {}).get("limits", {}).get("ephemeral-storage", "0Mi") for c in spec["containers"]]
        if sum(_bytes(disk.get("sizeLimit", "0Mi")) for disk in disks) + LOGS > sum(map(_bytes, limits)):
            yield workload["metadata"]["name"]


@rule
def pulls_an_image_once(manifests: list[Manifest]) -> Iterator[str]:
    yield from (name for name, container, _ in _each(manifests) if container.get("imagePullPolicy") != "IfNotPresent")


@rule
def names_a_version_of_its_image(manifests: list[Manifest]) -> Iterator[str]:
    for name, image in _images(manifests):
        tag = image.rpartition("/")[2].partition(":")[2]
        if tag in {"", "latest"} and "@sha256:" not in image:
            yield f"{name}: {image}"


@rule
def names_the_registry_of_its_image(manifests: list[Manifest]) -> Iterator[str]:
    for name, image in _images(manifests):
        host, _, rest = image.partition("/")
        if not rest or "." not in host:  # a container engine would choose: Docker Hub, or the first of its list
            yield f"{name}: {image}"


@rule
def has_all_three_probes(manifests: list[Manifest]) -> Iterator[str]:
    for workload in of_kind(manifests, "Deployment"):
        for container in pod(workload)["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe not in container:
                    yield f"{workload['metadata']['name']}/{container['name']}: {probe}"


@rule
def keeps_all_pods_during_a_rollout(manifests: list[Manifest]) -> Iterator[str]:
    for workload in of_kind(manifests, "Deployment"):
        if workload["spec"].get("strategy", {}).get("rollingUpdate", {}).get("maxUnavailable") != 0:
            yield workload["metadata"]["name"]


@rule
def spreads_over_nodes_and_zones(manifests: list[Manifest]) -> Iterator[str]:
    for workload in of_kind(manifests, "Deployment"):
        keys = {each["topologyKey"] for each in pod(workload).get("topologySpreadConstraints", [])}
        if keys != {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}:
            yield workload["metadata"]["name"]


@rule
def stops_within_its_grace(manifests: list[Manifest]) -> Iterator[str]:
    names = {workload["metadata"]["name"] for workload in of_kind(manifests, "Deployment")}
    by_dns = {"modelserver", *({"gateway"} if "edge" in names else ())}
    for workload in of_kind(manifests, "Deployment"):
        for container in pod(workload)["containers"]:
            sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
            grace = pod(workload).get("terminationGracePeriodSeconds", 30)
            name = workload["metadata"]["name"]
            if not 0 < sleep < grace:
                yield f"{name}: sleeps {sleep} s of {grace} s"
            # DNS forgets a pod within 30 s, and whoever asks it does so every 5 s. Envoy asks it for gateways.
            if name in by_dns and sleep < 35 and not _is_local(manifests):
                yield f"{name}: sleeps {sleep} s, and gets calls until DNS has forgotten it"
            if name == "gateway":
                own, longest = (
                    float(settings(manifests)[f"DERMSERVE_{key}_SECONDS"]) for key in ("GRACE", "MAX_DEADLINE")
                )
                if not longest <= own < grace - sleep:
                    yield f"{name}: a request may take {longest} s, its grace is {own} s of {grace - sleep} s left"
            # Envoy has no grace: what is left of a connection and, after its GOAWAY, of the requests on it.
            if name == "edge" and sleep < (lasts := Settings(gateway="gateway:50051").connection_seconds) + 30:
                yield f"{name}: connections may last {lasts} s, and it sleeps {sleep} s"


@rule
def tells_tensorflow_serving_what_it_must_know(manifests: list[Manifest]) -> Iterator[str]:
    (server,) = pod(named(manifests, "Deployment", "modelserver"))["containers"]
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in server["args"])
    environment = {each["name"]: each.get("value") for each in server.get("env", [])}
    if environment.get("MALLOC_ARENA_MAX") != "1" and "dermserve/local" not in server["image"]:
        yield "MALLOC_ARENA_MAX"
    if "tensorflow/serving" in server["image"] and server["command"] != ["/usr/bin/tensorflow_model_server"]:
        yield "command"
    if not 0 < int(flags.get("model_config_file_poll_wait_seconds", 0)) <= 60:
        yield "does not read models.config again"
    gateways = scalers(manifests).get("gateway", {}).get("maxReplicas", 1)
    in_flight = int(settings(manifests)["DERMSERVE_TFS_IN_FLIGHT"])
    if int(flags["grpc_max_threads"]) <= gateways * (in_flight + 1):
        yield "grpc_max_threads is below what all gateways may send"
    cores = int(server["resources"]["limits"]["cpu"])
    if int(flags["tensorflow_intra_op_parallelism"]) != 1 or int(flags["tensorflow_inter_op_parallelism"]) != cores:
        yield f"threads do not match the limit of {cores} cores"
    if "ssl_config_file" not in flags and flags.get("enable_grpc_healthcheck_service") != "true":
        yield "no health for the probes"


@rule
def has_memory_for_the_photos_it_lets_wait(manifests: list[Manifest]) -> Iterator[str]:
    values = settings(manifests)
    held = int(values["DERMSERVE_MAX_HELD_BYTES"])
    needed = GATEWAY_BYTES + Config(max_held_bytes=held).photo_memory  # docs/settings.md, Memory
    (gateway,) = pod(named(manifests, "Deployment", "gateway"))["containers"]
    if _bytes(gateway["resources"]["limits"]["memory"]) < needed:
        yield f"the gateway may need {needed / 1e6:.0f} MB"


@rule
def keeps_every_core_of_every_model_server_busy(manifests: list[Manifest]) -> Iterator[str]:
    in_flight = int(settings(manifests)["DERMSERVE_TFS_IN_FLIGHT"])
    (server,) = pod(named(manifests, "Deployment", "modelserver"))["containers"]
    cores = int(server["resources"]["limits"]["cpu"])
    if in_flight != cores:  # of each gateway at each model server, so the number of pods does not matter
        yield f"a gateway has {in_flight} calls in flight at a model server of {cores} cores"
    host = settings(manifests)["DERMSERVE_TFS"].partition(":")[0]
    if named(manifests, "Service", host)["spec"].get("clusterIP") != "None":
        yield f"the Service {host} hides its pods from the gateways: it is not headless"


def _bytes(quantity: str) -> int:
    return int(quantity[:-2]) * {"Mi": 2**20, "Gi": 2**30}[quantity[-2:]]


@rule
def allows_just_the_edges_of_the_flow(manifests: list[Manifest]) -> Iterator[str]:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind(manifests, "NetworkPolicy")}
    default = policies.get("default-deny", {})
    types = sorted(default.get("policyTypes", []))
    if default.get("podSelector") != {} or types != ["Egress", "Ingress"] or default.keys() & {"ingress", "egress"}:
        yield "no default-deny"
    gateway = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "gateway"}}}
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    known = {8500: gateway, 8501: prometheus}
    for name, policy in policies.items():
        for direction, sides in (("ingress", "from"), ("egress", "to")):
            for allowed in policy.get(direction, []):
                if not allowed.get(sides) or not allowed.get("ports"):
                    yield f"{name}: {direction} is open"
        labels = policy["podSelector"].get("matchLabels", {})
        if labels.get("app.kubernetes.io/name") == "modelserver":
            reached = [
                (port["port"], _without_part_of(peer))
                for allowed in policy.get("ingress", [])
                for peer in allowed.get("from", [])
                for port in allowed["ports"]
            ]
            if not reached or any(known.get(port) != peer for port, peer in reached) or policy.get("egress"):
                yield f"{name}: others than the gateway reach TensorFlow Serving, or it reaches others"


@rule
def finds_names_wherever_a_cluster_resolves_them(manifests: list[Manifest]) -> Iterator[str]:
    rules = [rule for policy in of_kind(manifests, "NetworkPolicy") for rule in policy["spec"].get("egress", [])]
    blocks = {peer["ipBlock"]["cidr"]: rule for rule in rules for peer in rule["to"] if "ipBlock" in peer}
    for name, address in (("NodeLocal DNSCache", "169.254.20.10/32"), ("Cloud DNS", "169.254.169.254/32")):
        if address not in blocks:
            yield f"{name} ({address}) is out of reach"
        elif {port["port"] for port in blocks[address]["ports"]} != {53}:
            yield f"{address}: more than DNS"
    pods = [peer["podSelector"].get("matchExpressions", []) for rule in rules for peer in rule["to"] if len(peer) == 2]
    if [{"key": "k8s-app", "operator": "In", "values": ["kube-dns", "node-local-dns"]}] not in pods:
        yield "the pods of the cluster's DNS, or of its cache on each node with GKE Dataplane V2, are out of reach"


def _without_part_of(peer: Manifest) -> Manifest:
    labels = {
        key: value
        for key, value in peer.get("podSelector", {}).get("matchLabels", {}).items()
        if key != "app.kubernetes.io/part-of"
    }
    return {**peer, "podSelector": {"matchLabels": labels}} if labels else peer


@rule
def has_two_pods_that_scale_and_are_evicted_one_by_one(manifests: list[Manifest]) -> Iterator[str]:
    if _is_local(manifests):
        return
    budgets = {budget["metadata"]["name"] for budget in of_kind(manifests, "PodDisruptionBudget")}
    for workload in of_kind(manifests, "Deployment"):
        name = workload["metadata"]["name"]
        scaler, fixed = scalers(manifests).get(name), workload["spec"].get("replicas")
        if (scaler is None) == (fixed is None):
            yield f"{name}: replicas and an autoscaler, or neither"
        if (scaler.get("minReplicas", 1) if scaler else fixed or 0) < 2:
            yield f"{name}: fewer than two pods"
        if scaler and not {"scaleUp", "scaleDown"} <= scaler.get("behavior", {}).keys():
            yield f"{name}: may flap"
        if name not in budgets:
            yield f"{name}: no PodDisruptionBudget"


def scalers(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Give the bounds and behavior of what scales each Deployment: its autoscaler, or KEDA's object."""
    found = {}
    for each in of_kind(manifests, "HorizontalPodAutoscaler"):
        found[each["spec"]["scaleTargetRef"]["name"]] = each["spec"]
    for each in of_kind(manifests, "ScaledObject"):
        spec, name = each["spec"], each["spec"]["scaleTargetRef"]["name"]
        assert name not in found, f"two autoscalers of {name} work against each other"
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        bounds = {"minReplicas": spec["minReplicaCount"], "maxReplicas": spec["maxReplicaCount"]}
        found[name] = {**bounds, "behavior": behavior, "triggers": spec["triggers"]}
    return found


def _is_local(manifests: list[Manifest]) -> bool:
    images = [container["image"] for _, container, _ in _each(manifests)]
    return any("dermserve/local" in image for image in images)


@rule
def listens_to_others_only_encrypted(manifests: list[Manifest]) -> Iterator[str]:
    values = settings(manifests)
    if not _is_local(manifests) and ("DERMSERVE_TLS_CERTIFICATE" not in values or values.get("DERMSERVE_INSECURE")):
        yield "the gateway's port is plain text"
