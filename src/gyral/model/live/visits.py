"""Who takes what along on the next visit: scores, their gradients, and what a table keeps of a subject's past.

    score(u, i) = q_i · (p_u + Σ_{j ∈ past(u)} r_j / √n)  +  b_i  +  v · log(1 + lately_i)  +  [i ∈ past(u)] · again(i, u)

`again` is a number of the object, one of the subject, and three of small tables: by how many others were met since (log₂), how
often it was met, how long ago.
`lately` counts meetings by everybody and halves every ten days; `v` is one number for who has a past and one for who has none.
The loss of a visit is the cross-entropy of a softmax over all objects (above `MAX_SCORED` over a sample) against the uniform
distribution over what was taken, times √min(n, 20): a visit of forty things is not forty visits.

Past and popularity are facts and not weights: they are rows of tables too, so one log of changes carries all that an answer
needs. They are whole numbers below 2²⁴ (float32 holds them exactly), and setting one is a step of plain SGD at rate 1 with the
difference, which the server applies exactly once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MAX_SCORED = 20_000
"""Objects up to which the softmax is over all of them."""
SAMPLE = 4_096
LEAST_MASS = 0.004
"""Probability (of a step, weighted) below which an object's row is left as it is: a quarter of the rows is pushed then, for
.001 of recall@10."""
PAST = 256
"""Objects that a subject's row remembers, the newest."""
HEAD = 4
"""Numbers before them: how many there are, the hour of the last event, events in that hour, visits."""
PAST_WIDTH = HEAD + 3 * PAST
RANKS, TIMES, AGES = 8, 4, 12
POPULAR_WARM, POPULAR_COLD = RANKS + TIMES + AGES, RANKS + TIMES + AGES + 1
NUM_SMALL = 32
HALF_LIFE_H = 240.0
SEEN_WIDTH = 3
"""Of a row of popularity: meetings ever, meetings that halve with age, the hour up to which they have."""
HOUR_S = 3_600


class Objects(NamedTuple):
    """What is scored: `q_VD`, `b_V`, `lately_V` = log(1 + meetings that halve with age), and `again_V`, what is added for
    those who have met it."""

    q_VD: np.ndarray
    b_V: np.ndarray
    lately_V: np.ndarray
    again_V: np.ndarray


class Past(NamedTuple):
    """What B subjects met, flattened: `owner_N` in [0, B), `code_N`, `small_N3` (places in the small table), `scale_B` = 1/√n
    (0 where there is no past)."""

    owner_N: np.ndarray
    code_N: np.ndarray
    small_N3: np.ndarray
    scale_B: np.ndarray


class Gradients(NamedTuple):
    """Of the sum of losses: `q_CD`, `b_C` and `again_C` of what was scored, `r_ND` an occurrence in a past, `p_BE` (E = D + 1:
    the last is what is added to all that the subject has met), `small_S`."""

    q_CD: np.ndarray
    b_C: np.ndarray
    again_C: np.ndarray
    r_ND: np.ndarray
    p_BE: np.ndarray
    small_S: np.ndarray
    loss_B: np.ndarray


def lately(seen_V3: np.ndarray, hour: float) -> np.ndarray:
    """log(1 + meetings that halve with age), at an hour."""
    aged = np.maximum(hour - seen_V3[:, 2], 0)
    return np.asarray(np.log1p(np.maximum(seen_V3[:, 1], 0) * np.exp2(-aged / HALF_LIFE_H)), np.float32)


def seen_more(seen_V3: np.ndarray, met_V: np.ndarray, hour: float) -> np.ndarray:
    """Rows of popularity after `met_V` meetings at an hour."""
    hour = max(hour, 0.0)
    later_V = np.maximum(seen_V3[:, 2], np.float32(hour))
    by_V = np.exp2(-(later_V - seen_V3[:, 2]) / HALF_LIFE_H)
    own_V = np.exp2(-(later_V - np.float32(hour)) / HALF_LIFE_H)
    return np.stack([seen_V3[:, 0] + met_V, seen_V3[:, 1] * by_V + met_V * own_V, later_V], axis=1).astype(np.float32)


