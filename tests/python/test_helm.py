"""The Helm chart as it is rendered. No cluster: nothing here is installed."""

import json
import os
import subprocess
import tarfile
import tomllib

import pytest
import yaml
from conftest import ROOT
from test_crds import CRDS, OURS_ALONE, refused
from test_manifests import OBSERVABILITY, VERSIONS, faults, pods, restricted

CHART = ROOT / "deploy" / "helm" / "streamway"
# The oldest Kubernetes of the chart. A Helm that is built by Go alone would take itself for that of an old one.
KUBERNETES = "--kube-version=1.32.0"
HELMS = ("v4", "v3") if os.environ.get("TESTS_SOAK") else ("v4",)
FLEET = ("engine=jetstream", "nats.bundled.enabled=true")
TLS = ("tls.enabled=true",)
AUTH = ("auth.enabled=true", "auth.existingSecret=streamway-auth")
OTEL = ("otel.enabled=true",)
MONITORING = ("serviceMonitor.enabled=true", "prometheusRule.enabled=true", "dashboards.enabled=true")
BACKUP = ("backup.enabled=true",)
HTTP = ("http.enabled=true",)
GATEWAY = ("grpcRoute.enabled=true", "grpcRoute.envoyGateway=true")
EXTERNAL = (
    "engine=jetstream", "nats.url=nats://a.example:4222\\,nats://b.example:4333", "nats.credentials.existingSecret=mine",
    "nats.credentials.method=creds", "nats.tls.existingSecret=ca", "nats.tls.clientCertificate=true",
)  # fmt: skip
SETS = {
    "single": (),
    "fleet": FLEET,
    "external": EXTERNAL,
    "single with everything": (*TLS, *AUTH, *OTEL, *BACKUP, *MONITORING, *GATEWAY, *HTTP),
    "fleet with everything": (*FLEET, *TLS, *AUTH, *OTEL, *BACKUP, *MONITORING, *GATEWAY),
}


