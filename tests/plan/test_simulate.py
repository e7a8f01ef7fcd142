"""Servers in simulated time, against exact formulas, laws that hold for any queue, and queues written down plainly."""

import heapq
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gyral.errors import UsageError
from gyral.plan import simulate as sim
from gyral.plan.simulate import Replica, Rules, Scaling, TokenCost, Traffic
from gyral.plan.spread import exponential, fixed, lognormal

CAME, REFUSED, LATE, WORKERS = 0, 1, 2, 4


@pytest.mark.parametrize(("workers", "busy", "requests"), [(1, 0.7, 4e6), (8, 0.9, 2e7), (64, 0.9, 6e7)])
def test_the_mean_wait_is_erlangs(workers, busy, requests):
    rate = workers * busy
    found = sim.first_come(Traffic.steady(rate, requests / rate), exponential(1.0), workers, warm_s=1e5 / rate, seed=5)
    assert found.waits.mean_s == pytest.approx(sim.erlang_c(rate, 1.0, workers), rel=0.02)
    assert found.busy == pytest.approx(busy, rel=0.01)


def test_erlangs_formula_gives_the_printed_values():
    # of one server: ρ / (1 − ρ) services
    assert sim.erlang_c(0.8, 1.0, 1) == pytest.approx(4.0)
    # the chance to wait of 10 Erlang at 14 servers is .1741 in tables of Erlang C
    assert sim.erlang_c(10.0, 1.0, 14) == pytest.approx(0.1741 / 4, rel=2e-3)
    assert sim.erlang_c(8.0, 1.0, 8) == math.inf


def test_quantiles_of_one_server_are_exponential():
    found = sim.first_come(Traffic.steady(0.7, 4e6), exponential(1.0), 1, warm_s=1e4, seed=2).sojourns
    for share in (0.5, 0.9, 0.99):
        assert found.quantile(share) == pytest.approx(-math.log(1 - share) / 0.3, rel=0.03)


def test_constant_service_waits_half_as_long():
    found = sim.first_come(Traffic.steady(0.8, 2e6), fixed(1.0), 1, warm_s=1e4, seed=3)
    assert found.waits.mean_s == pytest.approx(2.0, rel=0.03)  # Pollaczek and Khinchine


def test_a_heavy_tail_waits_as_pollaczek_and_khinchine_say():
    service = lognormal(1.0, 1.5)
    found = sim.first_come(Traffic.steady(0.6, 4e6), service, 1, warm_s=1e4, seed=4)
    assert found.waits.mean_s == pytest.approx(0.6 * (1 + service.cv**2) / 2 / 0.4, rel=0.04)


def _plainly(times, services, workers):
    free, waits = [0.0] * workers, []
    for t, service in zip(times, services, strict=True):
        begin = max(t, heapq.heappop(free))
        heapq.heappush(free, begin + service)
        waits.append(begin - t)
    return np.array(waits)


@given(workers=st.integers(1, 9), seed=st.integers(0, 1_000), rate=st.floats(0.2, 12.0))
@settings(max_examples=25, deadline=None)
def test_stages_are_the_queue_that_is_written_down_plainly(workers, seed, rate):
    traffic = Traffic.steady(rate, 500 / rate)
    told = sim.stages(traffic, [(fixed(1.0), workers)], seed=seed)
    both = sim.first_come(traffic, fixed(1.0), workers, seed=seed)
    assert len(told) == both.came == len(both.sojourns)
    assert told.mean_s == pytest.approx(both.sojourns.mean_s, rel=1e-9)
    kernel = sim._kernels()[0]
    times = np.empty(5_000)
    times = times[: kernel.arrivals(sim._key(seed), traffic.rates, traffic.step_s, traffic.gaps.table, times)]
    assert both.waits.mean_s == pytest.approx(_plainly(times, np.ones(len(times)), workers).mean(), abs=1e-9)


def test_a_second_stage_lengthens_and_its_wait_is_that_of_a_poisson_stream():
    # Burke: what leaves M/M/c is Poisson again, so the means add up
    traffic = Traffic.steady(5.0, 200_000)
    row = [(exponential(1.0), 8), (exponential(0.5), 4)]
    told = sim.stages(traffic, row, warm_s=100.0, seed=1)
    expected = sum(sim.erlang_c(5.0, each.mean, workers) + each.mean for each, workers in row)
    assert told.mean_s == pytest.approx(expected, rel=0.02)


