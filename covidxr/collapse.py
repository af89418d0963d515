"""Collapse: a network that gives every film the same answer, noticed, and given a new start.

With the article's recipe some seeds end so within an epoch: the units before the last layer are dead, so no gradient
passes them, and the loss stays at that of guessing for ever.
"""

from __future__ import annotations

import numpy as np

from covidxr._tensorflow import keras
from covidxr.pixels import preprocess

TRIES = 3  # the first and two more; what still collapses then is a finding about the recipe
LOOKED_AT = 64  # films


def has_collapsed(model, films, loss) -> bool:
    """Whether a network in training is lost: no number comes out, or the same numbers for every film.

    The films are looked at only where the loss is no number or hardly below that of guessing by the classes' shares
    (ln C for C classes of the same size), so that healthy training pays nothing.

    Parameters
    ----------
    model : keras.Model
        The network.
    films : covidxr.train.Films
        Training films, at least two different ones.
    loss : float
        Training loss of the last epoch.

    Returns
    -------
    bool

    Examples
    --------
    >>> from covidxr.model import build_baseline
    >>> from covidxr.train import Films
    >>> model, rng = build_baseline(9), np.random.default_rng(0)
    >>> films = Films(rng.integers(0, 255, (6, 9, 9), np.uint8), np.arange(6) % 3)
    >>> has_collapsed(model, films, np.log(3))
    False
    >>> model.get_layer("dense_1").set_weights([np.zeros((27, 64)), -np.ones(64)])
    >>> has_collapsed(model, films, np.log(3))
    True
    """
    shares = np.unique(films.labels, return_counts=True)[1] / len(films.labels)
    if loss < 0.9 * -(shares * np.log(shares)).sum():
        return False
    some = films.images[:: -(-len(films.images) // LOOKED_AT)]
    return not np.ptp(model.predict_on_batch(preprocess(some)), axis=0).max() > 1e-3  # not >, for NaN


def redraw_head(model, seed) -> None:
    """Draw the dense layers anew, in place, and give dropout another seed.

    Parameters
    ----------
    model : keras.Model
        The network; layers that are not dense keep their weights.
    seed : int
        The same seed gives the same head.

    Examples
    --------
    >>> from covidxr.model import build_baseline
    >>> model = build_baseline(9)
    >>> before = model.get_layer("dense_2").get_weights()[0]
    >>> redraw_head(model, 7)
    >>> bool((model.get_layer("dense_2").get_weights()[0] == before).any())
    False
    """
    for number, layer in enumerate(model.layers):
        if isinstance(layer, keras.layers.Dense):
            start = layer.kernel_initializer
            seeded = type(start).from_config({**start.get_config(), "seed": (1000 * seed + number) % 2**31})
            layer.kernel.assign(seeded(layer.kernel.shape))
            layer.bias.assign(np.zeros(layer.bias.shape))
        if isinstance(layer, keras.layers.Dropout):
            layer.seed_generator.state.assign([seed, 0])
