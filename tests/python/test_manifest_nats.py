"""The NATS cluster of the manifests: its settings, its credentials and its TLS, on the real nats-server."""

import os
import re
import socket
import subprocess

from conftest import BINARY, ROOT
from manifests import of, pods, rendered, streamway  # noqa: F401 (a fixture)
from real import await_port, free_port, running

NATS = ROOT / "tests" / ".cache" / "nats" / "nats-server"


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


def test_one_version_of_nats_is_named_everywhere(rendered):
    texts = {path: path.read_text() for path in (ROOT / "deploy").rglob("*") if path.is_file()}
    found = {path: re.findall(r"(?:nats:|[tT]ag: )([0-9.]+)-alpine", text) for path, text in texts.items()}
    fleet = ROOT / "deploy" / "kubernetes" / "components" / "fleet"
    found[fleet / "nats.yaml"] = re.findall(r'app.kubernetes.io/version: "([0-9.]+)"', texts[fleet / "nats.yaml"])
    for name, pattern in (
        ("tests/tools.sh", r"^nats_newest=(.*)"),
        ("docs/engines.md", r"manifests use ([0-9.]+[0-9])"),
        ("CHANGELOG.md", r"The fleet uses nats-server ([0-9.]+[0-9])"),
    ):
        found[ROOT / name] = re.findall(pattern, (ROOT / name).read_text(), re.MULTILINE)
    found = {str(path.relative_to(ROOT)): versions for path, versions in found.items() if versions}
    places = {"deploy/compose/compose.yaml", "deploy/kubernetes/fleet.yaml", "deploy/helm/streamway/values.yaml", "tests/tools.sh"}
    assert places <= found.keys()
    for _, template in pods(rendered):
        for container in template["spec"]["containers"]:
            found.setdefault("rendered", []).extend(re.findall(r"^nats:([0-9.]+)-alpine$", container["image"]))
    assert len({version for versions in found.values() for version in versions}) == 1, found
