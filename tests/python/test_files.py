"""Linters for the files that no test executes, and trials of the release scripts."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

TOOLS = Path(sysconfig.get_path("scripts"))
ACTIONLINT = ROOT / "tests" / ".cache" / "actionlint" / "node_modules" / "@tktco" / "node-actionlint"
WORKFLOWS = ".github/workflows"


def run(*command, cwd=ROOT):
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def files():
    """All files that are in the repository or not ignored."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.split()
    return [name for name in listed if (ROOT / name).is_file()]


def clean(done):
    assert done.returncode == 0, done.stdout + done.stderr


def test_yaml():
    # The templates of the chart are YAML only once Helm has rendered them.
    found = [name for name in files() if name.endswith((".yml", ".yaml")) and "/templates/" not in name]
    assert len(found) > 20
    clean(run(TOOLS / "yamllint", "--strict", *found))


def test_shell_scripts():
    def is_shell(name):
        with (ROOT / name).open("rb") as file:
            return re.match(rb"#!.*\b(ba)?sh\b|# shellcheck shell=", file.readline()) is not None

    found = [name for name in files() if is_shell(name)]
    assert {"tests/run", "tests/tools.sh", ".ci/run", "deploy/kubernetes/generate"} <= set(found)
    clean(run(TOOLS / "shellcheck", "--external-sources", *found))


def test_dockerfiles():
    found = [name for name in files() if re.fullmatch(r"(.*[./])?Dockerfile(\..*)?", name)]
    for name in found:
        clean(run(TOOLS / "hadolint", name))


def test_a_release_builds_with_arguments_that_the_dockerfile_has():
    workflow = yaml.safe_load((ROOT / WORKFLOWS / "release.yml").read_text())
    (build,) = [step for step in workflow["jobs"]["build"]["steps"] if "build-push-action" in step.get("uses", "")]
    given = {line.split("=")[0] for line in build["with"]["build-args"].splitlines()}
    assert given == {"BUILD_IMAGE", "VERSION", "COMMIT"} and build["with"]["platforms"] == "linux/amd64,linux/arm64"
    arguments = dict(re.findall(r"^ARG (\w+)(.*)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert given <= set(arguments)
    # A default would override the platform of the build and put amd64's binary into the image for arm64.
    assert arguments["TARGETARCH"] == arguments["BUILDARCH"] == ""


def actionlint(pattern):
    return run(TOOLS / "node", ACTIONLINT / "bin" / "node-actionlint.js", pattern)


def test_workflows(tmp_path):
    clean(actionlint(f"{ROOT}/{WORKFLOWS}/*.yml"))
    wrong = (ROOT / WORKFLOWS / "release.yml").read_text().replace("steps.build.outputs", "steps.built.outputs")
    place = tmp_path / ".github" / "workflows"
    place.mkdir(parents=True)
    (place / "wrong.yml").write_text(wrong)
    assert actionlint(f"{place}/*.yml").returncode != 0, "actionlint finds what is wrong"


def test_actions_are_pinned_and_permissions_are_few():
    for path in (ROOT / WORKFLOWS).glob("*.yml"):
        text = path.read_text()
        for use in re.findall(r"uses: (.*)", text):
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use), f"{path.name}: {use}"
        workflow = yaml.safe_load(text)
        assert workflow["permissions"] in ({}, {"contents": "read"}), path.name
        for job in workflow["jobs"].values():
            assert "timeout-minutes" in job, path.name
        assert "pull_request_target" not in text, path.name


def test_each_job_of_a_release_has_the_rights_of_its_own_step():
    jobs = yaml.safe_load((ROOT / WORKFLOWS / "release.yml").read_text())["jobs"]
    rights = {name: set(job["permissions"].items()) for name, job in jobs.items()}
    read, write, identity = ("contents", "read"), ("contents", "write"), ("id-token", "write")
    assert rights == {
        "check": {read}, "build": {read}, "scan": {read}, "sign": {identity}, "name": set(), "publish": {write},
    }
    for name, job in jobs.items():
        text = yaml.safe_dump(job)
        assert ("REGISTRY_PASSWORD" in text) == (name in ("build", "scan", "sign", "name")), name
        # A job that runs code of the repository or of dependencies has no right to the identity or to the release.
        assert ("checkout" not in text and "build-push" not in text) or identity not in rights[name], name
    assert "scan" in jobs["sign"]["needs"] and "sign" in jobs["name"]["needs"] and "name" in jobs["publish"]["needs"]


@pytest.fixture
def project(tmp_path):
    """A repository with a release v0.1.0 of the protos and a commit after it."""
    for name in ("proto", ".ci"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("cache"))
    (tmp_path / "Cargo.toml").write_text('[package]\nname = "streamway"\nversion = "0.1.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n- Later.\n\n"
        "## [0.1.0] - 2026-01-01\n\n### Added\n\n- All.\n\n## [0.0.1]\n\n- Old.\n"
    )
    git(tmp_path, "init", "-q")
    commit(tmp_path)
    git(tmp_path, "tag", "v0.1.0")
    return tmp_path


def git(place, *arguments):
    clean(run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", *arguments, cwd=place))


def commit(place):
    git(place, "add", "-A")
    git(place, "commit", "-q", "--allow-empty", "-m", "a commit")


def breaking(place):
    return run(".ci/breaking", TOOLS / "buf", cwd=place)


def test_a_first_release_breaks_nobody(project):
    done = breaking(project)
    clean(done)
    assert "no release yet" in done.stdout


@pytest.mark.parametrize(
    "old, new, allowed",
    [
        ("uint64 tail = 3;", "uint64 tail = 30;", False),
        ("uint64 tail = 3;", "uint64 tail = 3; uint64 extra = 99;", True),
    ],
)
def test_a_change_that_breaks_clients_of_the_last_release_is_refused(project, old, new, allowed):
    path = project / "proto" / "streamway" / "v1" / "stream.proto"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    commit(project)
    done = breaking(project)
    assert "against v0.1.0" in done.stdout
    assert (done.returncode == 0) == allowed, done.stdout + done.stderr


def test_the_notes_of_a_release_are_its_section_of_the_changelog(project):
    done = run(".ci/release-notes", "0.1.0", cwd=project)
    clean(done)
    assert done.stdout.strip() == "### Added\n\n- All."
    assert run(".ci/release-notes", "0.2.0", cwd=project).returncode != 0, "Cargo.toml has another version"
    (project / "Cargo.toml").write_text('version = "0.2.0"\n')
    assert run(".ci/release-notes", "0.2.0", cwd=project).returncode != 0, "the changelog does not know it"


def test_the_manifests_of_a_release_name_the_image_that_was_signed():
    (expression,) = re.findall(r'sed "(s\|image: [^"]*)"', (ROOT / WORKFLOWS / "release.yml").read_text())
    expression = expression.replace("$IMAGE@$DIGEST", "example/streamway@sha256:0").replace("$nats", "nats:1@sha256:1")
    # The fleet's Job creates the credentials with the same image.
    for name, ours, nats in (("single", 1, 0), ("fleet", 2, 1)):
        manifest = ROOT / "deploy" / "kubernetes" / f"{name}.yaml"
        changed = run("sed", expression, manifest).stdout
        assert changed.count("image: example/streamway@sha256:0\n") == ours
        assert changed.count("image: nats:1@sha256:1\n") == nats
        assert len(re.findall("image: ", changed)) == len(re.findall("image: .*@sha256:", changed))
        assert len(changed.splitlines()) == len(manifest.read_text().splitlines())
