import random
from html.parser import HTMLParser

import pytest

from fastprune.reports import report

MANIFEST = {
    "source_model": "models/<b>mini</b>",
    "sample_size": 2048,
    "seq_len": 27.02,
    "seed": 0,
    "keep_ratio": 0.6,
    "macs_before": 3.2e8,
    "macs_after": 1.9e8,
    "kept_heads": [[0, 3], [], [1]],
    "versions": {"torch": "2.13.0"},
}
METRICS = {
    "metric": "accuracy",
    "dense": 0.8201,
    "pruned": 0.8124,
    "standard_error": {"dense": 0.0091, "pruned": 0.0092, "drop": 0.0041},
    "rows": 1725,
    "macs_kept": 0.5996,
    "params_kept": 0.832,
    "heads": [2, 0, 1],
    "filters": [64, 0, 7],
    "num_heads": 4,
    "num_filters": 64,
    "params": {"dense": 22_700_000, "pruned": 18_900_000},
    "megabytes": {"dense": 90.9, "pruned": 75.5},
    "latency_ms": {"dense": 33.1, "pruned": 21.2, "batch_size": 8, "seq_len": 27},
    "stages": {"search": 0.7871, "rearrange": 0.7912, "tuning": 0.8124},
    "seconds": {"prepare": 3.1, "importance": 14.2},
}

VOID = {"meta", "link", "br", "path", "use", "image"}


class Page(HTMLParser):
    """Collects text and attributes, and checks that tags are closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.words, self.links = [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def text_of(html):
    return " ".join(" ".join(Page(html).words).split())


def test_the_page_shows_the_figures():
    text = text_of(report.render(METRICS, MANIFEST))
    for figure in (
        "82.01",
        "81.24",
        "82.01 \N{PLUS-MINUS SIGN} 0.91",
        "\N{MINUS SIGN}0.77 points \N{PLUS-MINUS SIGN} 0.41",
        "one standard error, of 1,725 evaluation rows",
        "320 M",
        "190 M",
        "60.0% kept",
        "22.7 M",
        "75.5",
        "1.56",
        "79.12",
    ):
        assert figure in text


def test_the_page_needs_no_other_file():
    assert not [link for link in Page(report.render(METRICS, MANIFEST)).links if not link.startswith("#")]


def test_names_are_escaped():
    assert "<b>mini" not in report.render(METRICS, MANIFEST)


def test_the_same_figures_give_the_same_page():
    assert report.render(METRICS, MANIFEST) == report.render(METRICS, MANIFEST)


@pytest.mark.parametrize(
    "missing", ["latency_ms", "stages", "seconds", "params", "megabytes", "standard_error", "rows"]
)
def test_what_was_not_measured_is_left_out(missing):
    text = text_of(report.render({name: value for name, value in METRICS.items() if name != missing}, MANIFEST))
    word = {
        "latency_ms": "latency",
        "stages": "after each stage",
        "seconds": "Seconds per stage",
        "params": "22.7 M",
        "megabytes": "on disk",
        "standard_error": "\N{PLUS-MINUS SIGN} 0.41",
        "rows": "is one standard error",
    }[missing]
    assert word not in text


def test_a_bert_large_is_drawn_whole():
    draw = random.Random(0)
    kept = [draw.sample(range(16), draw.randint(0, 16)) for _ in range(24)]
    metrics = METRICS | {
        "heads": [len(row) for row in kept],
        "filters": [draw.randint(0, 4096) for _ in kept],
        "num_heads": 16,
        "num_filters": 4096,
    }
    heads, filters = report.plots(metrics, MANIFEST | {"kept_heads": kept}).values()
    assert len(heads.axes[0].patches) == 24 * 16
    assert [bar.get_width() for bar in filters.axes[0].patches[24:]] == metrics["filters"]


def test_the_exported_model_is_told_as_a_candidate_of_its_own():
    exported = {"format": "onnx", "quantize": "int8", "metric": 0.8111, "agreement": 0.98765, "megabytes": 18.3}
    exported |= {"standard_error": 0.0095, "standard_error_of_drop": 0.0043}
    exported["latency_ms"] = {"batch_1": {"dense": 8.0, "exported": 1.0}, "batch_8": {"dense": 60.0, "exported": 8.0}}
    words = " ".join(Page(report.render({**METRICS, "exported": exported}, MANIFEST)).words)
    assert all(
        word in words
        for word in (
            "onnx int8",
            "81.11 \N{PLUS-MINUS SIGN} 0.95",
            "\N{MINUS SIGN}0.90 \N{PLUS-MINUS SIGN} 0.43",
            "98.77",
            "18.3",
            "8.00",
            "7.50",
        )
    )
    assert "As it is served" not in " ".join(Page(report.render(METRICS, MANIFEST)).words)