def test_littles_law_holds_of_those_who_wait_for_a_batch():
    found = sim.batching(Traffic.steady(900.0, 500.0), 5e-4, 4e-4, noise=lognormal(1.0, 0.5), seed=1)
    assert found.in_queue == pytest.approx(found.waits.mean_s * found.came / 500.0, rel=1e-3)
    assert 1 < found.batch < 64


def test_littles_law_holds_of_those_in_a_language_model():
    found = sim.tokens(Traffic.steady(20.0, 2_000.0), _replica(), lognormal(400, 1.0), lognormal(80, 0.8), seed=1)
    assert found.in_system == pytest.approx(found.whole.mean_s * found.answered / found.end_s, rel=1e-3)
    assert found.refused == 0


def test_batches_are_as_large_as_the_load_asks():
    """When every batch takes as long as one, whoever came during a batch is the next: rate · seconds of them."""
    found = sim.batching(Traffic.steady(10_000.0, 100.0), 0.001, 0.0, max_batch=64, seed=1)
    assert found.batch == pytest.approx(10.0, rel=0.02)
    # who comes waits for the rest of a batch, half of it, and for his own
    assert found.sojourns.mean_s == pytest.approx(0.0015, rel=0.02)


def test_a_batch_of_one_is_a_queue_of_one():
    rate = 600.0
    batches = sim.batching(Traffic.steady(rate, 2_000.0), 0.0, 1e-3, noise=exponential(1.0), max_batch=1, seed=1)
    assert batches.waits.mean_s == pytest.approx(sim.erlang_c(rate, 1e-3, 1), rel=0.03)


def test_the_process_in_front_is_a_queue_of_its_own():
    plain = sim.batching(Traffic.steady(100.0, 2_000.0), 1e-3, 0.0, seed=1)
    behind = sim.batching(Traffic.steady(100.0, 2_000.0), 1e-3, 0.0, front_s=2e-3, seed=1)
    # M/D/1 in front: 2 ms of work, and ρ/(2(1−ρ)) of it waited; what leaves it never meets again
    assert behind.sojourns.mean_s - 1e-3 == pytest.approx(2e-3 * (1 + 0.2 / 1.6), rel=0.03)
    assert plain.sojourns.mean_s < behind.sojourns.mean_s


@given(seed=st.integers(0, 99), workers=st.integers(1, 6), rate=st.floats(0.5, 5.0))
@settings(max_examples=20, deadline=None)
def test_nobody_is_served_later_where_more_work(seed, workers, rate):
    traffic, service = Traffic.steady(rate, 2_000 / rate), lognormal(1.0, 1.0)
    few, many = (sim.first_come(traffic, service, each, seed=seed) for each in (workers, workers + 1))
    slow = sim.first_come(traffic, service.scaled(1.2), workers, seed=seed)
    assert few.came == many.came == slow.came  # the same people
    assert many.waits.mean_s <= few.waits.mean_s <= slow.waits.mean_s
    for share in (0.5, 0.9, 0.99):
        assert many.sojourns.quantile(share) <= few.sojourns.quantile(share) + 1e-9 <= slow.sojourns.quantile(share) + 2e-9


def test_equal_seeds_are_equal_and_others_are_not():
    def once(seed):
        a = sim.first_come(Traffic.steady(5.0, 2_000.0), lognormal(1.0, 2.0), 8, seed=seed)
        b = sim.batching(Traffic.steady(900.0, 20.0), 5e-4, 4e-4, noise=lognormal(1.0, 0.5), hop=exponential(1e-3), seed=seed)
        c = sim.tokens(Traffic.steady(5.0, 200.0), _replica(), lognormal(400, 1.0), lognormal(80, 0.8), seed=seed)
        return [each.tobytes() for each in (a.sojourns.counts, a.steps, b.sojourns.counts, b.steps, c.whole.counts)]

    assert once(7) == once(7)
    assert all(one != other for one, other in zip(once(7), once(8), strict=True))


