"""The scheduled backup of docs/backup.md: its CronJob runs by itself, keeps the newest, and its files restore positions."""

import json
import pathlib

from engine import wait
from installed import kustomization

# Each minute instead of each night, and one backup instead of fourteen.
OFTEN = [
    {"op": "replace", "path": "/spec/schedule", "value": "* * * * *"},
    {"op": "replace", "path": "/spec/jobTemplate/spec/template/spec/initContainers/0/args/3", "value": "1"},
]


def finished(place):
    """Names of the Jobs of the schedule that succeeded, oldest first."""
    jobs = [job for job in place.json("get", "jobs")["items"] if job["metadata"]["name"].startswith("streamway-backup-")]
    return sorted(job["metadata"]["name"] for job in jobs if job.get("status", {}).get("succeeded"))


def volume(place):
    """The directory of the backups' volume on this machine."""
    claim = place.json("get", "pvc", "streamway-backup")["spec"]["volumeName"]
    return pathlib.Path(place.cluster.json("get", "pv", claim)["spec"]["hostPath"]["path"])


def backups(place):
    return sorted(path.name for path in volume(place).iterdir() if path.name.startswith("streamway-backup-"))


def test_the_schedule_makes_backups_that_restore_positions(place, tmp_path):
    patch = {"target": {"kind": "CronJob", "name": "streamway-backup"}, "patch": json.dumps(OFTEN)}
    place.apply(kustomization(tmp_path / "overlay", "overlays/single", ["backup"], patches=[patch]))
    place.ready("statefulset/streamway")
    place.serves()
    wait("a scheduled backup", lambda: finished(place), seconds=180, every=1)
    (first, *_) = finished(place)
    assert f"{first}.backup" in backups(place)
    assert "whole: every checksum matches" in place.kubectl("logs", f"job/{first}", "-c", "check")
    # One by hand, as the document says, with all that is stored until then.
    server = ["--server", f"http://{place.address()}"]
    place.streamway("publish", "greetings", *server, text="again\n")
    read = ["subscribe", "greetings", *server, "--resume-file", tmp_path / "position"]
    assert place.streamway(*read, "--from", "earliest", "--max", "2") == "hello\nworld\n"
    assert "greetings" in place.backup("by-hand")
    # The newest of the schedule is kept, and the one of another name.
    wait("another one", lambda: len(finished(place)) >= 2, seconds=180, every=1)
    place.kubectl("patch", "cronjob", "streamway-backup", "-p", '{"spec": {"suspend": true}}')
    wait("the end of the jobs", lambda: not any(job["status"].get("active") for job in place.json("get", "jobs")["items"]))
    kept = backups(place)
    assert len(kept) == 1 and f"{first}.backup" not in kept, kept
    # A topic that was deleted by mistake is restored, and its subscriber goes on.
    place.streamway("topics", "delete", "greetings", *server)
    place.streamway("copy", volume(place) / "by-hand.backup", f"http://{place.address()}", "-t", "greetings")
    assert place.streamway(*read) == "again\n"
