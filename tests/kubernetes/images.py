"""The images of the cluster in one file, as `docker save` writes it.

    images.py FILE

saves what the engine of TESTS_ENGINE has built.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "deploy"))
from engine import CACHE, IMAGE, ROOT, Engine  # noqa: E402

# What the manifests name.
CURRENT = "streamway:0.1.0"
# What the upgrade begins with.
RELEASED = "streamway:released"
NATS = re.findall(r"image: (nats:.*)", (ROOT / "deploy" / "kubernetes" / "fleet.yaml").read_text())[0]
# Until there is a tag, what was this many commits ago stands for the last release.
COMMITS_AGO = 100


def save(engine, place):
    """Writes the images to a file in `place`, and returns its path."""
    engine.take_in(CACHE / "peers.tar", NATS, ['ENTRYPOINT ["/usr/local/bin/nats-server"]'])
    engine.docker("tag", IMAGE, CURRENT)
    if os.environ.get("TESTS_SOAK"):
        build_released(engine)
    else:
        # A build of its own would take minutes: the upgrade is one to another name of the same image.
        engine.docker("tag", IMAGE, RELEASED)
    file = place / "images.tar"
    engine.docker("save", "-o", file, CURRENT, RELEASED, NATS, timeout=600)
    return file


def build_released(engine):
    """Builds the image of the last release."""
    def git(*arguments, **more):
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=False, **more)

    tag = git("describe", "--tags", "--abbrev=0", "--match", "v*", text=True).stdout.strip()
    released = tag or git("rev-list", f"--skip={COMMITS_AGO}", "--max-count=1", "HEAD", text=True).stdout.strip()
    assert released, f"no release to upgrade from: neither a tag nor {COMMITS_AGO} commits; is this a shallow clone?"
    with tempfile.TemporaryDirectory() as source:
        archive = git("archive", "--format=tar", released)
        assert archive.returncode == 0, archive.stderr
        subprocess.run(["tar", "-x", "-C", source], input=archive.stdout, check=True)
        engine.build("--build-arg", "PROFILE=ci", image=RELEASED, source=source)


if __name__ == "__main__":
    print(save(Engine(pathlib.Path((pathlib.Path(os.environ["TESTS_ENGINE"]) / "socket").read_text())), pathlib.Path(sys.argv[1])))