def past_of(rows_BP: np.ndarray, hour_B: np.ndarray) -> Past:
    """Read rows of pasts as they are at a visit's hour."""
    num_B = rows_BP[:, 0].astype(np.int64)
    owner_N = np.repeat(np.arange(len(rows_BP)), num_B)
    place_N = np.arange(len(owner_N)) - np.repeat(np.cumsum(num_B) - num_B, num_B)
    code_N = rows_BP[owner_N, HEAD + place_N].astype(np.int64)
    count_N = rows_BP[owner_N, HEAD + PAST + place_N]
    age_N = hour_B[owner_N] - rows_BP[owner_N, HEAD + 2 * PAST + place_N]
    rank_N = np.log2(num_B[owner_N] - place_N).astype(np.int64)
    times_N = np.minimum(count_N, TIMES).astype(np.int64) - 1
    old_N = np.log2(1 + np.maximum(age_N, 0) / 6).astype(np.int64)
    small_N3 = np.stack(
        [
            np.minimum(rank_N, RANKS - 1),
            RANKS + np.maximum(times_N, 0),
            RANKS + TIMES + np.minimum(old_N, AGES - 1),
        ],
        axis=1,
    )
    scale_B = np.where(num_B > 0, 1 / np.sqrt(np.maximum(num_B, 1)), 0).astype(np.float32)
    return Past(owner_N, code_N, small_N3, scale_B)


def packed(row_P: np.ndarray) -> np.ndarray:
    """The row of a past without the places that it does not use: 16 + 12 bytes an object instead of 3,088."""
    num = min(int(row_P[0]), PAST)
    return np.concatenate([row_P[:HEAD], *(row_P[HEAD + at * PAST : HEAD + at * PAST + num] for at in range(3))])


def unpacked(packed_P: np.ndarray) -> np.ndarray:
    """The row that `packed` was given."""
    made = np.zeros(PAST_WIDTH, packed_P.dtype)
    made[:HEAD] = packed_P[:HEAD]
    parts = packed_P[HEAD:].reshape(3, -1)
    made[HEAD:].reshape(3, PAST)[:, : parts.shape[1]] = parts
    return made


def remembered(row_P: np.ndarray, codes: np.ndarray, hour: int, num_events: int) -> np.ndarray:
    """The row of a past after a visit: what was taken goes to the end, what is too old falls out.

    Parameters
    ----------
    codes : distinct objects of the visit.
    num_events : of the subject in this hour, for the limit of robots.
    """
    num = int(row_P[0])
    old, counts, hours = (row_P[HEAD + at * PAST : HEAD + at * PAST + num] for at in range(3))
    again = np.isin(old, codes)
    before = dict(zip(old[again].tolist(), counts[again].tolist(), strict=True))
    stays = ~again
    parts = (
        np.concatenate([old[stays], codes])[-PAST:],
        np.concatenate([counts[stays], [before.get(float(code), 0) + 1 for code in codes.tolist()]])[-PAST:],
        np.concatenate([hours[stays], np.full(len(codes), hour)])[-PAST:],
    )
    made = np.zeros_like(row_P)
    in_hour = row_P[2] + num_events if row_P[1] == hour else num_events
    made[:HEAD] = len(parts[0]), hour, in_hour, row_P[3] + (len(codes) > 0)
    for at, part in enumerate(parts):
        made[HEAD + at * PAST : HEAD + at * PAST + len(part)] = part
    return made


def scores(objects: Objects, past: Past, r_ND: np.ndarray, p_BE: np.ndarray, small_S: np.ndarray) -> np.ndarray:
    """Score of every object for every subject, float32 [B, V]; codes of pasts are places in `objects`."""
    return _scores(objects, past, _needs(past, r_ND, p_BE), p_BE[:, -1], small_S)