def test_who_a_cache_answers_does_not_wait():
    rules = Rules(hit_share=0.5, hit_s=1e-3)
    found = sim.first_come(Traffic.steady(1.4, 2e6), exponential(1.0), 1, rules=rules, warm_s=1e4, seed=1)
    hits = found.sojourns.counts.max() / len(found.sojourns)
    assert found.busy == pytest.approx(0.7, rel=0.01)
    assert hits == pytest.approx(0.5, abs=0.01)
    # the misses are Poisson again, half as many
    assert 2 * found.waits.mean_s == pytest.approx(sim.erlang_c(0.7, 1.0, 1), rel=0.03)


def test_shedding_keeps_the_deadline_of_those_it_lets_in():
    traffic, late = Traffic.steady(12.0, 20_000.0), Rules(deadline_s=3.0)
    kept = sim.first_come(traffic, fixed(1.0), 10, rules=late._replace(sheds=True), seed=1)
    lost = sim.first_come(traffic, fixed(1.0), 10, rules=late, seed=1)
    assert kept.late == 0 and kept.refused / kept.came == pytest.approx(1 - 10 / 12, abs=0.01)
    assert lost.refused == 0 and lost.late > 0.95 * lost.came  # the queue only grows


def test_a_batching_server_that_gives_up_in_time_answers_in_time():
    rules = Rules(deadline_s=0.02, sheds=True)
    kept = sim.batching(Traffic.steady(4_000.0, 50.0), 1e-3, 5e-4, max_batch=8, rules=rules, seed=1)
    full = sim.batching(Traffic.steady(4_000.0, 50.0), 1e-3, 5e-4, max_batch=8, max_waiting=100, seed=1)
    # 8 / 5 ms are 1,600 a second
    assert kept.refused / kept.came == pytest.approx(1 - 1_600 / 4_000, abs=0.02)
    assert kept.sojourns.quantile(1.0) < 0.02 + 8 * 5e-4
    assert full.refused / full.came == pytest.approx(1 - 1_600 / 4_000, abs=0.02)
    assert full.waits.quantile(0.5) == pytest.approx(100 / 1_600, rel=0.1)


def test_rates_follow_their_steps():
    rates = np.array([100.0, 0.0, 300.0, 50.0])
    found = sim.first_come(Traffic(rates, 100.0), fixed(1e-3), 4, seed=1)
    assert found.steps[:, CAME] == pytest.approx(rates * 100, abs=4 * np.sqrt(30_000))
    assert found.steps[1, CAME] == 0


def test_an_autoscaler_comes_after_what_it_saw():
    rates = np.repeat([10.0, 80.0, 10.0], 20)
    scaling = Scaling(busy_share=0.5, lag=3, hold=5, least=2, most=400)
    found = sim.first_come(Traffic(rates, 60.0), fixed(1.0), 1, scaling=scaling, seed=1)
    workers = found.steps[:, WORKERS]
    assert workers[0] == 2 and workers[10] == pytest.approx(20, rel=0.1)
    assert workers[20:23] == pytest.approx(20, rel=0.1)  # the morning is not seen for three steps
    assert workers[23] > 100 and workers[30] == pytest.approx(160, rel=0.1)
    assert workers[40 + 3 + 4] == pytest.approx(160, rel=0.1) and workers[40 + 3 + 6] == pytest.approx(20, rel=0.2)
    waits = found.steps[:, 3] / found.steps[:, CAME]
    assert waits[21] > 10 > 2 > waits[35]
    sooner = sim.first_come(Traffic(rates, 60.0), fixed(1.0), 1, scaling=scaling._replace(lag=1), seed=1)
    assert sooner.waits.quantile(0.99) < found.waits.quantile(0.99)


def test_workers_of_a_step_come_and_go():
    counts = [1] * 10 + [4] * 10 + [1] * 10
    found = sim.first_come(Traffic(np.full(30, 2.0), 100.0), fixed(1.0), counts, seed=1)
    assert found.steps[:, WORKERS].tolist() == counts
    spent = found.steps[:, 3] / found.steps[:, CAME]
    assert spent[9] > 100 and spent[19] < 3 and spent[29] > 100


