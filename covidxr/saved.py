"""The file of a trained network, read as if a stranger had sent it: of known layers only, and of bounded size."""

from __future__ import annotations

import io
import json
import math
import zipfile

import h5py

from covidxr import checks
from covidxr._tensorflow import keras
from covidxr.errors import CovidxrError

MOST_BYTES = 200_000_000  # unpacked, and as arrays; VGG16 with its head has 59 million
MOST_CONFIG = 1_000_000  # characters that describe the layers; VGG16 has 22 thousand
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
MEMBERS = {"metadata.json", CONFIG, WEIGHTS}
WEIGHTED = {  # how many numbers a layer holds, about, by its settings and the channels that come in
    "Dense": lambda settings, channels: settings["units"] * channels,
    "Conv2D": lambda settings, channels: settings["filters"] * channels * math.prod(settings["kernel_size"]),
    "BatchNormalization": lambda settings, channels: 4 * channels,
}
PLAIN = (
    "InputLayer", "MaxPooling2D", "AveragePooling2D", "GlobalAveragePooling2D", "GlobalMaxPooling2D", "ZeroPadding2D",
    "Flatten", "Dropout", "Activation", "Softmax", "ReLU", "Rescaling", "Add", "Concatenate", "Functional", "Sequential",
    "DTypePolicy", "__keras_tensor__",
)  # fmt: skip


def read_network(path) -> keras.Model:
    """Read a network of one image in and one score a class out from a ``.keras`` file, or say what is wrong with it."""
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
    checks.finite_weights(model)
    shapes = [tensor.shape for tensor in (*model.inputs, *model.outputs)]
    if [len(shape) for shape in shapes] != [4, 2] or shapes[0][-1] != 3:
        raise CovidxrError(
            f"its inputs and outputs have shapes {shapes}; one image of three channels and one score a class fit"
        )
    return model


def _check_file(path):
    """Look at the parts before Keras builds anything of them."""
    with zipfile.ZipFile(path) as archive:
        sizes = {member.filename: member.file_size for member in archive.infolist()}
        if set(sizes) != MEMBERS:
            raise CovidxrError(f"it holds {', '.join(sizes) or 'nothing'} instead of {', '.join(sorted(MEMBERS))}")
        if sizes[CONFIG] > MOST_CONFIG or sum(sizes.values()) > MOST_BYTES:
            raise CovidxrError(
                f"it unpacks to {sum(sizes.values()):,} bytes, {sizes[CONFIG]:,} of them for {CONFIG}; at most "
                f"{MOST_BYTES:,} and {MOST_CONFIG:,} are read"
            )
        numbers = _numbers(json.loads(archive.read(CONFIG)))
        if 4 * numbers > MOST_BYTES:
            raise CovidxrError(f"its layers are to hold {numbers:,} numbers; at most {MOST_BYTES // 4:,} are built")
        _check_weights(archive.read(WEIGHTS))


def _numbers(config):
    """How many numbers the layers hold that a configuration describes; an error where one is none of ours."""
    if isinstance(config, list):
        return sum(map(_numbers, config))
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
    return own + sum(map(_numbers, config.values()))


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
    if sum(sizes) > MOST_BYTES:
        raise CovidxrError(f"its weights have {sum(sizes):,} bytes; at most {MOST_BYTES:,} are read")
