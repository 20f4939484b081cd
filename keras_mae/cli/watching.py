"""What `keras-mae pretrain` watches while it trains: reconstructions, and scores of the features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_mae.cli.output import echo

if TYPE_CHECKING:
    from keras_mae.distribution import Devices
    from keras_mae.training import UnlabeledImages

__all__ = ["probed", "ranked", "watched"]


def watched(
    every_epochs: int | None,
    files: list[Path] | None,
    images: UnlabeledImages,
    directory: Path,
    devices: Devices,
    *,
    bands: tuple[int, ...] | None = None,
    **levels: Any,
) -> list[Any]:
    """Return the callback that draws reconstructions, if it is asked for, and print how to look at them.

    Args:
        every_epochs: Epochs between pictures; `None` for none.
        files: Image files to draw in place of the data's examples.
        images: Data of the run.
        directory: Directory of the run.
        devices: What the run is spread over.
        bands: Bands to show, as for `Watch`.
        levels: Arguments of `read_image` by which the files are read.
    """
    import numpy as np

    from keras_mae import training
    from keras_mae.data import read_image

    if every_epochs is None:
        if files:
            raise ValueError(f"`watch_images` goes with --watch N. Received: --watch-images {files[0]}")
        return []
    _check_alone("watch", devices)
    examples, names = images.examples, images.example_names
    if files:
        examples = np.stack([read_image(file, images.train.image_shape, **levels) for file in files])
        names = tuple(file.name for file in files)
    pictures = directory / training.RunFile.WATCH
    echo(f"pictures: {pictures} (tensorboard --logdir {pictures})")
    return [training.Watch(examples, pictures, every_epochs, names=names, bands=bands)]


def probed(
    every_epochs: int | None,
    labeled: str | None,
    data: str,
    images: UnlabeledImages,
    devices: Devices,
    **options: Any,
) -> list[Any]:
    """Return the callback that scores the encoder by labels, if it is asked for.

    Args:
        every_epochs: Epochs between scores; `None` for none.
        labeled: Labeled images, those of `data` by default.
        data: Name of the run's data, or their folder.
        images: The run's data.
        devices: What the run is spread over.
        options: Other arguments of `open_probe`.
    """
    from keras_mae import training

    if every_epochs is None:
        if labeled is not None:
            raise ValueError(f"`probe_data` goes with --probe-every N. Received: --probe-data {labeled}")
        return []
    _check_alone("probe_every", devices)
    return [training.open_probe(labeled or data, images.train.image_shape, every_epochs, **options)]


def ranked(every_epochs: int | None, images: UnlabeledImages, devices: Devices) -> list[Any]:
    """Return the callback that measures how many dimensions features use, if it is asked for.

    Args:
        every_epochs: Epochs between measurements; `None` for none.
        images: Data of the run; images that are held out are used if there are any.
        devices: What the run is spread over.
    """
    from keras_mae import training

    if every_epochs is None:
        return []
    _check_alone("rankme_every", devices)
    return [training.open_rankme(images, every_epochs)]


def _check_alone(option: str, devices: Devices) -> None:
    if devices.processes > 1:
        raise ValueError(f"`{option}` goes with one process. Received: {devices.processes} processes")