@dataclass
class _Answer:
    came: float
    prompt: int
    answer: int
    read: int = 0
    made: int = 0
    first: float = 0.0


def _decoded(arrivals, prompts, answers, cost, chunk, most_running, kv_tokens):
    """The same server, token by token."""
    waiting = [_Answer(*each) for each in zip(arrivals, prompts, answers, strict=True)]
    running, t, done = [], 0.0, []
    while waiting or running:
        if not running:
            t = max(t, waiting[0].came)
        while waiting and waiting[0].came <= t and len(running) < most_running:
            used = sum(each.prompt + each.answer for each in running)
            if running and used + waiting[0].prompt + waiting[0].answer > kv_tokens:
                break
            running.append(waiting.pop(0))
        decoding = [each for each in running if each.read == each.prompt]
        context = sum(each.prompt + each.made for each in decoding)
        room, tokens, begun = max(chunk - len(decoding), 0), len(decoding), []
        for each in running:
            if each.read < each.prompt and room:
                part = min(room, each.prompt - each.read)
                context += each.read
                each.read += part
                room -= part
                tokens += part
                if each.read == each.prompt:
                    begun.append(each)
        t += cost[0] + cost[1] * tokens + cost[2] * context
        for each in decoding:
            each.made += 1
        for each in begun:
            each.made, each.first = 1, t
        done += [(each.first - each.came, t - each.came) for each in running if each.made >= each.answer]
        running = [each for each in running if each.made < each.answer]
    return np.array(done)


@pytest.mark.parametrize(("chunk", "most_running", "kv_tokens"), [(64, 32, 10_000), (16, 3, 10_000), (512, 64, 600)])
def test_a_language_model_is_the_one_that_makes_token_by_token(chunk, most_running, kv_tokens):
    cost = TokenCost(4e-3, 1e-4, 1e-6)
    traffic, prompts, answers = Traffic.steady(8.0, 100.0), lognormal(60, 1.0), lognormal(20, 1.0)
    told = sim.tokens(traffic, Replica(cost, kv_tokens, chunk, most_running), prompts, answers, seed=3, longest=256)
    from gyral.plan import quantile_kernel as draws

    kernel, key = sim._kernels()[0], sim._key(3)
    times = np.empty(5_000)
    times = times[: kernel.arrivals(key, traffic.rates, traffic.step_s, traffic.gaps.table, times)]

    def drawn(spread, stream):
        numbers = (np.uint64(3 * number + stream) for number in range(len(times)))
        return [max(1, int(draws.quantile(spread.table, draws.uniform(key, each)) + 0.5)) for each in numbers]

    lengths = drawn(prompts, 1), np.minimum(drawn(answers, 2), 256).tolist()
    plain = _decoded(times.tolist(), *lengths, cost, chunk, most_running, kv_tokens)
    assert told.answered == len(plain) == len(times)
    assert told.first.mean_s == pytest.approx(plain[:, 0].mean(), rel=1e-9)
    assert told.whole.mean_s == pytest.approx(plain[:, 1].mean(), rel=1e-9)
    assert told.whole.quantile(0.99) == pytest.approx(np.quantile(plain[:, 1], 0.99), rel=0.03)


def test_a_request_that_no_cache_holds_is_refused():
    found = sim.tokens(Traffic.steady(1.0, 100.0), _replica(kv_tokens=100), fixed(90), fixed(20), seed=1)
    assert found.answered == 0 and found.refused > 50


def test_what_is_no_server_is_refused():
    traffic = Traffic.steady(1.0, 10.0)
    for call in (
        lambda: sim.first_come(traffic, fixed(1.0), 0),
        lambda: sim.first_come(Traffic(np.array([math.nan]), 1.0), fixed(1.0), 1),
        lambda: sim.first_come(traffic, fixed(1.0), 1, scaling=Scaling(0.0)),
        lambda: sim.batching(traffic, 1.0, 1.0, max_batch=0),
        lambda: sim.tokens(traffic, _replica(kv_tokens=0), fixed(1), fixed(1)),
    ):
        with pytest.raises(UsageError):
            call()


def _replica(kv_tokens=50_000):
    return Replica(TokenCost(4e-3, 2e-5, 1e-7), kv_tokens, 512, 128)
