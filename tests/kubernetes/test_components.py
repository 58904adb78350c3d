"""One server and a fleet with every component at once: TLS on the port, to NATS and between its servers, tokens, a policy,
telemetry, and a backup, to which docs/backup.md gives the CA and a token.
"""

import base64
import json
import re
import subprocess
import tomllib

import pytest
import yaml
from engine import ROOT
from installed import BINARY, KUBERNETES, kustomization

COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir() if path.name != "fleet")
# The cluster has no definitions of other projects' objects. This makes the Secrets that cert-manager would.
FOREIGN = ("cert-manager.io", "monitoring.coreos.com", "gateway")


def secret(place, name, files):
    data = {key: base64.b64encode(value).decode() for key, value in files.items()}
    item = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
    place.kubectl("apply", "-f", "-", text=json.dumps(item))


def issue(place, tmp_path, certificates):
    """Makes the Secrets of these Certificates by openssl; returns the file of the CA."""
    def openssl(*arguments):
        subprocess.run(["openssl", *map(str, arguments)], cwd=tmp_path, capture_output=True, check=True)

    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl(*new, "-x509", "-days", 2, "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt")
    for spec in (item["spec"] for item in certificates if not item["spec"].get("isCA")):
        name = spec["secretName"]
        names = ",".join(f"DNS:{host}" for host in spec["dnsNames"])
        (tmp_path / "extensions").write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        sign = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", 2, "-extfile", "extensions"]
        openssl("x509", "-req", "-in", f"{name}.csr", *sign, "-out", f"{name}.crt")
        files = {"tls.crt": f"{name}.crt", "tls.key": f"{name}.key", "ca.crt": "ca.crt"}
        secret(place, name, {key: (tmp_path / file).read_bytes() for key, file in files.items()})
    return tmp_path / "ca.crt"


def documented_patches():
    """The patch of docs/backup.md for a server with the components `auth` and `tls`."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "backup.md").read_text(), re.MULTILINE | re.DOTALL)
    (patches,) = [block for block in map(yaml.safe_load, blocks) if "patches" in block]
    return patches["patches"]


@pytest.mark.parametrize("fleet", [False, True], ids=["single", "fleet"])
def test_with_every_component(place, tmp_path, fleet):
    components = ["fleet", *COMPONENTS] if fleet else COMPONENTS
    directory = kustomization(tmp_path / "overlay", "base", components, patches=documented_patches())
    done = subprocess.run(["kubectl", "kustomize", str(directory)], capture_output=True, text=True, check=True)
    items = [item for item in yaml.safe_load_all(done.stdout) if item]
    ca = issue(place, tmp_path, [item for item in items if item["kind"] == "Certificate"])
    made = subprocess.run([BINARY, "token", "billing"], capture_output=True, text=True, check=True).stdout
    token, line = made.splitlines()
    assert tomllib.loads(line)
    secret(place, "streamway-auth", {"tokens.toml": line.encode()})
    secret(place, "streamway-backup-token", {"token": token.encode()})
    own = [item for item in items if not item["apiVersion"].startswith(FOREIGN)]
    place.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(own))
    place.ready(*(["statefulset/streamway-nats", "deployment/streamway"] if fleet else ["statefulset/streamway"]))
    tls = ["--tls-ca", ca, "--tls-server-name", "streamway.streamway.svc.cluster.local"]
    environment = [f"STREAMWAY_TOKEN={token}"]
    place.serves("https", tls, environment)
    delete = ["topics", "delete", "greetings", "--server", f"https://{place.address()}", *tls]
    denied = place.streamway(*delete, check=False, environment=environment)
    assert "greetings" not in denied, "a caller that is not admin deletes nothing"
    assert "greetings" in place.backup("by-hand")
    if fleet:
        log = place.kubectl("logs", "streamway-nats-0", "-c", "nats")
        assert "TLS required for client connections" in log, log
