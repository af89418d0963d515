"""The networks and their weights."""

from covidxr.model.networks import build_baseline, build_truncated_vgg16, build_vgg16, embed, load_model
from covidxr.model.weights import load_weights

__all__ = ["build_baseline", "build_truncated_vgg16", "build_vgg16", "embed", "load_model", "load_weights"]
