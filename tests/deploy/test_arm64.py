"""The image for arm64, cross-compiled by the Dockerfile. It is inspected and not run, as there is no such machine here."""

import json

from engine import BYTES_MAX

OTHER = "streamway:test-arm64"
AARCH64 = 183
INTERPRETER = 3


def test_the_other_architecture_is_cross_compiled(bare_engine, tmp_path):
    engine = bare_engine
    engine.build("--platform", "linux/arm64", image=OTHER)
    image = json.loads(engine.docker("image", "inspect", OTHER).stdout)[0]
    assert image["Architecture"] == "arm64" and image["Size"] < BYTES_MAX
    print(f"image: {image['Size'] / 1e6:.1f} MB")
    engine.copy_out("/usr/local/bin/streamway", tmp_path / "streamway", "--platform", "linux/arm64", image=OTHER)
    binary = (tmp_path / "streamway").read_bytes()
    assert binary[:4] == b"\x7fELF" and int.from_bytes(binary[18:20], "little") == AARCH64
    start, size, count = (int.from_bytes(binary[at : at + length], "little") for at, length in ((32, 8), (54, 2), (56, 2)))
    kinds = [int.from_bytes(binary[start + n * size :][:4], "little") for n in range(count)]
    assert kinds and INTERPRETER not in kinds, "it is static"
