"""Lung masks for every frontal radiograph: drawn ones, boxes, or those that the package's own small network predicts.

Network: a U-Net of 75,000 parameters (Ronneberger et al. 2015) at 128 × 128 pixels, its weights in ``lungs.npz``.
Trained on: the V7 lung masks of covid-chestxray-dataset (CC BY 4.0) and phantoms, by `covidxr.data._train_lungs`.
Known truth: Dice on images of other patients, by view, and images where it fails, are in docs/lungs.md.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Literal, NamedTuple, overload

import numpy as np
from scipy import ndimage, special

from covidxr.data._opencv import cv2
from covidxr.data.images import load_lung_boxes, load_masks, read_image_cache, write_image_cache
from covidxr.utils import CovidxrError

SMALLEST_SIDE = 32  # pixels; in smaller images there is little to see of lungs

SIDE = 128  # pixels of the network's input and output

WEIGHTS_FILE = Path(__file__).with_name("lungs.npz")

_WIDTHS = (16, 24, 32, 40)  # channels at 64, 32, 16 and 8 pixels

# Nearly all frontal images of other patients lie above it, and nearly all lateral, turned or inverted ones below; see docs/lungs.md.
LEAST_CONFIDENCE = 0.85

_BATCH = 64  # images in memory as probabilities at once


def build_unet(initializer="glorot_uniform"):
    """Build the network: standardised images (N, 128, 128, 1) to the logit of each pixel's being lung."""
    from covidxr._keras import keras

    layers = keras.layers

    def convolve(x, width):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, kernel_initializer=initializer)(x)
        return layers.Activation("relu")(layers.GroupNormalization(4)(x))

    image = layers.Input((SIDE, SIDE, 1))
    # Lungs are large: half the resolution is enough for their outline, and costs less than half.
    x = layers.Conv2D(_WIDTHS[0], 4, 2, padding="same", kernel_initializer=initializer)(image)
    skips = []
    for width in _WIDTHS[:-1]:
        x = convolve(convolve(x, width), width)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = convolve(convolve(x, _WIDTHS[-1]), _WIDTHS[-1])
    for width, skip in zip(_WIDTHS[-2::-1], skips[::-1], strict=True):
        x = layers.Conv2D(width, 1, kernel_initializer=initializer)(x)
        x = layers.UpSampling2D(interpolation="bilinear")(x)
        x = convolve(layers.Add()([x, skip]), width)
    logits = layers.Conv2D(1, 1, kernel_initializer=initializer)(x)
    return keras.Model(image, layers.UpSampling2D(interpolation="bilinear")(logits))


def standardise(images):
    """Scale each image of (N, H, W) to mean 0 and standard deviation 1."""
    images = images - images.mean((1, 2), keepdims=True)
    return images / np.maximum(images.std((1, 2), keepdims=True), 1e-3)


def predict_pair(network, images) -> np.ndarray:
    """Probabilities of lung, ``float32`` (2, N, 128, 128): of ``uint8`` images, and of their mirror images mirrored back."""
    small = np.stack([_resize(image, (SIDE, SIDE)) for image in images])
    scaled = standardise(small.astype(np.float32) / 255)
    logits = np.stack([_logits(network, scaled), _logits(network, scaled[:, :, ::-1])[:, :, ::-1]])
    return special.expit(logits)


def _logits(network, images):
    return np.asarray(network(images[..., None], training=False))[..., 0]


def _resize(image, shape):
    """Scale an image to (height, width), averaging where it shrinks."""
    shrinks = image.shape[0] > shape[0]
    return cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def keep_lungs(probabilities) -> np.ndarray:
    """Probabilities of one image (H, W) without what cannot be lung: a third component and smaller ones, and holes."""
    inside = probabilities > 0.5
    names, count = ndimage.label(inside)
    largest = 1 + np.argsort(-np.bincount(names.ravel(), minlength=count + 1)[1:])[:2]
    lungs = np.isin(names, largest)
    filled = ndimage.binary_fill_holes(lungs)
    kept = np.where(inside & ~filled, 0, probabilities)
    return np.where(filled & ~inside, 1, kept)


