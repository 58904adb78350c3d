"""The observability files of compose. promtool checks Prometheus's, and test_jaeger.py runs those of
the Collector and Jaeger. Grafana needs a hub, so its files are only compared with the others and with compose."""

import json
import re
import subprocess

import pytest
import yaml
from conftest import ROOT

OBSERVABILITY = ROOT / "deploy" / "observability"
GRAFANA = OBSERVABILITY / "grafana"
PROVISIONING = GRAFANA / "provisioning"


def read(path):
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope="module")
def services():
    return read(ROOT / "deploy" / "compose" / "compose.yaml")["services"]


def mounts(service):
    """Mounted files and directories of the repository, with their paths in the service."""
    pairs = [volume.split(":")[:2] for volume in service["volumes"] if volume.startswith("..")]
    return {(ROOT / "deploy" / "compose" / source).resolve(): place for source, place in pairs}


def port(endpoint):
    return int(endpoint.rsplit(":", 1)[1])


def test_images_are_pinned_by_version(services):
    for name, service in services.items():
        assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:-[a-z./-]+:v?\d+\.\d+\.\d+(-alpine)?\}", service["image"]), name


def test_prometheus_finds_its_rules_and_every_server(services):
    path = OBSERVABILITY / "prometheus" / "prometheus.yml"
    subprocess.run(["promtool", "check", "config", path.name], cwd=path.parent, check=True)
    assert f"{mounts(services['prometheus'])[path.parent]}/prometheus.yml" in services["prometheus"]["entrypoint"]
    (job,) = read(path)["scrape_configs"]
    (names,) = job["dns_sd_configs"]
    assert names["names"] == ["streamway"] and names["port"] == 8081
    for name in ("streamway-1", "streamway-2", "streamway-3"):
        assert services[name]["networks"]["inside"]["aliases"] == ["streamway"]
    assert set(services["prometheus"]["networks"]) >= {"inside", *services["streamway"]["networks"]}


def test_traces_go_from_the_servers_through_the_collector_to_jaeger(services):
    """test_jaeger.py runs both configurations, with other addresses."""
    collector, jaeger = read(OBSERVABILITY / "collector.yaml"), read(OBSERVABILITY / "jaeger.yaml")
    limit = collector["processors"]["memory_limiter"]["limit_mib"]
    assert limit < int(services["collector"]["mem_limit"].removesuffix("m"))
    compose = (ROOT / "deploy" / "compose" / "compose.yaml").read_text()
    (told,) = re.findall(r"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://(\w+):(\d+)", compose)
    assert told[0] in services and int(told[1]) == port(collector["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"])
    received = jaeger["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    assert collector["exporters"]["otlphttp/jaeger"]["endpoint"] == f"http://jaeger:{port(received)}"
    for name in ("collector", "jaeger"):
        assert services[name]["command"] == ["--config", mounts(services[name])[OBSERVABILITY / f"{name}.yaml"]]
        assert "edge" in services[name]["networks"]


def test_compose_has_the_jaeger_that_the_tests_run(services):
    """Version 1.N of Jaeger's Go module is version 2.(N - 63) of its image."""
    (module,) = re.findall(r"cmd/jaeger v1\.(\d+)\.0", (ROOT / "tests" / "tools.sh").read_text())
    assert f"jaeger:2.{int(module) - 63}.0}}" in services["jaeger"]["image"]


def test_grafana_has_our_dashboards_and_what_they_ask(services):
    seen = mounts(services["grafana"])
    assert seen[PROVISIONING] == "/etc/grafana/provisioning"
    (provider,) = read(PROVISIONING / "dashboards" / "streamway.yaml")["providers"]
    assert provider["options"]["path"] == seen[GRAFANA]
    sources = {one["uid"]: one for one in read(PROVISIONING / "datasources" / "streamway.yaml")["datasources"]}
    query = read(OBSERVABILITY / "jaeger.yaml")["extensions"]["jaeger_query"]
    listens = {"prometheus": 9090, "jaeger": port(query["http"]["endpoint"])}
    assert {uid: one["url"] for uid, one in sources.items()} == {
        name: f"http://{name}:{number}" for name, number in listens.items()
    }
    for path in GRAFANA.glob("*.json"):
        (variable,) = json.loads(path.read_text())["templating"]["list"]
        assert variable["query"] in {one["type"] for one in sources.values()}, path.name
    assert sources["jaeger"]["jsonData"]["tracesToMetrics"]["datasourceUid"] in sources


def test_the_links_from_a_trace_name_metrics_that_exist():
    text = (PROVISIONING / "datasources" / "streamway.yaml").read_text()
    used = set(re.findall(r"\bstreamway_\w+", text))
    table = (ROOT / "docs" / "telemetry.md").read_text()
    exist = set(re.findall(r"^\| `[a-z._]+` \| `(\w+)`", table, re.MULTILINE))
    assert used and {name.removesuffix("_bucket") for name in used} <= exist


def test_envoy_ends_tls_and_is_otherwise_the_same():
    plain, tls = (read(ROOT / "deploy" / "envoy" / name) for name in ("envoy.yaml", "tls.yaml"))
    for listener in tls["static_resources"]["listeners"]:
        (chain,) = listener["filter_chains"]
        context = chain.pop("transport_socket")["typed_config"]["common_tls_context"]
        (secret,) = context["tls_certificate_sds_secret_configs"]
        assert secret["name"] == read(ROOT / "deploy" / "envoy" / "certificate.yaml")["resources"][0]["name"]
    assert plain == tls


def test_what_the_documents_say_of_compose_is_there(services):
    profiles = {profile for service in services.values() for profile in service.get("profiles", ())}
    named = set()
    for name in ("README.md", "docs/deploy.md"):
        text = (ROOT / name).read_text()
        named |= set(re.findall(r"--profile ([a-z]+)", text))
        for service in re.findall(r"restart --no-deps (\S+)", text):
            assert service in services
    assert named == profiles
    table = (ROOT / "docs" / "deploy.md").read_text().split("## Load balancers")[1].split("\n## ")[0]
    files = set(re.findall(r"`([\w-]+\.(?:yaml|cfg|conf))`", table))
    assert files == {path.name for name in ("envoy", "haproxy", "nginx") for path in (ROOT / "deploy" / name).iterdir()}
