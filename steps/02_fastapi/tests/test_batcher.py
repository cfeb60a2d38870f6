import asyncio
import random
import threading

import numpy as np
import pytest

from batcher import Batcher, Failed, Overloaded


class Predictor:
    """Doubles rows. Each call waits for `gate` and is written down; a row with a 13 in it raises `error`."""

    error: BaseException = ValueError("unlucky")

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self.calls: list[list[float]] = []
        self.threads: set[str] = set()
        self.observed: list[tuple[int, float, float]] = []

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.begun.set()
        assert self.gate.wait(10)
        self.calls.append(rows[:, 0].tolist())
        self.threads.add(threading.current_thread().name)
        if 13 in rows:
            raise self.error
        return rows * 2

    def observe(self, *batch) -> None:
        self.observed.append(batch)

    def sizes(self) -> list[int]:
        return [len(call) for call in self.calls]


def row(value: float, count: int = 1) -> np.ndarray:
    return np.full((count, 3), value, dtype=np.float32)


def run(test, **limits) -> Predictor:
    """Run `test(batcher, predictor)` in an event loop, within a deadline, and drain the batcher."""

    async def main():
        predictor = Predictor()
        batcher = Batcher(predictor, predictor.observe, **limits)
        await test(batcher, predictor)
        predictor.gate.set()
        await batcher.drain()  # a second time does no harm
        return predictor

    return asyncio.run(asyncio.wait_for(main(), 60))


async def held(batcher: Batcher, predictor: Predictor) -> asyncio.Task:
    """A job that the thread is predicting, and will be until the gate opens."""
    predictor.gate.clear()
    predictor.begun.clear()
    task = asyncio.create_task(batcher.submit(row(0)))
    assert await asyncio.to_thread(predictor.begun.wait, 10)
    return task


async def submit_all(batcher: Batcher, values) -> list[asyncio.Task]:
    """Jobs of one row each, waiting in the queue."""
    tasks = [asyncio.create_task(batcher.submit(row(value))) for value in values]
    await asyncio.sleep(0)  # each task comes to its first await
    return tasks


def test_a_row_that_comes_alone_is_predicted_at_once():
    async def test(batcher, predictor):
        assert (await batcher.submit(row(1))).tolist() == [[2, 2, 2]]
        assert (await batcher.submit(row(2))).tolist() == [[4, 4, 4]]

    assert run(test).sizes() == [1, 1]


def test_rows_that_come_during_a_batch_share_the_next():
    async def test(batcher, predictor):
        first = await held(batcher, predictor)
        others = await submit_all(batcher, range(1, 11))
        predictor.gate.set()
        assert [answer[0, 0] for answer in await asyncio.gather(first, *others)] == list(range(0, 22, 2))

    assert run(test).calls == [[0], list(range(1, 11))]


def test_rows_that_come_together_share_the_first_batch_too():
    async def test(batcher, predictor):
        await asyncio.gather(*await submit_all(batcher, range(5)))

    assert run(test).sizes() == [5]


def test_a_batch_has_its_bound_and_a_larger_job_is_a_batch_of_its_own():
    async def test(batcher, predictor):
        first = await held(batcher, predictor)
        tasks = await submit_all(batcher, range(1, 7))
        tasks.append(asyncio.create_task(batcher.submit(row(7, count=100))))
        await asyncio.sleep(0)
        tasks += await submit_all(batcher, [8])
        predictor.gate.set()
        await asyncio.gather(first, *tasks)

    assert run(test, max_batch=4).sizes() == [1, 4, 2, 100, 1]


def test_no_answer_goes_to_the_wrong_caller():
    async def test(batcher, predictor):
        async def ask(value: int) -> None:
            rows = row(value, count=random.Random(value).randint(1, 5))
            rows[:, 1] = range(len(rows))
            for _ in range(value % 7):
                await asyncio.sleep(0)
            assert np.array_equal(await batcher.submit(rows), rows * 2)

        await asyncio.gather(*map(ask, range(100, 5_100)))

    predictor = run(test, max_queue=100_000)
    assert sum(predictor.sizes()) == sum(random.Random(value).randint(1, 5) for value in range(100, 5_100))
    assert max(predictor.sizes()) <= 64
    assert len(predictor.calls) < 1_000  # or they have not been batched


def test_a_full_queue_refuses_and_takes_again_when_it_has_room():
    async def test(batcher, predictor):
        first = await held(batcher, predictor)
        waiting = await submit_all(batcher, range(1, 5))
        with pytest.raises(Overloaded):
            await batcher.submit(row(5))
        predictor.gate.set()
        await asyncio.gather(first, *waiting)
        assert (await batcher.submit(row(6)))[0, 0] == 12

    assert 5 not in np.concatenate(run(test, max_queue=4).calls)


