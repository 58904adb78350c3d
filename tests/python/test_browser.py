"""The console, event streams and the guard of the HTTP listener, in a real headless Chromium."""

import http.server
import json
import threading
import time
import urllib.request

import pytest
from conftest import Server
from selenium import webdriver
from selenium.webdriver.common.by import By

# The machine may be busy with other tests.
SECONDS = 30
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("data"))
    yield server
    server.kill9()


@pytest.fixture(scope="module")
def chromium():
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    driver.set_script_timeout(SECONDS)
    yield driver
    driver.quit()


def eventually(ask):
    """Asks until the answer is true, and returns it."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            answer = ask()
        except Exception as error:  # elements are replaced while they are read
            answer, last = None, error
        else:
            last = answer
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {SECONDS} s: {last!r}"
        time.sleep(0.05)


def button(driver, text):
    def found():
        buttons = driver.find_elements(By.XPATH, f"//button[normalize-space()='{text}']")
        return next((button for button in buttons if button.is_displayed() and button.is_enabled()), None)

    return eventually(found)


def post(server, path, body, kind="application/json"):
    headers = {"content-type": kind}
    request = urllib.request.Request(f"http://{server.http}{path}", body.encode(), headers, method="POST")
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return json.load(answer)


def publish(server, topic, *values):
    body = json.dumps({"records": [{"value": value} for value in values]})
    return post(server, f"/v1/topics/{topic}/records", body)


def shown(driver):
    return driver.execute_script("return document.querySelector('.records .rows')?.innerText || ''")


def complaints(driver):
    """Errors of the console, which are also what the page's policy refused."""
    return [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def test_a_topic_is_created_published_to_and_followed(server, chromium):
    chromium.get(f"http://{server.http}/")
    button(chromium, "Create topic").click()
    chromium.find_element(By.CSS_SELECTOR, "dialog input").send_keys("orders")
    button(chromium, "Create").click()
    eventually(lambda: chromium.current_url.endswith("#/topics/orders"))

    button(chromium, "Live tail").click()
    eventually(lambda: "Live" in chromium.find_element(By.CSS_SELECTOR, ".view").text)
    button(chromium, "Publish").click()
    chromium.find_element(By.CSS_SELECTOR, "dialog textarea").send_keys('{"total": 7}')
    chromium.find_element(By.CSS_SELECTOR, "dialog form .main").click()
    eventually(lambda: '{"total": 7}' in shown(chromium))
    publish(server, "orders", "from elsewhere")
    eventually(lambda: "from elsewhere" in shown(chromium))

    chromium.get(f"http://{server.http}/#/server")
    eventually(lambda: "embedded" in chromium.find_element(By.CSS_SELECTOR, ".facts").text)
    assert complaints(chromium) == []


def test_the_live_tail_continues_after_a_restart(server, chromium):
    publish(server, "lasting", "one")
    chromium.get(f"http://{server.http}/#/topics/lasting")
    button(chromium, "Live tail").click()
    eventually(lambda: "one" in shown(chromium))
    server.kill9()
    server.start()
    publish(server, "lasting", "two")
    eventually(lambda: "two" in shown(chromium))
    assert shown(chromium).count("one") == 1
    chromium.get_log("browser")


def test_what_a_record_holds_stays_text(server, chromium):
    publish(server, "hostile", HOSTILE)
    chromium.get(f"http://{server.http}/#/topics/hostile")
    row = eventually(lambda: chromium.find_elements(By.CSS_SELECTOR, ".records .rows .row"))[0]
    row.click()
    eventually(lambda: HOSTILE in chromium.find_element(By.CSS_SELECTOR, ".detail pre").text)
    assert chromium.find_elements(By.CSS_SELECTOR, "img") == []
    assert "owned" not in chromium.title and complaints(chromium) == []
    # Opened by itself, NDJSON is downloaded and shown by nobody; a document that is shown is of no origin.
    chromium.get(f"http://{server.http}/v1/topics/hostile/records")
    assert chromium.current_url.endswith("#/topics/hostile")
    chromium.get(f"http://{server.http}/v1/topics/hostile")
    assert chromium.execute_script("return self.origin") == "null"
    assert "owned" not in chromium.title


def test_an_event_source_continues_after_restarts_without_loss_or_repeat(server, chromium):
    publish(server, "events", "0")
    chromium.get(f"http://{server.http}/")
    chromium.execute_script("""
        self.got = []; const source = new EventSource('/v1/topics/events/records?from=earliest');
        source.onmessage = event => got.push(JSON.parse(event.data).value);""")
    got = lambda: chromium.execute_script("return self.got")  # noqa: E731
    eventually(lambda: len(got()) == 1)
    for round in range(1, 4):
        server.kill9()
        server.start()
        publish(server, "events", str(round))
        eventually(lambda: len(got()) > round)  # noqa: B023 (asked at once)
    assert got() == ["0", "1", "2", "3"]
    chromium.get_log("browser")


def test_tabs_that_are_not_looked_at_hold_no_connection(server, chromium):
    """Browsers open six connections to an origin over HTTP/1.1: the seventh tab must still load."""
    publish(server, "busy", "seen")
    first = chromium.current_window_handle
    tabs = []
    for _ in range(7):
        chromium.switch_to.new_window("tab")
        tabs.append(chromium.current_window_handle)
        chromium.get(f"http://{server.http}/#/topics/busy")
        button(chromium, "Live tail").click()
        eventually(lambda: "seen" in shown(chromium))
    for tab in tabs:
        chromium.switch_to.window(tab)
        chromium.close()
    chromium.switch_to.window(first)


def test_pages_of_another_origin_can_neither_publish_nor_read(server, chromium):
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        chromium.get(f"http://localhost:{other.server_port}/")
        url = f"http://{server.http}/v1/topics/stolen/records"
        chromium.execute_async_script(
            "const [url, done] = arguments;"
            "fetch(url, {method: 'POST', mode: 'no-cors', body: 'x'}).catch(() => 0).then(done)",
            url,
        )
        read = chromium.execute_async_script(
            "const [url, done] = arguments; fetch(url).then(() => 'read', () => 'refused').then(done)",
            f"http://{server.http}/v1/topics",
        )
        other.shutdown()
    assert read == "refused"
    with urllib.request.urlopen(f"http://{server.http}/v1/topics", timeout=SECONDS) as answer:
        assert "stolen" not in [topic["name"] for topic in json.load(answer)["topics"]]
    chromium.get_log("browser")
