"""gRPC-Web in a real Chromium, from a page of another origin, by two clients that nobody here wrote."""

import http.server
import json
import pathlib
import threading

import pytest
from browser import chromium, complaints  # noqa: F401 (a fixture)
from conftest import ROOT, Server
from test_grpc_web import PACKAGES, descriptors

KINDS = {".js": "text/javascript", ".mjs": "text/javascript", ".html": "text/html"}
PAGE = """<!doctype html><link rel="icon" href="data:,"><script type="importmap">%s</script><script type="module">
import { run } from "/web_clients.mjs"; self.run = run;</script>"""


def imports():
    """Maps the names of modules to their files, as the packages' own descriptions do."""
    found = {"grpc-web": "/modules/grpc-web/index.esm.js"}
    for package in ["@bufbuild/protobuf", "@connectrpc/connect", "@connectrpc/connect-web"]:
        for name, place in json.loads((PACKAGES / package / "package.json").read_text())["exports"].items():
            found[package + name[1:]] = f"/modules/{package}{place['import'][1:]}"
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A site that is not the server's: it has the page, the packages and the descriptors."""
    place = tmp_path_factory.mktemp("site") / "descriptors"
    descriptors(place)

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            files = {"/descriptors": place, "/web_clients.mjs": ROOT / "tests" / "python" / "web_clients.mjs"}
            file = files.get(self.path) or PACKAGES / self.path.removeprefix("/modules/")
            body = (PAGE % json.dumps({"imports": imports()})).encode() if self.path == "/" else file.read_bytes()
            self.send_response(200)
            self.send_header("content-type", KINDS.get(pathlib.Path(self.path).suffix, "text/html"))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        yield f"http://localhost:{site.server_port}"
        site.shutdown()


def test_pages_of_a_listed_origin_call_stream_and_read_errors(page, chromium, tmp_path):  # noqa: F811
    server = Server(tmp_path / "data", "--http-origins", page)
    try:
        chromium.get(page)
        seen = chromium.execute_async_script(
            "const [url, done] = arguments; const ask = () => self.run ? run(url).then(done, e => done(String(e))) :"
            " setTimeout(ask, 20); ask();",
            f"http://{server.http}",
        )
    finally:
        server.kill9()
    told = {"next": "2", "read": ["a", "b"], "late": "NotFound", "error": ["NotFound", "TOPIC_NOT_FOUND"]}
    assert isinstance(seen, dict), seen
    assert seen["connect"] == told, complaints(chromium)
    code = "NOT_FOUND"
    more = {"asText": "2", "ended": "OK", "late": code, "error": [code, "TOPIC_NOT_FOUND"]}
    assert seen["grpcWeb"] == {**told, **more}, complaints(chromium)
    # Failed calls are answered 200, so that the console has nothing to complain about.
    assert complaints(chromium) == []