def test_a_bad_row_fails_alone():
    async def test(batcher, predictor):
        first = await held(batcher, predictor)
        tasks = await submit_all(batcher, range(1, 65))
        predictor.gate.set()
        await first
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        bad = answers.pop(12)
        assert isinstance(bad, Failed) and bad.__cause__ is predictor.error
        assert [answer[0, 0] for answer in answers] == [2 * value for value in range(1, 65) if value != 13]

    assert len(run(test).calls) <= 2 + 2 * 6  # not one call for each of the 64


def test_the_rows_of_one_request_fail_together_and_no_other():
    async def test(batcher, predictor):
        first = await held(batcher, predictor)
        rows = [np.concatenate([row(1), row(13)]), row(2, count=3)]
        tasks = [asyncio.create_task(batcher.submit(several)) for several in rows]
        await asyncio.sleep(0)
        predictor.gate.set()
        bad, good = (await asyncio.gather(first, *tasks, return_exceptions=True))[1:]
        assert isinstance(bad, Failed)
        assert good.tolist() == [[4, 4, 4]] * 3

    run(test)


@pytest.mark.parametrize("error", [SystemExit("a model that exits"), StopIteration(), MemoryError()], ids=repr)
def test_whatever_predict_raises_the_next_request_is_answered(error):
    async def test(batcher, predictor):
        predictor.error = error
        with pytest.raises(Failed) as caught:
            await batcher.submit(row(13))
        assert caught.value.__cause__ is error
        assert (await batcher.submit(row(1)))[0, 0] == 2

    run(test)


def test_a_predict_that_gives_too_few_answers_fails():
    async def test(batcher, predictor):
        batcher._predict = lambda rows: rows[:-1]
        with pytest.raises(Failed) as caught:
            await batcher.submit(row(1, count=3))
        assert str(caught.value.__cause__) == "predict returned 2 answers for 3 rows"

    run(test)


def test_clients_that_have_gone_make_room_in_a_full_queue():
    async def test(batcher, predictor):
        first = await held(batcher, predictor)
        waiting = await submit_all(batcher, range(1, 5))
        for task in waiting[:3]:
            task.cancel()
        await asyncio.wait(waiting[:3])
        staying = asyncio.create_task(batcher.submit(row(5)))
        await asyncio.sleep(0)
        predictor.gate.set()
        assert [answer[0, 0] for answer in await asyncio.gather(first, waiting[3], staying)] == [0, 8, 10]

    run(test, max_queue=4)


def test_nothing_is_taken_any_more_once_it_drains():
    async def test(batcher, predictor):
        first = await held(batcher, predictor)
        draining = asyncio.create_task(batcher.drain())
        await asyncio.sleep(0)
        for _ in range(2):  # while it drains, and after
            with pytest.raises(Overloaded):
                await batcher.submit(row(1))
            predictor.gate.set()
            await draining
        assert (await first).tolist() == [[0, 0, 0]]

    run(test)


def test_a_job_whose_client_has_gone_is_not_predicted():
    async def test(batcher, predictor):
        first = await held(batcher, predictor)
        one, two, three = await submit_all(batcher, [1, 2, 3])
        two.cancel()
        await asyncio.wait([two])
        predictor.gate.set()
        assert [answer[0, 0] for answer in await asyncio.gather(first, one, three)] == [0, 2, 6]
        assert two.cancelled()

    assert run(test).calls == [[0], [1, 3]]


def test_a_client_that_goes_during_its_own_batch_does_no_harm():
    async def test(batcher, predictor):
        first = await held(batcher, predictor)
        first.cancel()
        waiting = await submit_all(batcher, [1])
        predictor.gate.set()
        assert (await waiting[0])[0, 0] == 2

    assert run(test).calls == [[0], [1]]


def test_a_queue_of_nothing_but_gone_clients_leaves_the_batcher_idle():
    async def test(batcher, predictor):
        first = await held(batcher, predictor)
        for task in await submit_all(batcher, range(1, 100)):
            task.cancel()
        predictor.gate.set()
        await first
        assert (await batcher.submit(row(5)))[0, 0] == 10

    assert run(test).calls == [[0], [5]]


def test_draining_answers_all_that_waits_and_ends_the_thread():
    async def test(batcher, predictor):
        first = await held(batcher, predictor)
        waiting = await submit_all(batcher, range(1, 200))
        draining = asyncio.create_task(batcher.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        predictor.gate.set()
        await draining
        assert all(task.done() for task in [first, *waiting])
        assert not batcher._thread.is_alive()

    run(test)


def test_the_event_loop_goes_on_during_a_prediction():
    async def test(batcher, predictor):
        first = await held(batcher, predictor)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not first.done()
        predictor.gate.set()
        await first

    assert run(test).threads == {"predict"}


def test_each_batch_is_observed():
    async def test(batcher, predictor):
        first = await held(batcher, predictor)
        waiting = await submit_all(batcher, [1, 2])
        await asyncio.sleep(0.05)
        predictor.gate.set()
        await asyncio.gather(first, *waiting)

    (rows, waited, took), (more_rows, waited_more, _) = run(test).observed
    assert (rows, more_rows) == (1, 2)
    assert waited > 0 and took >= 0.05 and waited_more >= 0.05  # as long as the gate was shut
