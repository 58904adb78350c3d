"""A real headless Chromium, and what tests in it share."""

import contextlib
import http.server
import threading
import time

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

# The machine may be busy with other tests.
SECONDS = 30


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


def complaints(driver):
    """Errors of the console, which are also what the page's policy refused."""
    return [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@contextlib.contextmanager
def site(page):
    """A site that is not the server's, of one page. Returns its origin."""

    class Site(http.server.BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            self.send_response(200 if self.path == "/" else 404)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(page if self.path == "/" else b"")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://localhost:{served.server_port}"
        served.shutdown()
