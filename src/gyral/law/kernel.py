"""Compiled loops of the solver: forms and their derivatives, robust Levenberg–Marquardt, starts, bootstraps.

Most laws are sums of terms whose logarithms are linear in the parameters, log term_k = Z_k · θ: an error floor, A / N^α, B
/ D^β, ties and cross terms alike. For these (`SUM`) value and derivative are a softmax over terms, and what is linear in
the law itself (the height of each term) is solved for exactly while exponents are searched on a grid (variable projection).
Other laws are a function of complex numbers each; a derivative is the imaginary part of a step of 1e-30 (exact to rounding:
nothing cancels).

Residuals are log predicted - log observed, or predicted - observed. The objective is the sum of w · ρ(r), with ρ of Huber,
r²/2 within δ and δ(|r| - δ/2) beyond. A step solves (G_in + μ G_out + λ diag) s = -g, where G_in sums J Jᵀ of residuals
within δ and G_out those beyond, weighted δ/|r|. With μ = 1 that is reweighting, which goes down from anywhere, slowly; with
μ → 0 it is Newton's step, which ends in a few. μ and λ are raised when a step does not go down, and lowered when it does.

Letters: n rows, K terms, P parameters.

**Source**: Huber, Annals of Mathematical Statistics 35 (1964); Marquardt, J. SIAM 11 (1963); Golub and Pereyra, SIAM J. Numer.
Anal. 10 (1973); Squire and Trapp, SIAM Review 40 (1998) for complex steps.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gyral.law.special_kernel import SUM, special

STEP = 1e-30
"""Of complex derivatives."""
MOST_STEPS, ENOUGH = 300, 1e-13
"""Steps of one fit, and the share of the objective that a step must gain to be followed by another."""
MOST_DAMPED = 1e12


@njit(cache=True, error_model="numpy")
def predicted(code: int, theta: np.ndarray, x_nM: np.ndarray) -> np.ndarray:
    """Logarithms of the law's values, n; NaN where it is not positive."""
    n, P = len(x_nM), len(theta)
    out = np.empty(n)
    complex_theta = theta.astype(np.complex128)
    for i in range(n):
        if code == SUM:
            K = x_nM.shape[1] // P
            top, total = -np.inf, 0.0
            for k in range(K):
                u = 0.0
                for p in range(P):
                    u += x_nM[i, k * P + p] * theta[p]
                if u > top:
                    total = total * np.exp(top - u) + 1.0
                    top = u
                else:
                    total += np.exp(u - top)
            out[i] = top + np.log(total)
        else:
            value = special(code, complex_theta, x_nM[i]).real
            out[i] = np.log(value) if value > 0 else np.nan
    return out


@njit(cache=True, error_model="numpy")
def _row(code: int, theta: np.ndarray, twin: np.ndarray, x: np.ndarray, grad: np.ndarray, terms: np.ndarray) -> float:
    """log of the value of one row; its derivatives go to `grad`."""
    P = len(theta)
    if code == SUM:
        K = len(x) // P
        top = -np.inf
        for k in range(K):
            u = 0.0
            for p in range(P):
                u += x[k * P + p] * theta[p]
            terms[k] = u
            if u > top:
                top = u
        total = 0.0
        for k in range(K):
            terms[k] = np.exp(terms[k] - top)
            total += terms[k]
        grad[:] = 0.0
        for k in range(K):
            share = terms[k] / total
            for p in range(P):
                grad[p] += share * x[k * P + p]
        return top + np.log(total)
    value = special(code, twin, x).real
    if not value > 0:
        return np.nan
    for p in range(P):
        twin[p] = complex(theta[p], STEP)
        grad[p] = special(code, twin, x).imag / STEP / value
        twin[p] = complex(theta[p], 0.0)
    return np.log(value)


