"""
========================================
A picture restored by kernel regression
========================================

Of a photo that comes with scikit-learn four of five pixels are lost. Kernel regression from the position of a
pixel to its three colours fills them in: one fit with three outputs. The plain sketch with the bandwidth
found by ``bandwidth="loo"`` averages neighbours, and blurs; with ``bias_correction="auto"`` it is a ridge
regression with the same kernel, and brings edges back. Beside them the exact Nadaraya-Watson average with the
sketch's bandwidth, and half of it: of so few rows in two features it is the match of both, and the honest
choice.

How it is measured: on the lost pixels alone; "PSNR" is the peak signal-to-noise ratio in decibels, more is
better; "seconds" are wall-clock of fit and predict, code compiled before.
"""

import argparse
import time
from pathlib import Path

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_sample_image

from nwsketch import NadarayaWatsonRegressor, NadarayaWatsonSketchRegressor

SHARE_KNOWN = 0.2
LINE = "{:<26} {:>6} {:>8} {:>10}"


def photo():
    """Return colours within [0, 1]: (height, width, 3); None without the library that reads pictures."""
    try:
        image = load_sample_image("flower.jpg")
    except ImportError:
        return None
    return image[40:340, 180:500][::2, ::2] / 255.0


def restore(model, image, is_known):
    """Learn the known pixels, predict the others; return the picture, and seconds."""
    positions = np.argwhere(np.ones(image.shape[:2], dtype=bool)).astype(float)
    known = is_known.ravel()
    start = time.perf_counter()
    model.fit(positions[known], image[is_known])
    colours = model.predict(positions[~known])
    seconds = time.perf_counter() - start
    picture = image.copy()
    picture[~is_known] = np.clip(colours, 0, 1)
    return picture, seconds


def draw(pictures, output):
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        print("no picture: matplotlib is not installed")
        return
    figure, axes = plt.subplots(2, 3, figsize=(12, 8), layout="constrained")
    for ax, (title, picture) in zip(axes.ravel(), pictures.items(), strict=True):
        ax.imshow(picture, interpolation="nearest")
        ax.set(title=title, xticks=[], yticks=[])
    figure.savefig(output, dpi=120)
    print(f"picture: {output}")


def main():
    parser = argparse.ArgumentParser(description="A picture restored by kernel regression.")
    parser.add_argument("--output", type=Path, default="restore_picture.png")
    parser.add_argument("--threads", type=int, default=joblib.cpu_count())
    options = parser.parse_args()
    image = photo()
    if image is None:
        print(
            "nothing to restore: pillow, which reads the photo, is not installed (it comes with matplotlib)"
        )
        return
    is_known = np.random.default_rng(0).random(image.shape[:2]) < SHARE_KNOWN
    damaged = np.where(is_known[..., np.newaxis], image, 1.0)
    sketch = NadarayaWatsonSketchRegressor(
        bandwidth="loo", n_repetitions=256, n_buckets=4096, n_jobs=options.threads, random_state=0
    )
    corrected = clone(sketch).set_params(bias_correction="auto")
    exact = NadarayaWatsonRegressor(n_jobs=options.threads)
    for model in (sketch, corrected, exact):  # code is compiled off the clock
        restore(clone(model), image[:20, :20], is_known[:20, :20])
    print(f"{image.shape[0]} x {image.shape[1]} pixels, {is_known.sum():,} known")
    print(LINE.format("model", "PSNR", "seconds", "bandwidth"), flush=True)
    pictures = {"original": image, f"{SHARE_KNOWN:.0%} of the pixels": damaged}
    models = {
        "sketch": sketch,
        "sketch, corrected": corrected,
        "exact": exact,
        "exact, half the width": exact,
    }
    for name, model in models.items():
        if model is exact:
            width = sketch.bandwidth_ / (2 if "half" in name else 1)
            model.set_params(bandwidth=width)
        picture, seconds = restore(model, image, is_known)
        error = np.mean((picture - image)[~is_known] ** 2)
        psnr = f"{-10 * np.log10(error):.2f}"
        print(LINE.format(name, psnr, f"{seconds:.2f}", f"{model.bandwidth_.mean():.2f}"), flush=True)
        pictures[f"{name}: {psnr} dB"] = picture
    draw(pictures, options.output)


if __name__ == "__main__":
    main()
