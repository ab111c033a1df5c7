"""The page of a model's compressions: it draws what was decided, and decides nothing."""

import subprocess
import sys

from fastprune.reports.summary import render


def compression(macs, pruned, *, on_front=True, refused=()):
    return {
        "label": f"MACs {macs}",
        "metric": "accuracy",
        "dense": 0.9,
        "pruned": pruned,
        "macs": macs,
        "latency": 0.8,
        "params": 0.7,
        "megabytes": 30.0,
        "version": "",
        "on_front": on_front,
        "refused": list(refused),
        "standard_error": {"dense": 0.01, "pruned": 0.0123, "drop": 0.004},
    }


def test_the_page_shows_the_front_and_the_pick():
    found = [compression(0.7, 0.9), compression(0.4, 0.87), compression(0.5, 0.8, on_front=False, refused=["too bad"])]
    page = render({"cost": "macs", "picked": 1, "compressions": found, "failed": []})
    assert page.count("<svg") == 1 and page.count('class="picked"') == 1
    assert "87.00 &plusmn; 1.23" in page and "90.00" in page and ">picked</td>" in page and "too bad" in page


def test_reports_know_nothing_of_releases():
    script = (
        "import sys, fastprune.reports.report, fastprune.reports.summary; "
        "print([name for name in sys.modules if name.startswith('fastprune.releases')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
