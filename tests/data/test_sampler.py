import numpy as np
import pytest

from wssl_pl.data.sampler import WINDOW, KeySampler


def batches(sampler: KeySampler) -> list[list[int]]:
    indices = [index for _, index in sampler]
    return [indices[at : at + sampler.batch_size] for at in range(0, len(indices), sampler.batch_size)]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [3, 10, 23])
def test_each_validation_item_is_seen_exactly_once_over_all_ranks(size: int, world: int) -> None:
    ranks = [KeySampler(size, 4, train=False, rank=rank, world_size=world) for rank in range(world)]
    assert sorted(index for sampler in ranks for _, index in sampler) == list(range(size))
    assert [len(list(sampler)) for sampler in ranks] == [len(sampler) for sampler in ranks]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_training_ranks_get_the_same_count_and_share_nothing(world: int) -> None:
    ranks = [list(KeySampler(50, 4, train=True, rank=rank, world_size=world)) for rank in range(world)]
    assert {len(keys) for keys in ranks} == {50 // (4 * world) * 4}
    indices = [index for keys in ranks for _, index in keys]
    assert len(set(indices)) == len(indices)


def test_two_ranks_see_the_batches_of_one_process_with_the_joint_batch_size() -> None:
    alone = batches(KeySampler(50, 8, train=True, seed=1))
    first, second = (batches(KeySampler(50, 4, train=True, seed=1, rank=rank, world_size=2)) for rank in (0, 1))
    assert [sorted(a + b) for a, b in zip(first, second, strict=True)] == [sorted(batch) for batch in alone]


def test_a_set_smaller_than_a_batch_is_used_whole() -> None:
    assert sorted(index for _, index in KeySampler(3, 8, train=True)) == [0, 1, 2]
    assert len(KeySampler(7, 8, train=True, world_size=2)) == 3


def test_the_order_comes_from_seed_and_epoch() -> None:
    def keys(seed: int, epoch: int) -> list[tuple[int, int]]:
        sampler = KeySampler(40, 4, train=True, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert keys(1, 2) == keys(1, 2)
    assert all(epoch == 2 for epoch, _ in keys(1, 2))
    orders = {tuple(index for _, index in keys(seed, epoch)) for seed in (1, 2) for epoch in (0, 1, 2)}
    assert len(orders) == 6


def test_batches_are_skipped_once_and_the_length_stays() -> None:
    sampler = KeySampler(20, 4, train=True)
    whole = list(sampler)
    sampler.skip_batches(2)
    sampler.set_epoch(0)
    assert list(sampler) == whole[8:]
    sampler.set_epoch(0)
    assert list(sampler) == whole
    assert len(sampler) == 20


def test_every_iteration_is_the_next_epoch_unless_one_is_set() -> None:
    sampler = KeySampler(20, 4, train=True)
    assert [next(iter(sampler))[0] for _ in range(3)] == [0, 1, 2]
    sampler.set_epoch(1)
    assert [epoch for epoch, _ in sampler] == [1] * 20
    assert {epoch for epoch, _ in sampler} == {2}


def test_evaluation_stays_the_same() -> None:
    sampler = KeySampler(10, 4, train=False)
    assert list(sampler) == list(sampler) == [(0, index) for index in range(10)]


CHUNKS = np.repeat(np.arange(20), 3)


def sharded(rank: int = 0, world: int = 1, *, train: bool = True, fetch=None) -> KeySampler:
    return KeySampler(len(CHUNKS), 4, train=train, seed=3, rank=rank, world_size=world, chunks=CHUNKS, fetch=fetch)


def test_samples_of_shards_are_shuffled_within_windows_of_chunks() -> None:
    orders = [[index for _, index in sharded()] for _ in range(2)]
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == list(range(60))
    windows = [set(CHUNKS[orders[0][at : at + 3 * WINDOW]]) for at in range(0, 60, 3 * WINDOW)]
    assert [len(window) for window in windows] == [8, 8, 4]
    assert windows[0] != set(range(8))
    assert CHUNKS[orders[0][:12]].tolist() != sorted(CHUNKS[orders[0][:12]])


def test_windows_do_not_depend_on_the_number_of_ranks_or_on_what_was_skipped() -> None:
    alone = [index for _, index in KeySampler(60, 8, train=True, seed=3, chunks=CHUNKS)]
    ranks = [[index for _, index in sharded(rank, 2)] for rank in (0, 1)]
    assert [index for pair in zip(*ranks, strict=True) for index in pair] == alone
    resumed = sharded()
    resumed.skip_batches(5)
    assert [index for _, index in resumed] == [index for _, index in sharded()][20:]
    assert [index for _, index in sharded(train=False)] == list(range(60))


def test_a_window_and_the_next_one_are_fetched_when_it_is_entered() -> None:
    calls: list[list[int]] = []
    sampler = sharded(fetch=lambda chunks: calls.append(chunks.tolist()))
    keys = iter(sampler)
    first = {int(CHUNKS[next(keys)[1]]) for _ in range(24)}
    assert len(calls) == 1
    assert set(calls[0][:8]) == first
    rest = [int(CHUNKS[index]) for _, index in keys]
    assert [len(call) for call in calls] == [16, 12, 12]
    assert calls[0][8:] == calls[1][:8]
    assert set(calls[2][:4]) == set(rest[-12:])
    second = iter(sampler)
    assert {int(CHUNKS[next(second)[1]]) for _ in range(24)} == set(calls[2][4:])
    calls.clear()
    list(sharded(train=False, fetch=lambda chunks: calls.append(chunks.tolist())))
    assert calls == [list(range(16)), list(range(8, 20)), list(range(16, 20))]
