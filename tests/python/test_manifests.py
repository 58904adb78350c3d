"""The manifests of deploy/kubernetes as `kubectl kustomize` renders them, held against the schemas of Kubernetes, the
pod security standard `restricted`, and the server they start. No cluster: nothing here is applied.
"""

import functools
import itertools
import json
import os
import pathlib
import re
import socket
import subprocess
import tomllib
from concurrent.futures import ThreadPoolExecutor

import grpc
import jsonschema
import kubernetes_validate
import pytest
import yaml
from conftest import BINARY, ROOT
from grpc_health.v1 import health_pb2, health_pb2_grpc
from real import await_port, free_port, running

KUBERNETES = ROOT / "deploy" / "kubernetes"
OBSERVABILITY = ROOT / "deploy" / "observability"
OVERLAYS = ("single", "fleet")
COMPONENTS = tuple(sorted(path.name for path in (KUBERNETES / "components").iterdir()))
VERSIONS = ("1.32", kubernetes_validate.latest_version())
# Created by hand as docs/deploy.md says, by cert-manager, and by the Job of the fleet.
FOREIGN_SECRETS = {"streamway-auth", "streamway-tls", "streamway-nats-tls", "streamway-nats"}
NATS = ROOT / "tests" / ".cache" / "nats" / "nats-server"
CRDS = yaml.safe_load((ROOT / "tests" / "python" / "crds.yaml").read_text())