def _needs(past: Past, r_ND: np.ndarray, p_BE: np.ndarray) -> np.ndarray:
    met_BD = np.zeros_like(p_BE[:, :-1])
    np.add.at(met_BD, past.owner_N, r_ND)
    return np.asarray(p_BE[:, :-1] + met_BD * past.scale_B[:, None])


def _scores(objects: Objects, past: Past, x_BD: np.ndarray, own_B: np.ndarray, small_S: np.ndarray) -> np.ndarray:
    power_B = np.where(past.scale_B > 0, small_S[POPULAR_WARM], small_S[POPULAR_COLD]) + np.float32(1)
    s_BV = x_BD @ objects.q_VD.T
    s_BV += objects.b_V
    s_BV += power_B[:, None] * objects.lately_V
    inside = past.code_N >= 0
    at = past.owner_N[inside], past.code_N[inside]
    s_BV[at] += small_S[past.small_N3[inside]].sum(1) + objects.again_V[at[1]] + own_B[at[0]]
    return np.asarray(s_BV)


def learn(
    objects: Objects,
    past: Past,
    r_ND: np.ndarray,
    p_BE: np.ndarray,
    small_S: np.ndarray,
    taken: list[np.ndarray],
    log_rarity_V: np.ndarray | None = None,
) -> Gradients:
    """Loss of B visits and its gradients.

    Parameters
    ----------
    taken : places in `objects` of what each visit took, distinct.
    log_rarity_V : log(1 / probability with which an object is among those scored); None: all are there.
    """
    x_BD = _needs(past, r_ND, p_BE)
    s_BV = _scores(objects, past, x_BD, p_BE[:, -1], small_S)
    if log_rarity_V is not None:
        s_BV += log_rarity_V
    s_BV -= s_BV.max(1, keepdims=True)
    log_sum_B = np.log(np.exp(s_BV).sum(1))
    g_BV = np.exp(s_BV - log_sum_B[:, None])
    loss_B = np.zeros(len(taken), np.float32)
    for row, places in enumerate(taken):
        if len(places):
            loss_B[row] = log_sum_B[row] - s_BV[row, places].mean()
            g_BV[row, places] -= np.float32(1 / len(places))
            g_BV[row] *= np.float32(min(len(places), 20) ** 0.5)
        else:
            g_BV[row] = 0
    gx_BD = g_BV @ objects.q_VD
    small = np.zeros_like(small_S)
    inside = past.code_N >= 0
    owner_N, code_N = past.owner_N[inside], past.code_N[inside]
    at_N = g_BV[owner_N, code_N]
    again_C = np.bincount(code_N, at_N, len(objects.b_V)).astype(np.float32)
    own_B = np.bincount(owner_N, at_N, len(taken)).astype(np.float32)
    for column in range(past.small_N3.shape[1]):
        np.add.at(small, past.small_N3[inside, column], at_N)
    popular_B = g_BV @ objects.lately_V
    is_warm = past.scale_B > 0
    small[POPULAR_WARM] = popular_B[is_warm].sum()
    small[POPULAR_COLD] = popular_B[~is_warm].sum()
    r_grads = gx_BD[past.owner_N] * past.scale_B[past.owner_N, None]
    return Gradients(g_BV.T @ x_BD, g_BV.sum(0), again_C, r_grads, np.column_stack([gx_BD, own_B]), small, loss_B)


def losses(
    objects: Objects, past: Past, r_ND: np.ndarray, p_BE: np.ndarray, small_S: np.ndarray, taken: list[np.ndarray]
) -> np.ndarray:
    """Loss of each visit, in nats, float32 [B]: of the softmax over all that is scored."""
    s_BV = scores(objects, past, r_ND, p_BE, small_S)
    s_BV -= s_BV.max(1, keepdims=True)
    log_sum_B = np.log(np.exp(s_BV).sum(1))
    return np.array([log_sum_B[row] - s_BV[row, places].mean() for row, places in enumerate(taken)], np.float32)
