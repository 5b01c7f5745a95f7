"""The text that Prometheus reads."""

from __future__ import annotations

import re

from smoe_mt.serving.metrics import Metrics

SAMPLE = re.compile(r'^smoe_mt_\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? [0-9.e+]+$')


def test_every_line_is_a_comment_or_a_sample() -> None:
    metrics = Metrics()
    metrics.add("requests_total", labels={"path": "/translate", "status": "200"})
    metrics.gauge("waiting_lines", "Lines that wait.", lambda: 3)
    lines = metrics.text().splitlines()
    assert all(line.startswith(("# HELP ", "# TYPE ")) or SAMPLE.match(line) for line in lines)
    assert 'smoe_mt_requests_total{path="/translate",status="200"} 1' in lines
    assert "smoe_mt_waiting_lines 3" in lines


def test_buckets_count_what_is_not_above_them() -> None:
    metrics = Metrics()
    for lines in (1, 2, 300):
        metrics.observe("batch_sentences", lines)
    text = metrics.text()
    assert 'batch_sentences_bucket{le="1"} 1\n' in text and 'batch_sentences_bucket{le="2"} 2\n' in text
    assert 'batch_sentences_bucket{le="256"} 2\n' in text and 'batch_sentences_bucket{le="+Inf"} 3\n' in text
    assert "batch_sentences_sum 303.000000\n" in text and "batch_sentences_count 3\n" in text
