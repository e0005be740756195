"""The order of samples: all of them once an epoch, the same for any number of workers."""

from pipelines.training.order import SampleOrder


def samples(order: SampleOrder, epoch: int) -> list[tuple[int, int]]:
    return [order.at(epoch * order.length + offset) for offset in range(order.length)]


def test_every_sample_comes_once_an_epoch() -> None:
    sizes = [3, 0, 1, 5]
    everything = [(shard, k) for shard, size in enumerate(sizes) for k in range(size)]
    order = SampleOrder(sizes, seed=3)
    assert all(sorted(samples(order, epoch)) == everything for epoch in range(4))
    assert samples(order, 0) != samples(order, 1)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    walked = SampleOrder([4, 4, 4], seed=1)
    epochs = [samples(walked, epoch) for epoch in range(3)]
    assert samples(SampleOrder([4, 4, 4], seed=1), 2) == epochs[2]  # without the epochs before
    assert samples(walked, 0) == epochs[0]  # and back again
    assert samples(SampleOrder([4, 4, 4], seed=2), 0) != epochs[0]


def test_few_shards_are_mixed_at_a_time() -> None:
    first = samples(SampleOrder([4] * 6, seed=0, mixed=2), 0)
    for start in range(0, 24, 8):
        assert len({shard for shard, _ in first[start : start + 8]}) == 2


def test_a_negative_seed_orders_samples_too() -> None:
    assert sorted(samples(SampleOrder([2, 1], seed=-1), 0)) == [(0, 0), (0, 1), (1, 0)]


def test_shards_of_a_position_and_the_next_ones_are_known() -> None:
    order = SampleOrder([3, 1, 2, 4, 2], seed=4, mixed=2)
    for position in range(3 * order.length):
        shard, _ = order.at(position)
        known = order.shards_from(position)
        assert shard in known[:2]
        coming = [order.at(p)[0] for p in range(position, position + 40)]
        others = [s for s in dict.fromkeys(coming) if s not in known[:2]]
        if len(known) > 2 and others and order.group_at(position)[1] < 2:
            assert others[0] in known[2:]


def test_the_order_in_memory_is_that_of_mixed_shards_only() -> None:
    order = SampleOrder([100] * 1000, seed=0, mixed=4)
    seen = {order.at(position) for position in range(50_000, 50_400)}
    assert len(seen) == 400
    assert order._samples.nbytes == 400 * 16
