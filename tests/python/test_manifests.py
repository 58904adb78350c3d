"""The manifests of deploy/kubernetes as `kubectl kustomize` renders them, held against the schemas of Kubernetes, the
pod security standard `restricted`, and the server they start. No cluster: nothing here is applied.
"""

import functools
import json
import os
import pathlib
import re
import subprocess
import tomllib

import grpc
import jsonschema
import kubernetes_validate
import pytest
import yaml
from conftest import BINARY, ROOT
from grpc_health.v1 import health_pb2, health_pb2_grpc
from manifests import (  # noqa: F401 (rendered is a fixture)
    COMPONENTS, KUBERNETES, OVERLAYS, bytes_of, each, kustomize, of, pods, rendered, seconds, streamway,
    template,
)

OBSERVABILITY = ROOT / "deploy" / "observability"
VERSIONS = ("1.32", kubernetes_validate.latest_version())
CRDS = yaml.safe_load((ROOT / "tests" / "python" / "crds.yaml").read_text())


def test_the_components_are_those_of_the_documents():
    assert COMPONENTS == ("auth", "backup", "fleet", "gateway", "ha", "http", "monitoring", "networkpolicy", "otel", "tls")
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


def test_the_example_of_an_ingress_leads_to_the_http_listener(rendered):
    ingress = yaml.safe_load((KUBERNETES / "components" / "http" / "ingress.yaml").read_text())
    for version in VERSIONS:
        assert not faults(json.dumps(ingress, sort_keys=True), version)
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    target = path["backend"]["service"]
    services = [item for item in rendered["base+http"] if item["kind"] == "Service"]
    (service,) = [item for item in services if item["metadata"]["name"] == target["name"]]
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    assert ports[target["port"]["name"]] == 8080
    assert [entry["hosts"] for entry in ingress["spec"]["tls"]] == [[rule["host"]]]


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
        # Only another replica can take the calls that a delay is for.
        assert (seconds(checked["drain_delay"]) > 0) == (checked["engine"] == "jetstream"), name
        assert bytes_of(container["resources"]["limits"]["memory"]) > bytes_of(checked["memory_max"]) > 0, name
        assert checked["engine"] == ("jetstream" if item["kind"] == "Deployment" else "embedded"), name


def test_the_smaller_settings_of_the_document_are_accepted(rendered):
    text = (ROOT / "docs" / "deploy.md").read_text()
    (block,) = re.findall(r"^```sh\n(STREAMWAY_CONNECTIONS_MAX=.*?)^```", text, re.MULTILINE | re.DOTALL)
    smaller = dict(line.split("=") for line in block.splitlines())
    for name, _, _, variables in streamway(rendered):
        if name.startswith("overlays/"):
            assert of(variables | smaller)["memory_max"] == "1GiB", name


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
        assert checked["http.listen"].endswith(f":{ports['http']}" if "http" in ports else "127.0.0.1:8080"), name
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


def test_plaintext_and_tls_are_told_apart(rendered):
    for name, _, _, variables in streamway(rendered):
        wanted = "https" if "STREAMWAY_TLS_CERT" in variables else "kubernetes.io/h2c"
        services = [item for item in rendered[name] if item["kind"] == "Service"]
        ports = [port for item in services for port in item["spec"]["ports"] if port["name"] == "grpc"]
        assert len(ports) == 2 and all(port["appProtocol"] == wanted for port in ports), name


def dns_names(objects):
    (item,) = [item for item in objects if item["kind"] == "Certificate" and item["metadata"]["name"] == "streamway"]
    return item["spec"]["dnsNames"]