def masks_of(pair, shape) -> np.ndarray:
    """Masks of a given (height, width) from a pair of probabilities (2, N, 128, 128)."""
    found = [_resize(keep_lungs(mean).astype(np.float32), shape) > 0.5 for mean in pair.mean(0)]
    return np.array(found, bool).reshape(-1, *shape)


def dice(masks, others) -> np.ndarray:
    """Dice coefficient of each pair of masks, shape (N,): 1 where both are empty."""
    both, each = (masks & others).sum((1, 2)), masks.sum((1, 2)) + others.sum((1, 2))
    return np.where(each > 0, 2 * both / np.maximum(each, 1), 1.0)


def confidence_of(pair) -> np.ndarray:
    """Confidence in each image's mask, ``float64`` (N,), from a pair of probabilities (2, N, 128, 128).

    The product of three: the Dice expected from the probabilities themselves, the Dice of the image's mask and its mirror
    image's, and, below one half, twice the ratio of the smaller to the larger component, since a patient has two lungs.
    """
    mean = pair.mean(0)
    masks = np.stack([keep_lungs(probabilities) for probabilities in mean]) > 0.5
    expected = 2 * (mean * masks).sum((1, 2)) / (mean.sum((1, 2)) + masks.sum((1, 2)))
    agreement = dice(pair[0] > 0.5, pair[1] > 0.5)
    return expected * agreement * [min(1, 2 * _symmetry(mask)) for mask in masks]


def _symmetry(mask):
    """Ratio of the smaller to the larger of at most two components, 0 for fewer."""
    sizes = np.bincount(ndimage.label(mask)[0].ravel())[1:]
    return sizes.min() / sizes.max() if len(sizes) == 2 else 0.0


@functools.cache
def _network():
    network = build_unet("zeros")  # others would draw from the random state of whoever trains next
    with np.load(WEIGHTS_FILE) as stored:
        network.set_weights([stored[name].astype(np.float32) for name in sorted(stored.files)])
    return network


