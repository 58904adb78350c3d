"""Logs of the processes that a test started, shown if it fails. Both conftest.py import the hooks from here."""

import pathlib

import pytest

LINES_MAX = 100
_logs = []


class Log:
    """A log that is shown with every failure, until the end of the test in which `ended` is called."""

    def __init__(self, name, source):
        """`source` is a file or a function that returns the text."""
        self.name, self.source, self.has_ended = name, source, False
        _logs.append(self)

    def ended(self):
        self.has_ended = True

    def keep(self):
        """Reads the text now, since it will be gone when the test is reported."""
        text = self.text()
        self.source = lambda: text

    def text(self):
        try:
            text = self.source.read_text(errors="replace") if isinstance(self.source, pathlib.Path) else self.source()
        except Exception as error:
            text = f"cannot be read: {error}"
        return "\n".join(text.splitlines()[-LINES_MAX:])


def pytest_runtest_logstart():
    _logs[:] = [log for log in _logs if not log.has_ended]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport():
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        report.sections += [(f"log of {log.name}, last lines", log.text()) for log in _logs]
