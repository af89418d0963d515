"""Grad-CAM heatmaps, and what they are worth."""

from covidxr.gradcam.cam import GradCAM

__all__ = ["GradCAM"]
