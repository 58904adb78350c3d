"""The commands of the README and of other pages: their ```sh blocks, each with the output in the ```text block right after it."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```\n(?:\n?```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def blocks(page="README.md", heading=None):
    """Returns commands and outputs of a page, or of the section below one of its headings."""
    text = (ROOT / page).read_text()
    if heading:
        text = re.split(r"^#", text.split(f"\n{heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    return BLOCK.findall(text)


def is_docker(command):
    """Returns true for commands that tests/deploy/test_readme_docker.py runs. tests/python/test_readme.py runs all others."""
    return re.search(r"\bdocker ", command) is not None


def same(printed, expected):
    """Compares output with the README, where `…` matches anything on its line."""
    pattern = re.escape(expected.rstrip()).replace("…", ".*")
    return re.fullmatch(pattern, printed.rstrip()) is not None
