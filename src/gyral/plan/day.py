"""How many ask at which hour of a day."""

from __future__ import annotations

import numpy as np

HOURS = 24.0
TROUGH_H, PEAK_SHARE = 4.5, 0.5


def day(at: np.ndarray) -> np.ndarray:
    """Relative heights at shares of a day: fewest at half past four, a long high from noon, most in the evening.

    Two harmonics, 3.9 between most and fewest; a round shape of what consumer services see, not one that was measured.
    """
    angle = 2 * np.pi * (at * HOURS - TROUGH_H) / HOURS
    heights: np.ndarray = 1 - PEAK_SHARE * np.cos(angle) - 0.15 * np.sin(angle) - 0.1 * np.cos(2 * angle)
    return heights


def local_day(at: np.ndarray, utc_offset_h: float, hours: tuple[float, ...] = ()) -> np.ndarray:
    """Heights at shares of a day in UTC for people who live `utc_offset_h` ahead of it; their mean over the day is 1.

    Parameters
    ----------
    hours : measured heights at evenly spaced local times from midnight, linear between them; empty: `day`.
    """
    if hours:
        places = np.arange(len(hours) + 1) / len(hours)
        known = np.array([*hours, hours[0]], np.float64)
        mean = float(known[:-1].mean())
        return np.asarray(np.interp((at + utc_offset_h / HOURS) % 1.0, places, known)) / mean
    return day((at + utc_offset_h / HOURS) % 1.0)  # its harmonics have no mean
