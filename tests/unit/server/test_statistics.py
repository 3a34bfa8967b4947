"""A model's statistics, as Triton counts them."""

from convscope_server.statistics import ModelStatistics


def test_requests_and_batches_are_counted_apart() -> None:
    statistics = ModelStatistics()
    for rows in (1, 3):
        statistics.succeeded(
            rows, total_s=0.5, queue_s=0.1, decode_s=0, compute_s=0.25, write_s=0.001
        )
    statistics.batches[4].add(0.25)
    statistics.fail.add(2)
    assert statistics.row_count == 4
    assert (statistics.success.count, statistics.success.ns) == (2, 1_000_000_000)
    assert (statistics.queue.count, statistics.queue.ns) == (2, 200_000_000)
    assert (statistics.compute_input.count, statistics.compute_input.ns) == (2, 0)
    assert (statistics.compute_infer.count, statistics.compute_infer.ns) == (2, 500_000_000)
    assert (statistics.compute_output.count, statistics.compute_output.ns) == (2, 2_000_000)
    assert (statistics.fail.count, statistics.fail.ns) == (1, 2_000_000_000)
    assert statistics.batches[4].count == 1
    assert statistics.last_request_ms > 1_700_000_000_000