@njit(cache=True, error_model="numpy")
def _sums(
    code: int, theta: np.ndarray, x_nM: np.ndarray, y_n: np.ndarray, w_n: np.ndarray, delta: float, is_log: bool, wants: bool,
    g: np.ndarray, inner: np.ndarray, outer: np.ndarray,
) -> float:  # fmt: skip
    """The objective; where `wants`, its gradient and the two halves of its curvature too."""
    n, P = len(y_n), len(theta)
    twin, grad, terms = theta.astype(np.complex128), np.empty(P), np.empty(max(1, x_nM.shape[1] // P))
    if wants:
        g[:], inner[:], outer[:] = 0.0, 0.0, 0.0
    total = 0.0
    for i in range(n):
        w = w_n[i]
        if w == 0.0:
            continue
        told = _row(code, theta, twin, x_nM[i], grad, terms)
        if not np.isfinite(told):
            return np.inf
        r = told - y_n[i]
        if not is_log:
            value = np.exp(told)
            r = value - np.exp(y_n[i])
            grad *= value
        size = abs(r)
        is_in = size <= delta
        total += w * (0.5 * r * r if is_in else delta * (size - 0.5 * delta))
        if wants:
            pull = w if is_in else w * delta / size
            for p in range(P):
                g[p] += pull * r * grad[p]
                weighted = pull * grad[p]
                if is_in:
                    for q in range(p + 1):
                        inner[p, q] += weighted * grad[q]
                else:
                    for q in range(p + 1):
                        outer[p, q] += weighted * grad[q]
    return total


@njit(cache=True, error_model="numpy")
def _solve(a: np.ndarray, b: np.ndarray, held: np.ndarray) -> bool:
    """Cholesky in place of the lower half of `a`, parameters that are held left at 0; False where it is not definite."""
    P = len(b)
    for p in range(P):
        if held[p]:
            for q in range(P):
                if q <= p:
                    a[p, q] = 0.0
                else:
                    a[q, p] = 0.0
            a[p, p], b[p] = 1.0, 0.0
    for p in range(P):
        for q in range(p + 1):
            s = a[p, q]
            for k in range(q):
                s -= a[p, k] * a[q, k]
            if p == q:
                if not s > 0:
                    return False
                a[p, p] = np.sqrt(s)
            else:
                a[p, q] = s / a[q, q]
    for p in range(P):
        s = b[p]
        for k in range(p):
            s -= a[p, k] * b[k]
        b[p] = s / a[p, p]
    for p in range(P - 1, -1, -1):
        s = b[p]
        for k in range(p + 1, P):
            s -= a[k, p] * b[k]
        b[p] = s / a[p, p]
    return True


@njit(cache=True, error_model="numpy")
def polish(
    code: int, theta: np.ndarray, x_nM: np.ndarray, y_n: np.ndarray, w_n: np.ndarray, low: np.ndarray, high: np.ndarray,
    delta: float, is_log: bool,
) -> tuple[np.ndarray, float, int]:  # fmt: skip
    """Go down from a start to where the objective ends falling.

    Parameters
    ----------
    low, high : of each parameter; equal: it is held.

    Returns
    -------
    the parameters, the objective, and the steps that were tried.
    """
    P = len(theta)
    here = np.minimum(np.maximum(theta, low), high)
    g, inner, outer = np.empty(P), np.empty((P, P)), np.empty((P, P))
    g2, inner2, outer2 = np.empty(P), np.empty((P, P)), np.empty((P, P))
    value = _sums(code, here, x_nM, y_n, w_n, delta, is_log, True, g, inner, outer)
    if not np.isfinite(value):
        return here, np.inf, 0
    a, step, held = np.empty((P, P)), np.empty(P), np.empty(P, np.bool_)
    mu, small, tried = 1.0, 0, 0
    while tried < MOST_STEPS:
        tried += 1
        ridge = 1e-9 * mu if mu <= 1 else 1e-9 + 1e-4 * (mu - 1)
        for p in range(P):
            held[p] = (here[p] <= low[p] and g[p] > 0) or (here[p] >= high[p] and g[p] < 0) or low[p] == high[p]
            for q in range(p + 1):
                a[p, q] = inner[p, q] + min(mu, 1.0) * outer[p, q]
            a[p, p] += ridge * (inner[p, p] + outer[p, p]) + 1e-300
            step[p] = -g[p]
        is_down = _solve(a, step, held)
        if is_down:
            new = np.minimum(np.maximum(here + step, low), high)
            found = _sums(code, new, x_nM, y_n, w_n, delta, is_log, True, g2, inner2, outer2)
            is_down = found <= value
        if is_down:
            gained = value - found
            here, value = new, found
            g, g2 = g2, g
            inner, inner2 = inner2, inner
            outer, outer2 = outer2, outer
            mu = max(mu / 8, 1e-6)
            small = small + 1 if gained <= ENOUGH * value else 0
            if small >= 2:
                break
        else:
            mu *= 8
            if mu > MOST_DAMPED:
                break
    return here, value, tried


@njit(cache=True, error_model="numpy")
def polish_many(
    code: int, starts_SP: np.ndarray, x_nM: np.ndarray, y_n: np.ndarray, w_n: np.ndarray, low: np.ndarray, high: np.ndarray,
    delta: float, is_log: bool,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """`polish` from each of S starts."""
    S, P = starts_SP.shape
    found_SP, value_S = np.empty((S, P)), np.empty(S)
    for s in range(S):
        found_SP[s], value_S[s], _ = polish(code, starts_SP[s], x_nM, y_n, w_n, low, high, delta, is_log)
    return found_SP, value_S


@njit(cache=True, error_model="numpy")
def bootstrap(
    code: int, starts_SP: np.ndarray, x_nM: np.ndarray, y_n: np.ndarray, w_Bn: np.ndarray, low: np.ndarray, high: np.ndarray,
    delta: float, is_log: bool,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The best fit from the given starts for each of B weightings of the rows."""
    B, P = len(w_Bn), starts_SP.shape[1]
    found_BP, value_B = np.empty((B, P)), np.full(B, np.inf)
    for b in range(B):
        keep = np.flatnonzero(w_Bn[b])  # a third of the rows is not drawn
        x, y, w = x_nM[keep], y_n[keep], w_Bn[b][keep]
        for s in range(len(starts_SP)):
            theta, value, _ = polish(code, starts_SP[s], x, y, w, low, high, delta, is_log)
            if value < value_B[b]:
                found_BP[b], value_B[b] = theta, value
    return found_BP, value_B


@njit(cache=True, error_model="numpy")
def heights(term_nK: np.ndarray, w_n: np.ndarray) -> tuple[np.ndarray, float]:
    """Heights c ≥ 0 of terms that best give 1: the least of Σ w (Σ_k c_k term_k - 1)², over every set of terms.

    Parameters
    ----------
    term_nK : terms over what was observed, so that errors are relative; K of at most 4 or so: there are 2^K sets.
    """
    n, K = term_nK.shape
    gram, right, total = np.zeros((K, K)), np.zeros(K), 0.0
    for i in range(n):
        w = w_n[i]
        total += w
        for k in range(K):
            t = w * term_nK[i, k]
            right[k] += t
            for j in range(k + 1):
                gram[k, j] += t * term_nK[i, j]
    best, best_value = np.zeros(K), total
    a, c, out = np.empty((K, K)), np.empty(K), np.empty(K, np.bool_)
    for chosen in range(1, 1 << K):
        for k in range(K):
            out[k] = not chosen >> k & 1
            c[k] = right[k]
            for j in range(k + 1):
                a[k, j] = gram[k, j]
            a[k, k] *= 1 + 1e-12
        if not _solve(a, c, out):
            continue
        is_fit, value = True, total
        for k in range(K):
            if not out[k]:
                is_fit &= c[k] > 0
                value -= c[k] * right[k]
        if is_fit and value < best_value:
            best_value = value
            for k in range(K):
                best[k] = 0.0 if out[k] else c[k]
    return best, best_value


@njit(cache=True, error_model="numpy")
def grid(
    x_nM: np.ndarray, y_n: np.ndarray, w_n: np.ndarray, theta_SP: np.ndarray, linear_K: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Starts of a sum of terms: for each choice of exponents the best heights, and how well that fits.

    Parameters
    ----------
    theta_SP : choices; the entries of heights are filled in.
    linear_K : for each term, which parameter is the logarithm of its height.
    """
    S, P = theta_SP.shape
    n, K = len(y_n), len(linear_K)
    value_S, term_nK = np.empty(S), np.empty((n, K))
    for s in range(S):
        for k in range(K):
            theta_SP[s, linear_K[k]] = 0.0
        for i in range(n):
            for k in range(K):
                u = -y_n[i]
                for p in range(P):
                    u += x_nM[i, k * P + p] * theta_SP[s, p]
                term_nK[i, k] = np.exp(u)
        found, value_S[s] = heights(term_nK, w_n)
        for k in range(K):
            theta_SP[s, linear_K[k]] = np.log(found[k]) if found[k] > 0 else -30.0
    return theta_SP, value_S
