"""Learning-rate schedules: for each training step a learning rate and Adam's momentum, and when to stop.

A schedule is a pure function of the step and of the validation losses so far. So a training that goes on after a
break has nothing to remember: the history that it keeps anyway gives the same rates again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from covidxr.errors import unknown

MOMENTUM = 0.9  # Adam's usual beta_1
LEAST_FALL = 1e-4  # of the validation loss, to count as one, as in Keras' ReduceLROnPlateau


class Setting(NamedTuple):
    """What a schedule sets for one step: ``rate``, the learning rate, and ``momentum``, Adam's ``beta_1``."""

    rate: float
    momentum: float


class Plan(NamedTuple):
    """A schedule with its numbers.

    Attributes
    ----------
    schedule : {"plateau", "one-cycle"}
        ``plateau`` is the article's: a linear warm-up, then half the rate whenever the validation loss has not fallen
        for a third of `patience` epochs; it ends when that loss has not fallen for `patience` epochs. ``one-cycle`` is
        Smith and Topin's: the rate rises linearly from a tenth to its value over 45 % of the steps, falls back over
        the next 45 %, and to a thousandth over the rest, while the momentum goes from 0.95 to 0.85 and back; it has a
        warm-up of its own and runs to its end.
    learning_rate : float
        The highest rate.
    steps : int
        Steps an epoch.
    epochs : int
        At most so many.
    warmup_epochs : float
        Length of the warm-up of ``plateau``.
    patience : int
        See ``plateau``.

    References
    ----------
    Smith L. N., Topin N., Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates,
    arXiv:1708.07120, 2018.

    Examples
    --------
    >>> plan = Plan("one-cycle", learning_rate=1.0, steps=10, epochs=10)
    >>> [round(plan.at(step).rate, 3) for step in (0, 45, 90, 100)]
    [0.1, 1.0, 0.1, 0.001]
    """

    schedule: str
    learning_rate: float
    steps: int
    epochs: int
    warmup_epochs: float = 0
    patience: int = 10

    def at(self, step, losses=()) -> Setting:
        """Rate and momentum of a step.

        Parameters
        ----------
        step : int
            Counted from 0 over all epochs.
        losses : sequence of float
            Validation losses of the epochs before this one.

        Returns
        -------
        Setting

        Raises
        ------
        CovidxrError
            When there is no such schedule.

        Examples
        --------
        >>> Plan("plateau", 1.0, steps=4, epochs=9, warmup_epochs=1, patience=3).at(1)
        Setting(rate=0.5, momentum=0.9)
        """
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)
        return SCHEDULES[self.schedule](self, step, losses)

    def is_over(self, losses) -> bool:
        """Whether training ends after the epochs that gave these losses.

        Parameters
        ----------
        losses : sequence of float
            Validation losses so far.

        Returns
        -------
        bool

        Examples
        --------
        >>> Plan("plateau", 1.0, steps=4, epochs=9, patience=2).is_over([0.5, 0.6, 0.6])
        True
        """
        losses = np.nan_to_num(losses, nan=np.inf)
        worn_out = self.schedule == "plateau" and len(losses) and len(losses) - 1 - np.argmin(losses) >= self.patience
        return bool(len(losses) >= self.epochs or worn_out)


def _plateau(plan, step, losses):
    best, waited, halvings = np.inf, 0, 0
    for loss in losses:
        better = loss < best - LEAST_FALL
        best, waited = (loss, 0) if better else (best, waited + 1)
        if waited >= max(1, plan.patience // 3):
            halvings, waited = halvings + 1, 0
    warm_up = max(1, round(plan.warmup_epochs * plan.steps))
    return Setting(plan.learning_rate * 0.5**halvings * min(1, (step + 1) / warm_up), MOMENTUM)


def _one_cycle(plan, step, losses):
    turns = np.array([0, 0.45, 0.9, 1]) * plan.steps * plan.epochs
    share = np.interp(step, turns, [0.1, 1, 0.1, 0.001])
    return Setting(float(plan.learning_rate * share), float(np.interp(step, turns[:3], [0.95, 0.85, 0.95])))


SCHEDULES = {"plateau": _plateau, "one-cycle": _one_cycle}