def kustomize(path):
    done = subprocess.run(["kubectl", "kustomize", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{path}: {done.stderr}"
    assert "deprecated" not in done.stderr, done.stderr
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def combinations():
    """Each component alone, each pair in both orders, and all components with the fleet first and last."""
    for count in (0, 1, 2):
        yield from itertools.permutations(COMPONENTS, count)
    others = tuple(name for name in COMPONENTS if name != "fleet")
    yield from (("fleet", *others), (*others, "fleet"))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Objects of every overlay and every combination of components, by name."""
    places = {f"overlays/{name}": KUBERNETES / "overlays" / name for name in OVERLAYS}
    for names in combinations():
        place = tmp_path_factory.mktemp("overlay")
        components = [os.path.relpath(KUBERNETES / "components" / name, place.resolve()) for name in names]
        base = os.path.relpath(KUBERNETES / "base", place.resolve())
        file = {"kind": "Kustomization", "resources": [base], "components": components}
        (place / "kustomization.yaml").write_text(yaml.safe_dump(file))
        places["+".join(("base", *names))] = place
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(places, pool.map(kustomize, places.values()), strict=True))


def each(rendered, *kinds):
    for name, objects in rendered.items():
        for item in objects:
            if not kinds or item["kind"] in kinds:
                yield name, item


def pods(rendered):
    for name, item in each(rendered, "StatefulSet", "Deployment", "DaemonSet", "Job", "Pod"):
        yield f"{name}: {item['kind']} {item['metadata']['name']}", item["spec"]["template"]


def test_the_components_are_those_of_the_documents():
    assert COMPONENTS == ("auth", "fleet", "gateway", "ha", "monitoring", "networkpolicy", "otel", "tls")
    assert {path.name for path in (KUBERNETES / "overlays").iterdir()} == set(OVERLAYS)


@functools.cache
def faults(text, version):
    item = json.loads(text)
    kind = f"{item['apiVersion']}/{item['kind']}"
    if kind in CRDS:
        assert set(item) == {"apiVersion", "kind", "metadata", "spec"}
        return [error.message for error in jsonschema.Draft202012Validator(CRDS[kind]).iter_errors(item["spec"])]
    try:
        kubernetes_validate.validate(item, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{list(error.path)}: {error.message}"]
    return []


@pytest.mark.parametrize("version", VERSIONS)
def test_everything_is_valid(rendered, version):
    for name, item in each(rendered):
        found = faults(json.dumps(item, sort_keys=True), version)
        assert not found, f"{name}: {item['kind']} {item['metadata']['name']}: {found}"


@pytest.mark.parametrize(
    "kind, path",
    [
        ("StatefulSet", ("spec", "template", "spec", "containers", 0, "readynessProbe")),
        ("BackendTrafficPolicy", ("spec", "healthCheck", "active", "grpc", "servce")),
        ("GRPCRoute", ("spec", "rules", 0, "backends")),
        ("Certificate", ("spec", "dnsName")),
    ],
)
def test_a_misspelt_field_is_seen(rendered, kind, path):
    objects = rendered["+".join(("base", "gateway", "tls"))]
    item = json.loads(json.dumps(next(item for item in objects if item["kind"] == kind)))
    place = item
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = {}
    assert faults(json.dumps(item), VERSIONS[0])


def test_names_are_unique_and_no_namespace_is_forced(rendered):
    for name, objects in rendered.items():
        ids = [(item["kind"], item["metadata"]["name"]) for item in objects]
        assert len(ids) == len(set(ids)), name
        assert not any("namespace" in item["metadata"] or item["kind"] == "Namespace" for item in objects), name


def restricted(pod):
    """Violations of the pod security standard `restricted`, which includes `baseline`."""
    refused = [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "name", "persistentVolumeClaim", "projected"}
    volumes = pod.get("volumes", ())
    refused += [f"volume {volume['name']}" for volume in volumes if not set(volume) <= allowed | {"secret"}]
    whole = pod.get("securityContext", {})
    if set(whole) & {"sysctls", "seLinuxOptions", "windowsOptions", "appArmorProfile"}:
        refused.append("securityContext of the pod has what is not looked at here")
    for container in pod.get("initContainers", []) + pod.get("ephemeralContainers", []) + pod["containers"]:
        own = container.get("securityContext", {})
        capabilities = own.get("capabilities", {})
        checks = {
            "privileged": not own.get("privileged"),
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is False,
            "capabilities.drop": "ALL" in capabilities.get("drop", ()),
            "capabilities.add": set(capabilities.get("add", ())) <= {"NET_BIND_SERVICE"},
            "runAsNonRoot": own.get("runAsNonRoot", whole.get("runAsNonRoot")) is True,
            "runAsUser": own.get("runAsUser", whole.get("runAsUser")) != 0,
            "seccompProfile": own.get("seccompProfile", whole.get("seccompProfile", {})).get("type")
            in ("RuntimeDefault", "Localhost"),
            "hostPort": not any(port.get("hostPort") for port in container.get("ports", ())),
            "procMount": own.get("procMount", "Default") == "Default",
            "probe host": not any("host" in handler for handler in handlers(container)),
        }
        refused += [f"{container['name']}: {check}" for check, passed in checks.items() if not passed]
    return refused


def handlers(container):
    hooks = [container.get(key, {}) for key in ("startupProbe", "livenessProbe", "readinessProbe")]
    hooks += container.get("lifecycle", {}).values()
    return [hook[way] for hook in hooks for way in ("httpGet", "tcpSocket") if way in hook]


def test_every_pod_is_restricted_and_more(rendered):
    for name, template in pods(rendered):
        pod = template["spec"]
        assert not restricted(pod), name
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 65532, name
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name
            assert "memory" in container["resources"]["limits"], name
            assert re.fullmatch(r"[a-z]+:[0-9]+\.[0-9]+\.[0-9]+(-alpine)?", container["image"]), name
    for name, item in each(rendered, "ServiceAccount"):
        assert item["automountServiceAccountToken"] is False, name


@pytest.mark.parametrize(
    "change", [{"hostNetwork": True}, {"securityContext": {}}, {"volumes": [{"name": "x", "hostPath": {}}]}]
)
def test_a_pod_that_is_not_restricted_is_seen(rendered, change):
    _, template = next(pods(rendered))
    assert restricted({**template["spec"], **change})


def streamway(rendered):
    """Streamway's pod in each rendering, and its variables from the ConfigMap."""
    for name, objects in rendered.items():
        maps = {item["metadata"]["name"]: item["data"] for item in objects if item["kind"] == "ConfigMap"}
        found = [item for item in objects if item["kind"] in ("StatefulSet", "Deployment")]
        (item,) = [item for item in found if item["metadata"]["name"] == "streamway"]
        (container,) = item["spec"]["template"]["spec"]["containers"]
        (source,) = container["envFrom"]
        yield name, item, container, maps[source["configMapRef"]["name"]]


@functools.cache
def settings(variables):
    """The configuration that the server reads from these variables. It refuses a wrong one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("STREAMWAY_", "OTEL_"))}
    # The files are only in the pod. An empty variable counts as unset, and the server still refuses an unknown name.
    given = {name: "" if value.startswith("/etc/") else value for name, value in variables}
    done = subprocess.run(
        [str(BINARY), "serve", "--check-config"],
        env={**kept, **given},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = (re.split(r"  +", line.strip()) for line in done.stdout.splitlines()[1:])
    return {row[0]: row[1] for row in rows if len(row) == 3}


def of(variables):
    return settings(tuple(sorted(variables.items())))


def seconds(text):
    return float(re.fullmatch(r"([0-9.]+)s", text)[1])


def bytes_of(text):
    number, unit = re.fullmatch(r"([0-9]+)(Ki|Mi|Gi)B?", text).groups()
    return int(number) << {"Ki": 10, "Mi": 20, "Gi": 30}[unit]


def test_every_variable_is_a_setting_and_the_grace_exceeds_the_budget(rendered):
    documents = (ROOT / "docs" / "telemetry.md").read_text()
    for name, item, container, variables in streamway(rendered):
        checked = of({key: value for key, value in variables.items() if key.startswith("STREAMWAY_")})
        others = [key for key in variables if not key.startswith("STREAMWAY_")]
        for key in (*others, *(entry["name"] for entry in container["env"])):
            assert re.search(rf"\b{key}\b", documents), key
        grace = item["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        # docs/operations.md asks for 2 s more, as the last export of telemetry takes up to a second after the drain.
        assert grace >= seconds(checked["drain_timeout"]) + 2, name
        assert seconds(checked["drain_delay"]) > 0, name
        assert bytes_of(container["resources"]["limits"]["memory"]) > bytes_of(checked["memory_max"]) > 0, name
        assert checked["engine"] == ("jetstream" if item["kind"] == "Deployment" else "embedded"), name


def test_arguments_and_ports_are_the_servers(rendered):
    listed = subprocess.run([str(BINARY), "serve", "--help"], capture_output=True, text=True, timeout=30, check=True)
    for name, _, container, variables in streamway(rendered):
        command, *flags = container["args"]
        assert command == "serve", name
        assert all(flag.split("=")[0] in listed.stdout for flag in flags), name
        checked = of({key: value for key, value in variables.items() if key.startswith("STREAMWAY_")})
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert checked["listen"].endswith(f":{ports['grpc']}"), name
        assert checked["admin_listen"].endswith(f":{ports['admin']}"), name
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["grpc"]["port"] == ports["admin"], name
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        if checked["engine"] == "embedded":
            assert checked["data_dir"] in mounts, name
        for key in ("tls.cert", "tls.key", "auth_tokens", "auth_policy"):
            if checked.get(key, "").startswith("/"):
                assert str(pathlib.PurePath(checked[key]).parent) in mounts, f"{name}: {key}"


def test_the_services_that_probes_ask_for_exist(rendered, server):
    asked = {"grpc.health.v1.Health"}
    for _, _, container, _ in streamway(rendered):
        assert container["livenessProbe"]["grpc"]["service"] != container["readinessProbe"]["grpc"]["service"]
        assert container["startupProbe"]["periodSeconds"] < container["livenessProbe"]["periodSeconds"]
        asked |= {container[probe]["grpc"]["service"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    for _, item in each(rendered, "BackendTrafficPolicy"):
        asked.add(item["spec"]["healthCheck"]["active"]["grpc"]["service"])
    for _, item in each(rendered, "GRPCRoute"):
        matches = [match for rule in item["spec"]["rules"] for match in rule.get("matches", ())]
        asked |= {match["method"]["service"] for match in matches}
    for address in (server.admin, server.listen):
        with grpc.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            for service in asked:
                answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING, service
            with pytest.raises(grpc.RpcError):
                stub.Check(health_pb2.HealthCheckRequest(service="no-such"), timeout=10)


def test_only_unary_calls_are_retried(rendered):
    from streamway.v1 import stream_pb2

    kinds = stream_pb2.DESCRIPTOR.services_by_name["StreamService"].methods_by_name
    for name, objects in rendered.items():
        routes = {item["metadata"]["name"]: item for item in objects if item["kind"] == "GRPCRoute"}
        policies = [item["spec"] for item in objects if item["kind"] == "BackendTrafficPolicy"]
        assert len(policies) == len(routes), name
        for policy in policies:
            (target,) = policy["targetRefs"]
            matches = [match for rule in routes[target["name"]]["spec"]["rules"] for match in rule.get("matches", [])]
            assert policy["timeout"]["http"]["requestTimeout"] == "0s", name
            if "retry" not in policy:
                continue
            assert matches, f"{name}: what is retried is named"
            for match in (match["method"] for match in matches):
                if match["service"] == "streamway.v1.StreamService":
                    method = kinds[match["method"]]
                    assert not method.client_streaming and not method.server_streaming, name


def test_what_is_referred_to_is_there(rendered):
    for name, objects in rendered.items():
        ids = {(item["kind"], item["metadata"]["name"]) for item in objects}
        services = {item["metadata"]["name"]: item for item in objects if item["kind"] == "Service"}
        workloads = [item for item in objects if item["kind"] in ("StatefulSet", "Deployment", "Job")]
        for item in workloads:
            pod = item["spec"]["template"]["spec"]
            labels = item["spec"]["template"]["metadata"]["labels"]
            if item["kind"] != "Job":
                assert item["spec"]["selector"]["matchLabels"].items() <= labels.items(), name
            assert ("ServiceAccount", pod["serviceAccountName"]) in ids, name
            if item["kind"] == "StatefulSet":
                assert services[item["spec"]["serviceName"]]["spec"]["clusterIP"] == "None", name
                retention = item["spec"]["persistentVolumeClaimRetentionPolicy"]
                assert retention == {"whenDeleted": "Retain", "whenScaled": "Retain"}, name
            volumes = {claim["metadata"]["name"] for claim in item["spec"].get("volumeClaimTemplates", ())}
            for volume in pod.get("volumes", ()):
                volumes.add(volume["name"])
                if "configMap" in volume:
                    assert ("ConfigMap", volume["configMap"]["name"]) in ids, name
                if "secret" in volume:
                    assert volume["secret"]["secretName"] in FOREIGN_SECRETS, name
                    assert volume["secret"]["defaultMode"] == 0o400, name
                for source in volume.get("projected", {}).get("sources", ()):
                    # Every namespace has a ConfigMap with the CA of the cluster.
                    config = source.get("configMap", {"name": "kube-root-ca.crt"})["name"]
                    assert config == "kube-root-ca.crt" or ("ConfigMap", config) in ids, name
                    assert source.get("secret", {"name": "streamway-nats"})["name"] in FOREIGN_SECRETS, name
            assert {mount["name"] for mount in pod["containers"][0].get("volumeMounts", ())} == volumes, name
        for service in services.values():
            (item,) = [
                item
                for item in workloads
                if item["kind"] != "Job" and service["spec"]["selector"].items() <= item["spec"]["template"]["metadata"]["labels"].items()
            ]
            ports = {port["name"] for port in item["spec"]["template"]["spec"]["containers"][0]["ports"]}
            assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports, name
            assert all("appProtocol" in port for port in service["spec"]["ports"]), name
        for item in objects:
            if item["kind"] == "ServiceMonitor":
                wanted = item["spec"]["selector"]["matchLabels"].items()
                (service,) = [one for one in services.values() if wanted <= one["metadata"]["labels"].items()]
                ports = {port["name"] for port in service["spec"]["ports"]}
                assert {endpoint["port"] for endpoint in item["spec"]["endpoints"]} <= ports, name
            if item["kind"] == "GRPCRoute":
                for backend in (backend for rule in item["spec"]["rules"] for backend in rule["backendRefs"]):
                    ports = {port["port"] for port in services[backend["name"]]["spec"]["ports"]}
                    assert backend["port"] in ports, name
            if item["kind"] == "PodDisruptionBudget":
                assert item["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow", name
                assert item["spec"]["maxUnavailable"] == 1, name


def test_plaintext_and_tls_are_told_apart(rendered):
    for name, _, _, variables in streamway(rendered):
        wanted = "https" if "STREAMWAY_TLS_CERT" in variables else "kubernetes.io/h2c"
        services = [item for item in rendered[name] if item["kind"] == "Service"]
        ports = [port for item in services for port in item["spec"]["ports"] if port["name"] == "grpc"]
        assert len(ports) == 2 and all(port["appProtocol"] == wanted for port in ports), name


def test_a_changed_setting_rolls_the_pods(rendered, tmp_path):
    before = dict((name, container) for name, _, container, _ in streamway(rendered))["overlays/single"]
    base = os.path.relpath(KUBERNETES / "overlays" / "single", tmp_path.resolve())
    merge = {"name": "streamway", "behavior": "merge", "literals": ["STREAMWAY_REFLECTION=false"]}
    file = {"kind": "Kustomization", "resources": [base], "configMapGenerator": [merge]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(file))
    ((_, _, after, variables),) = streamway({"changed": kustomize(tmp_path)})
    assert variables["STREAMWAY_REFLECTION"] == "false" and len(variables) > 1
    assert after["envFrom"] != before["envFrom"]


def test_nats_is_set_as_the_engine_needs_it(rendered, tmp_path):
    objects = rendered["overlays/fleet"]
    (conf,) = [item["data"]["nats.conf"] for item in objects if "nats.conf" in item.get("data", ())]
    (nats,) = [item for item in objects if item["metadata"]["name"] == "streamway-nats" and item["kind"] == "StatefulSet"]
    assert nats["spec"]["replicas"] == 3 and nats["spec"]["podManagementPolicy"] == "Parallel"
    names = [f"streamway-nats-{index}.streamway-nats" for index in range(3)]
    files = credentials(objects, tmp_path)
    assert re.findall(r'"nats://route:[^@]+@([^:]+):6222"', files["routes.conf"]) == names
    ((_, deployment, _, variables),) = streamway({"fleet": objects})
    assert variables["STREAMWAY_NATS_URL"] == ",".join(f"nats://{name}:4222" for name in names)
    assert of(variables)["nats.replicas"] == "3" and deployment["spec"]["replicas"] == 3
    rolling = deployment["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": 1, "maxUnavailable": 0}
    assert "sync_interval: always" in conf
    lame = sum(int(number) for number in re.findall(r"lame_duck_\w+: (\d+)s", conf))
    assert nats["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > lame
    for some in (objects, rendered["base+fleet+tls"]):
        place = nats_config(some, tmp_path)
        command = [str(NATS), "-t", "-c", str(place)]
        environment = {**os.environ, "POD_NAME": "streamway-nats-0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
        # The certificate is the first file that is missing here.
        missing = "/etc/nats-tls/tls.crt" if some is not objects else ""
        assert (missing in done.stderr) if missing else done.returncode == 0, done.stdout + done.stderr


def credentials(objects, place):
    """The credentials that the Job creates, written to `place`: name → text."""
    (job,) = [item for item in objects if item["kind"] == "Job"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    command, *flags = container["args"]
    flags = [flag for flag in flags if not flag.startswith("--kubernetes-secret=")]
    assert len(flags) == len(container["args"]) - 2
    subprocess.run([str(BINARY), command, *flags, "--dir", str(place)], timeout=30, check=True)
    return {path.name: path.read_text() for path in place.iterdir() if path.is_file()}


def nats_config(objects, place):
    """NATS's files as a pod has them, together with the credentials created before."""
    (data,) = [item["data"] for item in objects if item["kind"] == "ConfigMap" and "nats.conf" in item["data"]]
    for name, text in data.items():
        text = text.replace('"/data"', f'"{place}/data"').replace("/tmp/nats.pid", f"{place}/nats.pid")
        (place / name).write_text(text)
    return place / "nats.conf"


def refusal(port, hello):
    """Answer of a nats-server to a client without credentials."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as stream:
        lines = stream.makefile("rwb", buffering=0)
        assert lines.readline().startswith(b"INFO ")
        lines.write(hello + b"\r\nPING\r\n")
        for line in lines:
            if line.startswith((b"PONG", b"-ERR")):
                return line.decode().strip()
    return ""


def test_nats_lets_in_nobody_but_the_replicas(rendered, tmp_path):
    objects = rendered["overlays/fleet"]
    files = credentials(objects, tmp_path)
    place = nats_config(objects, tmp_path)
    ports = {old: free_port() for old in (4222, 6222, 8222)}
    text = place.read_text()
    for old, new in ports.items():
        text = text.replace(f"port: {old}", f"port: {new}")
    place.write_text(text)
    environment = {**os.environ, "POD_NAME": "streamway-nats-0"}
    # One of the three servers is enough to test access.
    with running([NATS, "-c", place, "-a", "127.0.0.1"], tmp_path / "log", env=environment):
        for old in (4222, 6222):
            await_port(ports[old])
            for hello in (b"CONNECT {}", b'CONNECT {"user":"route","pass":"wrong"}'):
                assert "Authorization Violation" in refusal(ports[old], hello), f"{old}: {hello}"
        assert "connected to NATS" in replica(ports[4222], tmp_path / "seed")
        other = tmp_path / "other"
        credentials(objects, other)
        assert (other / "seed").read_text() != files["seed"]
        assert "refuses the credentials" in replica(ports[4222], other / "seed")


def replica(port, seed):
    """Log of a replica with this key until it is connected or refused."""
    command = [str(BINARY), "serve", "--engine", "jetstream", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
    command += ["--nats-url", f"nats://127.0.0.1:{port}", "--nats-nkey-file", str(seed)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    said = ""
    try:
        for line in process.stderr:
            said += line
            if "connected to NATS" in line:
                break
    finally:
        process.kill()
        process.wait()
    return said


def test_a_fleet_with_tls_speaks_it_to_nats_or_not_at_all(rendered):
    """Listed after `fleet`, the component enables TLS in NATS. Listed before it, it makes replicas refuse plaintext."""
    for name, _, container, variables in streamway(rendered):
        if "tls" not in name:
            assert "STREAMWAY_NATS_TLS_CA" not in variables, name
            continue
        assert variables["STREAMWAY_NATS_TLS_CA"] == "/etc/streamway/nats-tls/ca.crt", name
        assert "/etc/streamway/nats-tls" in {mount["mountPath"] for mount in container["volumeMounts"]}, name
        (certificate,) = [
            item for item in rendered[name] if item["kind"] == "Certificate" and item["metadata"]["name"] == "streamway-nats"
        ]
        nats_urls = variables.get("STREAMWAY_NATS_URL", "")
        assert set(re.findall(r"//([^:]+):", nats_urls)) <= set(certificate["spec"]["dnsNames"]), name
        (data,) = [
            item["data"] for item in rendered[name] if "nats.conf" in item.get("data", ()) and item["kind"] == "ConfigMap"
        ] or [{}]
        if name.find("fleet") < name.find("tls") and "fleet" in name:
            assert "tls {" in data["client-tls.conf"] and "verify: true" in data["route-tls.conf"], name


def test_the_policy_that_is_shipped_gives_admin_to_one_name_only(rendered):
    (policy,) = [
        item["data"]["policy.toml"] for item in rendered["base+auth"] if "policy.toml" in item.get("data", ())
    ]
    rules = tomllib.loads(policy)["rule"]
    assert [rule["principals"] for rule in rules if "admin" in rule["actions"]] == [["admin"]]


def test_what_is_written_by_generate_is_up_to_date(rendered):
    for name in OVERLAYS:
        kept = [item for item in yaml.safe_load_all((KUBERNETES / f"{name}.yaml").read_text()) if item]
        assert kept == rendered[f"overlays/{name}"], f"run deploy/kubernetes/generate: {name}.yaml is old"
    rule = yaml.safe_load((KUBERNETES / "components" / "monitoring" / "prometheusrule.yaml").read_text())
    rules = yaml.safe_load((OBSERVABILITY / "prometheus" / "streamway.rules.yml").read_text())
    assert rule["spec"] == rules, "run deploy/kubernetes/generate: prometheusrule.yaml is old"


def test_the_dashboards_are_those_of_the_repository_and_every_metric_exists(rendered):
    objects = rendered["base+monitoring"]
    (boards,) = [item for item in objects if item["metadata"]["name"] == "streamway-dashboards"]
    files = {path.name: path.read_text() for path in (OBSERVABILITY / "grafana").glob("*.json")}
    assert boards["data"] == files and boards["metadata"]["labels"]["grafana_dashboard"] == "1"
    (rule,) = [item for item in objects if item["kind"] == "PrometheusRule"]
    document = (ROOT / "docs" / "telemetry.md").read_text()
    table = re.findall(r"^\| `[a-z.]+` \| `(\w+)` \| (\w+)", document, re.MULTILINE)
    exist = {name for name, _ in table}
    exist |= {f"{name}{end}" for name, kind in table if kind == "histogram" for end in ("_bucket", "_sum", "_count")}
    queries = [one["expr"] for group in rule["spec"]["groups"] for one in group["rules"]]
    queries += re.findall(r'"expr": "((?:[^"\\]|\\.)*)"', "".join(files.values()))
    used = {name for query in queries for name in re.findall(r"\b(?:streamway|rpc_server)_\w+", query)}
    assert len(used) > 10 and used <= exist, used - exist


def test_nothing_is_allowed_but_what_is_needed(rendered):
    objects = rendered["base+networkpolicy+fleet"]
    policies = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "NetworkPolicy"}
    deny = policies["streamway-default-deny"]
    assert set(deny) == {"podSelector", "policyTypes"} and set(deny["policyTypes"]) == {"Ingress", "Egress"}
    for item in (item for item in objects if item["kind"] in ("StatefulSet", "Deployment")):
        labels = item["spec"]["template"]["metadata"]["labels"]
        assert deny["podSelector"]["matchLabels"].items() <= labels.items()
        own = policies[item["metadata"]["name"]]
        ports = {port["name"] for port in item["spec"]["template"]["spec"]["containers"][0]["ports"]}
        ports |= {port["containerPort"] for port in item["spec"]["template"]["spec"]["containers"][0]["ports"]}
        for rule in own["ingress"]:
            assert all(port["port"] in ports for port in rule["ports"])
        for rule in own["egress"]:
            # DNS may run anywhere.
            assert "to" in rule or {port["port"] for port in rule["ports"]} <= {53, 5353}
    # The Job can reach the API server, and no pod can reach the Job.
    job = policies["streamway-credentials"]
    assert "ingress" not in job and [port["port"] for port in job["egress"][0]["ports"]] == [443, 6443, 8443]


def test_both_overlays_have_the_network_policy(rendered):
    for overlay in OVERLAYS:
        names = {item["metadata"]["name"] for item in rendered[f"overlays/{overlay}"] if item["kind"] == "NetworkPolicy"}
        assert {"streamway-default-deny", "streamway"} <= names, overlay
        assert ("streamway-nats" in names) == (overlay == "fleet")


def test_one_version_of_nats_is_named_everywhere(rendered):
    compose = (ROOT / "deploy" / "compose" / "compose.yaml").read_text()
    tools = (ROOT / "tests" / "tools.sh").read_text()
    named = set(re.findall(r"nats:([0-9.]+)-alpine", compose)) | set(re.findall(r"^nats_newest=(.*)", tools, re.MULTILINE))
    for _, template in pods(rendered):
        for container in template["spec"]["containers"]:
            named |= set(re.findall(r"^nats:([0-9.]+)-alpine$", container["image"]))
    assert len(named) == 1, named
    assert f"use {named.pop()}" in (ROOT / "docs" / "engines.md").read_text()


def test_the_document_names_what_is_there(rendered, tmp_path):
    text = (ROOT / "docs" / "deploy.md").read_text()
    assert tuple(sorted(re.findall(r"^\| `([a-z]+)` \|", text, re.MULTILINE))) == COMPONENTS
    for path in re.findall(r"apply -k (\S+)", text):
        assert (ROOT / path / "kustomization.yaml").exists(), path
    for kind, name in re.findall(r"(statefulset|deployment)/([a-z-]+)", text):
        kinds = [(item["kind"].lower(), item["metadata"]["name"]) for _, item in each(rendered)]
        assert (kind, name) in kinds
    (example,) = re.findall(r"^```yaml\n(# kustomization.yaml\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    root = os.path.relpath(ROOT, tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(example.replace("../streamway/", f"{root}/"))
    objects = [item for item in kustomize(tmp_path) if item["metadata"].pop("namespace") == "streamway"]
    for item in objects:
        assert not faults(json.dumps(item), VERSIONS[0]), item["metadata"]["name"]
    ((_, item, container, variables),) = streamway({"example": objects})
    assert item["kind"] == "Deployment" and container["image"] == "registry.example/streamway:0.1.0"
    assert variables["STREAMWAY_AUTO_CREATE_TOPICS"] == "false" and "STREAMWAY_TLS_CERT" in variables