@overload
def segment_lungs(images: np.ndarray, return_confidence: Literal[False] = False) -> np.ndarray: ...
@overload
def segment_lungs(images: np.ndarray, return_confidence: Literal[True]) -> tuple[np.ndarray, np.ndarray]: ...
def segment_lungs(images: np.ndarray, return_confidence: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Predict the lungs of frontal chest radiographs.

    The network sees each image at 128 × 128 pixels, and its mirror image; the two predictions are averaged, at most the two
    largest components are kept, and holes are filled.

    Parameters
    ----------
    images : numpy.ndarray
        ``uint8``, shape (N, H, W), grey, both sides at least 32 pixels.
    return_confidence : bool
        Whether to return the confidence too.

    Returns
    -------
    masks : numpy.ndarray
        ``bool``, shape (N, H, W), True inside the lungs. As in the V7 masks, the left lung includes the part behind the heart.
    confidence : numpy.ndarray
        ``float64``, shape (N,), in [0, 1]; with `return_confidence` only. Below 0.85 do not rely on the mask: the image
        may be a lateral view, turned or inverted, a lung white, or the lungs merged into one.

    Raises
    ------
    CovidxrError
        When the array has another type or shape, or images are smaller than 32 pixels.

    References
    ----------
    Ronneberger, Fischer, Brox (2015), U-Net. V7 Labs, covid-19-xray-dataset, CC BY 4.0 (the masks trained on).

    Examples
    --------
    >>> from covidxr.data import make_phantom
    >>> phantom = make_phantom("Normal", np.random.default_rng(0), size=64)
    >>> masks, confidence = segment_lungs(phantom.image[None], return_confidence=True)
    >>> masks.shape, bool(dice(masks, phantom.lung_mask[None])[0] > 0.9)
    ((1, 64, 64), True)
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 3 or min(images.shape[1:]) < SMALLEST_SIDE:
        raise CovidxrError(
            f"lungs are found in grey uint8 images of shape (N, H, W), H and W at least {SMALLEST_SIDE}, "
            f"not in {images.dtype} of shape {images.shape}"
        )
    masks, confidence = np.zeros(images.shape, bool), np.zeros(len(images))
    for start in range(0, len(images), _BATCH):
        part = slice(start, start + _BATCH)
        pair = predict_pair(_network(), images[part])
        masks[part], confidence[part] = masks_of(pair, images.shape[1:]), confidence_of(pair)
    return (masks, confidence) if return_confidence else masks


class LungMasks(NamedTuple):
    """Lung masks and, for each, where it comes from; see `lung_masks`."""

    masks: np.ndarray
    kind: np.ndarray


def lung_masks(
    dataset: tuple, boxes: str | Path | None = None, predict: bool = True, run_dir: str | Path | None = None
) -> LungMasks:
    """Get a lung mask for every image: a drawn one if there is one, otherwise a box, otherwise the predicted one.

    Parameters
    ----------
    dataset : Dataset
        N images; drawn masks are the files that its manifest names in the column ``lung_mask``.
    boxes : str or pathlib.Path, optional
        A COCO file of lung boxes, as `covidxr.data.images.load_lung_boxes` takes it.
    predict : bool
        Whether lungs are predicted where there is neither a drawn mask nor a box. Masks that are not, or whose confidence is
        below 0.85, are empty.
    run_dir : str or pathlib.Path, optional
        A run folder whose ``lungs.npz`` keeps predicted masks, known by the content of their images.

    Returns
    -------
    LungMasks
        ``masks`` (``bool``, (N, H, W)) and ``kind``, strings of shape (N,): ``"drawn"``, ``"box"``, ``"predicted"``, or
        ``"none"`` for an empty mask.

    Raises
    ------
    CovidxrError
        When a mask or the file of boxes cannot be read, or images to predict are smaller than 32 pixels.

    Examples
    --------
    >>> import tempfile
    >>> from covidxr.data import build_dataset
    >>> dataset = build_dataset(per_class=1, image_size=32, work_dir=tempfile.mkdtemp())
    >>> masks, kind = lung_masks(dataset)
    >>> masks.shape, kind.tolist()
    ((3, 32, 32), ['drawn', 'drawn', 'drawn'])
    """
    manifest, images, *_ = dataset
    masks = load_masks(manifest.lung_mask, images.shape[1])
    kind = np.where(manifest.lung_mask != "", "drawn", "none").astype("<U9")
    if boxes:
        boxed = load_lung_boxes(manifest, boxes, images.shape[1])
        taken = (kind == "none") & boxed.any((1, 2))
        masks[taken], kind[taken] = boxed[taken], "box"
    if predict and (kind == "none").any():
        todo = np.flatnonzero(kind == "none")
        masks[todo] = _predicted(images[todo], run_dir)
        kind[todo[masks[todo].any((1, 2))]] = "predicted"
    return LungMasks(masks, kind)


def _predicted(images, run_dir):
    """Confident predictions, others empty; those in the run folder's ``lungs.npz`` are not predicted again."""
    if run_dir is None:
        return _confident(images)
    cache = Path(run_dir) / "lungs.npz"
    version = hashlib.sha256(WEIGHTS_FILE.read_bytes() + Path(__file__).read_bytes()).digest()
    keys = [hashlib.sha256(version + image.tobytes()).hexdigest() for image in images]
    known = _cached(cache, images.shape[1:])
    todo = [n for n, key in enumerate(keys) if key not in known]
    if todo:
        known |= zip((keys[n] for n in todo), _confident(images[todo]), strict=True)
        write_image_cache(cache, list(known), np.stack(list(known.values())))
    return np.stack([known[key] for key in keys])


def _confident(images):
    masks, confidence = segment_lungs(images, return_confidence=True)
    return masks & (confidence >= LEAST_CONFIDENCE)[:, None, None]


def _cached(cache, shape):
    """Masks of one shape in a cache, by their key; none if it is missing or damaged."""
    try:
        keys, masks = read_image_cache(cache)
    except CovidxrError:
        return {}
    return dict(zip(keys, masks, strict=True)) if masks.shape == (len(keys), *shape) else {}
