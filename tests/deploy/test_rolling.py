"""A rolling restart of the fleet, with the settings of its manifests, loses and repeats nothing."""

import os
import pathlib
import subprocess

import yaml
from engine import ROOT

BINARY = pathlib.Path(os.environ.get("TESTS_BINARY", ROOT / "target" / "release" / "streamway"))
NATS = ROOT / "tests" / ".cache" / "nats" / "nats-server"


def fleet(place):
    """Writes NATS's files of the fleet's manifests and credentials to `place`; returns the replicas' settings."""
    objects = [item for item in yaml.safe_load_all((ROOT / "deploy" / "kubernetes" / "fleet.yaml").read_text()) if item]
    maps = [item["data"] for item in objects if item["kind"] == "ConfigMap"]
    (files,) = [data for data in maps if "nats.conf" in data]
    for name, text in files.items():
        (place / name).write_text(text)
    (job,) = [item for item in objects if item["kind"] == "Job"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    flags = [flag for flag in container["args"] if not flag.startswith("--kubernetes-secret=")]
    subprocess.run([BINARY, *flags, "--dir", place], timeout=30, check=True)
    (settings,) = [data for data in maps if "STREAMWAY_ENGINE" in data]
    return settings


def test_a_rolling_restart_of_the_fleet_loses_nothing(tmp_path):
    settings = fleet(tmp_path)
    settings["STREAMWAY_NATS_NKEY_FILE"] = str(tmp_path / "seed")
    (tmp_path / "environment").write_text("\n".join(f"{name}={value}" for name, value in settings.items()))
    script = ROOT / "tests" / "deploy" / "rolling.sh"
    places = (BINARY, NATS, tmp_path / "nats.conf", tmp_path / "environment", tmp_path)
    # With a user namespace it does not need root.
    command = ["unshare", "--user", "--map-root-user", "--net", "--mount-proc", "--pid", "--fork", "--kill-child"]
    done = subprocess.run(
        [*command, str(script), *map(str, places)], capture_output=True, text=True, timeout=300, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("restarted") == 6
    assert "verified          everything acknowledged was delivered once and in order" in done.stdout