def helm(*arguments, version="v4", check=True):
    done = subprocess.run(
        [str(ROOT / "tests" / ".cache" / "helm" / version / "helm"), *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, f"{arguments}:\n{done.stdout}{done.stderr}"
    return done


def template(*values, release="streamway", version="v4", files=()):
    """Objects of a release with values in the form of `--set`."""
    words = [word for value in values for word in ("--set", value)] + [word for file in files for word in ("-f", file)]
    done = helm("template", release, CHART, KUBERNETES, "--namespace", "streamway", *words, version=version)
    return [item for item in yaml.safe_load_all(done.stdout) if item]


@pytest.fixture(scope="module")
def rendered():
    return {name: template(*values) for name, values in SETS.items()}


def find(objects, kind, name="streamway"):
    (item,) = [item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return item


@pytest.mark.parametrize("version", HELMS)
@pytest.mark.parametrize("name", SETS)
def test_each_helm_finds_no_fault_and_renders_the_same(rendered, name, version):
    helm("lint", "--strict", CHART, KUBERNETES, *(word for value in SETS[name] for word in ("--set", value)), version=version)
    assert template(*SETS[name], version=version) == rendered[name]


def test_everything_is_valid_and_restricted(rendered):
    for name, objects in rendered.items():
        ids = [(item["kind"], item["metadata"]["name"]) for item in objects]
        assert len(ids) == len(set(ids)), name
        foreign = [item for item in objects if f"{item['apiVersion']}/{item['kind']}" in CRDS]
        for version in VERSIONS:
            for item in objects:
                found = faults(json.dumps(item, sort_keys=True), version)
                assert not found, f"{name}: {item['kind']} {item['metadata']['name']}: {found}"
        theirs = [item for item in foreign if not item["apiVersion"].startswith(OURS_ALONE)]
        assert not any(refused(theirs)), name
        for item in objects:
            if item["kind"] == "Pod":
                assert not restricted(item["spec"]), name
        for pod, workload in pods({name: [item for item in objects if item["kind"] != "Pod"]}):
            assert not restricted(workload["spec"]), pod
            assert workload["spec"]["automountServiceAccountToken"] is False, pod


def test_nothing_is_exposed_and_nothing_has_rights_in_the_whole_cluster(rendered):
    for name, objects in rendered.items():
        kinds = {item["kind"] for item in objects}
        assert not kinds & {"ClusterRole", "ClusterRoleBinding", "Ingress", "Secret", "Namespace"}, name
        assert ("GRPCRoute" in kinds) == ("everything" in name)
        for item in objects:
            if item["kind"] == "Service":
                assert item["spec"].get("type", "ClusterIP") == "ClusterIP", name
            if item["kind"] == "Role":
                assert item["rules"] == [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]}]


def test_two_releases_in_a_namespace_have_nothing_in_common():
    for values in ((*FLEET, *TLS, *AUTH, *BACKUP, *MONITORING, *GATEWAY), (*TLS, *AUTH)):
        first, second = (template(*values, release=release) for release in ("one", "two"))
        names = [{(item["kind"], item["metadata"]["name"]) for item in objects} for objects in (first, second)]
        assert not names[0] & names[1]
        for item in first:
            for selector in selectors(item):
                for name, workload in pods({"": [one for one in second if one["kind"] != "Pod"]}):
                    assert not selector.items() <= workload["metadata"]["labels"].items(), f"{item['metadata']['name']}: {name}"


def selectors(item):
    spec = item.get("spec", {})
    found = [spec["selector"]] if item["kind"] == "Service" else []
    found += [spec[key]["matchLabels"] for key in ("selector", "podSelector") if "matchLabels" in spec.get(key, {})]
    return found


def test_a_changed_setting_restarts_the_pods_and_a_changed_policy_does_not():
    def annotations(*values):
        return find(template(*AUTH, *values), "StatefulSet")["spec"]["template"]["metadata"]["annotations"]

    assert annotations() != annotations("config.STREAMWAY_REFLECTION=false")
    assert annotations() == annotations("auth.policy=other")


def test_the_notes_say_what_to_do_next():
    def notes(*values):
        words = [word for value in values for word in ("--set", value)]
        return helm("install", "demo", CHART, "-n", "prod", "--dry-run=client", *words).stdout.split("NOTES:\n")[1]

    commands = [line.strip() for line in notes().splitlines() if line.startswith("  ")]
    assert commands == [
        "kubectl -n prod rollout status statefulset/demo-streamway",
        "helm -n prod test demo",
        "kubectl -n prod port-forward service/demo-streamway 50051:50051",
    ]
    assert "deployment/demo-streamway" in notes(*FLEET)
    assert "WARNING" in notes("service.type=LoadBalancer") and "WARNING" in notes("service.type=NodePort", *TLS)
    assert "WARNING" not in notes("service.type=LoadBalancer", *TLS, *AUTH) and "WARNING" not in notes()


def test_what_generate_copies_is_up_to_date():
    for name in ("prometheus/streamway.rules.yml", "grafana/streamway.json", "grafana/traces.json"):
        copy = CHART / "files" / name.split("/")[1]
        assert copy.read_text() == (OBSERVABILITY / name).read_text(), f"run deploy/helm/generate: {copy.name} is old"


def test_the_chart_has_the_version_of_the_server_and_a_release_has_its_digests(tmp_path):
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == version
    digests = [f"sha256:{digit * 64}" for digit in "12"]
    command = [str(ROOT / ".ci" / "package-chart"), f"ghcr.io/a/streamway@{digests[0]}", f"nats:1@{digests[1]}", str(tmp_path)]
    path = f"{ROOT / 'tests' / '.cache' / 'helm' / 'v4'}:{os.environ['PATH']}"
    subprocess.run(command, env={**os.environ, "PATH": path}, check=True, timeout=60)
    package = tmp_path / f"streamway-{version}.tgz"
    with tarfile.open(package) as files:
        names = set(files.getnames())
    assert {f"streamway/{name}" for name in ("Chart.yaml", "values.schema.json", "files/streamway.rules.yml")} <= names
    server = find(yaml.safe_load_all(helm("template", "streamway", package).stdout), "StatefulSet")
    assert server["spec"]["template"]["spec"]["containers"][0]["image"] == f"ghcr.io/a/streamway@{digests[0]}"
