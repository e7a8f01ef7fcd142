"""A language model's replica in simulated time, compiled: continuous batching, chunked prefill, a KV cache of so many tokens.

A step reads one token of each answer that is being made, and as much of the prompts that wait as is left of the chunk, oldest
first; it takes `fixed + per_token · tokens + per_context · context` seconds, context being the tokens whose keys and values are
read. A request is let in when its whole prompt and answer fit into the cache, so nobody is thrown out again. Answers are filed
under the step that ends them, so a step costs the same with one answer or hundreds.

Source: iteration-level scheduling, Yu et al., *Orca*, OSDI 2022; chunked prefill, Agrawal et al., *Sarathi-Serve*, OSDI 2024.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from gyral.plan.quantile_kernel import U, bin_of, quantile, uniform
from gyral.plan.simulate_kernel import arrival

_0, _1, _2, _3 = U(0), U(1), U(2), U(3)
COUNTED, FIRST, WHOLE, MADE, BUSY, AREA, END, STEPS, REFUSED = 0, 1, 2, 3, 4, 5, 6, 7, 8


@njit(nogil=True, cache=True)
def continuous(
    key: np.uint64, rates: np.ndarray, step_s: float, gaps: np.ndarray, prompts: np.ndarray, answers: np.ndarray,
    cost: np.ndarray, chunk: int, most_running: int, kv_tokens: int, max_waiting: int, longest: int, warm_s: float,
    firsts: np.ndarray, betweens: np.ndarray, wholes: np.ndarray, sums: np.ndarray,
) -> None:  # fmt: skip
    """Answer until everybody who came is answered.

    Parameters
    ----------
    prompts, answers : tables of quantiles of tokens; an answer has at least one and at most `longest`, a power of two.
    cost : [seconds of a step, of each token in it, of each token of context].
    firsts, betweens, wholes : int64 [BINS]: to the first token, from token to token (mean of a request), to the last.
    sums : float64 [9]: counted, seconds to first tokens, to last tokens, tokens made, busy seconds, area under who is there,
        its seconds, steps, refused.
    """
    n = len(rates)
    wait_t, wait_number = np.empty(max_waiting), np.empty(max_waiting, np.uint64)
    head, waiting = 0, 0
    came, first = np.empty(most_running), np.empty(most_running)
    prompt_of, answer_of = np.empty(most_running, np.int64), np.empty(most_running, np.int64)
    idle = np.arange(most_running)
    reading, left = np.empty(most_running, np.int64), np.empty(most_running, np.int64)
    read_head, num_reading, running = 0, 0, 0
    ends, follows = np.full(longest, -1), np.full(most_running, -1)
    decoding, context, used = 0, 0, 0
    t, number, now_step = 0.0, _0, 0
    next_t, at = arrival(0.0, 0, quantile(gaps, uniform(key, _0)), rates, step_s)
    while True:
        if not running and not waiting:
            if at >= n:
                break
            t = max(t, next_t)
        while next_t <= t:
            if waiting == max_waiting:
                sums[8] += 1
            else:
                place = head + waiting
                place = place - max_waiting if place >= max_waiting else place
                wait_t[place], wait_number[place] = next_t, number
                waiting += 1
                sums[5] += t - next_t
            number += _1
            next_t, at = arrival(next_t, at, quantile(gaps, uniform(key, number * _3)), rates, step_s)
        while waiting and running < most_running:
            who = wait_number[head]
            prompt = max(1, int(quantile(prompts, uniform(key, who * _3 + _1)) + 0.5))
            answer = min(max(1, int(quantile(answers, uniform(key, who * _3 + _2)) + 0.5)), longest)
            if used + prompt + answer > kv_tokens and running:
                break
            if prompt + answer > kv_tokens:
                sums[8] += 1
            else:
                slot = idle[running]
                running += 1
                used += prompt + answer
                came[slot], prompt_of[slot], answer_of[slot], left[slot] = wait_t[head], prompt, answer, prompt
                place = read_head + num_reading
                reading[place - most_running if place >= most_running else place] = slot
                num_reading += 1
            head = head + 1 if head + 1 < max_waiting else 0
            waiting -= 1
        if not running:
            continue
        room, tokens, old, begun = max(chunk - decoding, 0), decoding, context, 0
        place = read_head
        for _ in range(num_reading):
            if not room:
                break
            slot = reading[place]
            part = min(room, left[slot])
            old += prompt_of[slot] - left[slot]
            left[slot] -= part
            room -= part
            tokens += part
            if not left[slot]:
                begun += 1
            place = place + 1 if place + 1 < most_running else 0
        lasts = cost[0] + cost[1] * tokens + cost[2] * old
        sums[5] += lasts * (running + waiting)
        t += lasts
        sums[4] += lasts
        sums[7] += 1
        context += decoding
        now_step += 1
        slot = ends[now_step & (longest - 1)]
        ends[now_step & (longest - 1)] = -1
        while slot >= 0:
            following = follows[slot]
            size = prompt_of[slot] + answer_of[slot]
            decoding -= 1
            # its first token entered with the prompt, each step added one
            context -= size
            used -= size
            running -= 1
            idle[running] = slot
            if came[slot] >= warm_s:
                sums[0] += 1
                sums[2] += t - came[slot]
                sums[3] += answer_of[slot]
                wholes[bin_of(t - came[slot])] += 1
                betweens[bin_of((t - first[slot]) / (answer_of[slot] - 1))] += 1
            slot = following
        for _ in range(begun):
            slot = reading[read_head]
            read_head = read_head + 1 if read_head + 1 < most_running else 0
            num_reading -= 1
            first[slot] = t
            if came[slot] >= warm_s:
                sums[1] += t - came[slot]
                firsts[bin_of(t - came[slot])] += 1
            if answer_of[slot] == 1:
                used -= prompt_of[slot] + 1
                running -= 1
                idle[running] = slot
                if came[slot] >= warm_s:
                    sums[0] += 1
                    sums[2] += t - came[slot]
                    sums[3] += 1
                    wholes[bin_of(t - came[slot])] += 1
            else:
                decoding += 1
                context += prompt_of[slot] + 1
                due = (now_step + answer_of[slot] - 1) & (longest - 1)
                follows[slot] = ends[due]
                ends[due] = slot
    sums[6] = t
    if not math.isfinite(t):
        sums[6] = n * step_s
