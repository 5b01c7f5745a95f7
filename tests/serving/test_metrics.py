"""What Prometheus reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from smoe_mt.serving.metrics import Metrics


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(metrics.text())
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def test_requests_are_counted_by_path_and_status() -> None:
    metrics = Metrics()
    metrics.requests.labels("/translate", 200).inc()
    metrics.requests.labels("/translate", 429).inc(2)
    assert samples(metrics)["smoe_mt_requests_total", "/translate", "429"] == 2


def test_a_gauge_is_asked_for_at_each_reading() -> None:
    metrics, waiting = Metrics(), [3.0]
    metrics.gauge("waiting_lines", "Lines that wait.", waiting.pop)
    assert samples(metrics)[("smoe_mt_waiting_lines",)] == 3


def test_two_servers_in_a_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.batches.inc()
    assert samples(second)[("smoe_mt_batches_total",)] == 0