def test_a_certificate_has_the_names_of_its_namespace(rendered, tmp_path):
    def wanted(namespace):
        ends = ("", f".{namespace}", f".{namespace}.svc", f".{namespace}.svc.cluster.local")
        names = [f"{service}{end}" for service in ("streamway", "streamway-headless") for end in ends]
        return [*names, "*.streamway-headless", f"*.streamway-headless.{namespace}.svc.cluster.local"]

    assert dns_names(rendered["base+tls"]) == wanted("streamway")
    text = (ROOT / "docs" / "deploy.md").read_text()
    (snippet,) = re.findall(r"^```yaml\n(replacements:\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    base = os.path.relpath(KUBERNETES, tmp_path.resolve())
    file = {"namespace": "prod", "resources": [f"{base}/base"], "components": [f"{base}/components/tls"]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(file) + snippet)
    assert dns_names(kustomize(tmp_path)) == wanted("prod")


def test_the_labels_name_the_version_of_the_image(rendered):
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    for name, pod in pods(rendered):
        labelled = pod["metadata"]["labels"]["app.kubernetes.io/version"]
        image, tag = pod["spec"]["containers"][0]["image"].split(":")
        assert tag.removesuffix("-alpine") == labelled and (image != "streamway" or labelled == version), name


def test_a_changed_setting_rolls_the_pods(rendered, tmp_path):
    before = dict((name, container) for name, _, container, _ in streamway(rendered))["overlays/single"]
    base = os.path.relpath(KUBERNETES / "overlays" / "single", tmp_path.resolve())
    merge = {"name": "streamway", "behavior": "merge", "literals": ["STREAMWAY_REFLECTION=false"]}
    file = {"kind": "Kustomization", "resources": [base], "configMapGenerator": [merge]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(file))
    ((_, _, after, variables),) = streamway({"changed": kustomize(tmp_path)})
    assert variables["STREAMWAY_REFLECTION"] == "false" and len(variables) > 1
    assert after["envFrom"] != before["envFrom"]


def test_the_policy_that_is_shipped_gives_admin_to_one_name_only(rendered):
    (policy,) = [
        item["data"]["policy.toml"] for item in rendered["base+auth"] if "policy.toml" in item.get("data", ())
    ]
    rules = tomllib.loads(policy)["rule"]
    assert [rule["principals"] for rule in rules if "admin" in rule["actions"]] == [["admin"]]


def test_the_backup_is_made_and_checked_as_the_job_says(rendered, server, tmp_path):
    (job,) = [item for item in rendered["base+backup"] if item["kind"] == "CronJob"]
    pod = template(job)["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        args = [arg.replace("$(SERVER)", f"http://{server.listen}") for arg in container["args"]]
        args = [arg.replace("/backup/$(JOB)", str(tmp_path / "nightly")) for arg in args]
        done = subprocess.run([str(BINARY), *args], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{container['name']}: {done.stderr}"
    assert "whole" in done.stdout and (tmp_path / "nightly.backup").exists()
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "backup.md").read_text(), re.MULTILINE | re.DOTALL)
    root = os.path.relpath(ROOT, tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text("".join(blocks).replace("../streamway/", f"{root}/"))
    objects = kustomize(tmp_path)
    for item in objects:
        assert not faults(json.dumps(item), VERSIONS[0]), item["metadata"]["name"]
    (job,) = [item for item in objects if item["kind"] == "CronJob"]
    copy = template(job)["spec"]["initContainers"][0]
    assert copy["image"] == "registry.example/streamway:0.1.0"
    variables = {entry["name"]: entry for entry in copy["env"]}
    assert variables["SERVER"]["value"].startswith("https://") and "valueFrom" in variables["STREAMWAY_TOKEN"]
    assert {mount["mountPath"] for mount in copy["volumeMounts"]} == {"/backup", "/tls"}


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
    table = re.findall(r"^\| `[a-z._]+` \| `(\w+)` \| (\w+)", document, re.MULTILINE)
    exist = {name for name, _ in table}
    exist |= {f"{name}{end}" for name, kind in table if kind == "histogram" for end in ("_bucket", "_sum", "_count")}
    queries = [one["expr"] for group in rule["spec"]["groups"] for one in group["rules"]]
    queries += re.findall(r'"expr": "((?:[^"\\]|\\.)*)"', "".join(files.values()))
    used = {name for query in queries for name in re.findall(r"\b(?:streamway|rpc_server)_\w+", query)}
    assert len(used) > 10 and used <= exist, used - exist


def test_the_document_names_what_is_there(rendered, tmp_path):
    text = (ROOT / "docs" / "deploy.md").read_text()
    components = text[: text.index("\n## Helm\n")]
    assert tuple(sorted(re.findall(r"^\| `([a-z]+)` \|", components, re.MULTILINE))) == COMPONENTS
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
