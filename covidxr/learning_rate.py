"""The learning-rate finder: raise the rate step by step and watch the loss."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter1d

from covidxr import checks
from covidxr._tensorflow import keras
from covidxr.errors import CovidxrError


def find_learning_rate(model, batches, steps=40, lowest=1e-6, highest=1e-1) -> pd.DataFrame:
    """Raise the learning rate step by step and watch the loss; weights and dropout's state are put back afterwards.

    Parameters
    ----------
    model : keras.Model
        With its weights as training will start from them.
    batches : AugmentedBatches
        Training batches; epochs follow one another as far as needed.
    steps : int
        Training steps, one batch each; the sweep ends early when the loss has risen to four times its minimum or is no
        number any more.
    lowest, highest : float
        The first and the last rate; between them it grows by a constant factor.

    Returns
    -------
    pandas.DataFrame
        ``learning_rate``, ``loss`` and ``smoothed`` (Gaussian mean over the steps on both sides, so that it does not lag
        behind), one row a step. ``suggest_learning_rate`` reads a rate off it.

    Raises
    ------
    CovidxrError
        When there are no steps, or the rates do not rise from one to the other.

    References
    ----------
    Smith L. N., Cyclical Learning Rates for Training Neural Networks, WACV 2017.

    Examples
    --------
    >>> from covidxr.augment import AugmentedBatches, build_policy
    >>> from covidxr.model import build_baseline
    >>> films = np.random.default_rng(0).integers(0, 255, (12, 9, 9), np.uint8)
    >>> batches = AugmentedBatches(films, np.arange(12) % 3, 3, build_policy("none"), batch_size=6)
    >>> len(find_learning_rate(build_baseline(9), batches, steps=5)) <= 5
    True
    """
    checks.check_whole("steps", steps, 1)
    if not 0 < lowest < highest < np.inf:
        raise CovidxrError(
            f"learning rates from {lowest} to {highest} do not rise; give two numbers above 0, lowest first"
        )
    saved = [(variable, variable.numpy()) for variable in model.variables]  # get_weights() lacks dropout's state
    optimizer = keras.optimizers.Adam(lowest)
    model.compile(optimizer, "categorical_crossentropy")
    rows = []
    for step, rate in enumerate(np.geomspace(lowest, highest, steps)):
        optimizer.learning_rate = rate
        loss = float(model.train_on_batch(*batches.batch(*divmod(step, len(batches)))))
        if not np.isfinite(loss):
            break
        rows.append((rate, loss))
        if loss > 4 * min(loss for _, loss in rows):
            break
    for variable, value in saved:
        variable.assign(value)
    sweep = pd.DataFrame(rows, columns=["learning_rate", "loss"])
    return sweep.assign(smoothed=gaussian_filter1d(sweep.loss, 3) if rows else [])


def suggest_learning_rate(sweep) -> float | None:
    """Read the rate of the steepest descent off a sweep, where there is one.

    Parameters
    ----------
    sweep : pandas.DataFrame
        From `find_learning_rate`.

    Returns
    -------
    float or None
        None where the smoothed loss nowhere falls by more than twice the scatter of the loss around it.

    Raises
    ------
    CovidxrError
        When the sweep has fewer than two steps.

    Examples
    --------
    >>> rates = np.geomspace(1e-4, 1, 5)
    >>> suggest_learning_rate(pd.DataFrame({"learning_rate": rates, "smoothed": [1.0, 0.98, 0.5, 0.4, 2.0]}))
    0.01
    """
    if len(sweep) < 2:
        raise CovidxrError(f"a sweep of {len(sweep)} steps has no slope; raise steps or lower the lowest rate")
    scatter = (sweep.loss - sweep.smoothed).std(ddof=0) if "loss" in sweep else 0.0
    if (sweep.smoothed.cummax() - sweep.smoothed).max() <= 2 * scatter:
        return None
    slopes = np.gradient(sweep.smoothed, np.log(sweep.learning_rate))
    return float(sweep.learning_rate.iloc[slopes.argmin()])
