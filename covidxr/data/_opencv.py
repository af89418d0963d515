"""OpenCV, with a remedy where it cannot be loaded.

imgaug asks for ``opencv-python``, which needs the graphics library libGL. pip installs the headless build after it, over it;
other installers may do it the other way round, and then OpenCV fails on machines without a screen.
"""

from __future__ import annotations

try:
    import cv2
except ImportError as error:
    raise ImportError(
        f"OpenCV cannot be loaded ({error}). Most often that is opencv-python on a machine without libGL; "
        "pip uninstall -y opencv-python opencv-contrib-python-headless && pip install 'opencv-contrib-python-headless<5' puts "
        "the build without graphics in its place."
    ) from error


__all__ = ["cv2"]
