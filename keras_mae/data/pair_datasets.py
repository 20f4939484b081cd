"""Batches of images with segmentation masks for `fit`, from the sources that people have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_mae.data.levels import Levels
from keras_mae.data.loading import make_dataset
from keras_mae.data.masks import IGNORED, MaskLabels
from keras_mae.data.pair_folders import FolderPairs
from keras_mae.data.pair_records import HuggingFacePairs, TFDSPairs
from keras_mae.data.pairs import ArrayPairs
from keras_mae.pixels import BYTES, PixelRange

__all__ = ["pairs_from_arrays", "pairs_from_directory", "pairs_from_huggingface", "pairs_from_tfds"]


def pairs_from_directory(
    directory: str | Path,
    image_size: int | tuple[int, int] | None = 512,
    batch_size: int = 16,
    *,
    channels: int = 3,
    masks: str | Path | None = None,
    split: str | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    ignore_label: int = IGNORED,
    reduce_zero_label: bool | None = None,
    colors: Mapping[tuple[int, int, int], int] | None = None,
    allow_damaged: float = 0.0,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
    **options: Any,
) -> Any:
    """Load batches of images with segmentation masks: `images/` and `masks/`, ADE20K's layout, or Pascal VOC's.

    With `shuffle`, which is for training and the default, crops are those of the published recipe; without, images
    are whole.

    Args:
        directory: Folder, as for `FolderPairs`, which is the source of these batches.
        image_size: Side in pixels of the images to make, or (height, width); `None` leaves images their own sizes,
            one a batch: for evaluation, with `shuffle=False`.
        batch_size: Images in a batch.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA) for pictures; for files of arrays their bands.
        masks: Folder of the masks, if it is not in `directory`.
        split: Part to read: "train", "val" or what else is there.
        num_classes: Number of classes; by default as `FolderPairs` finds it.
        class_names: Names of the classes, in the order of the labels.
        ignore_label: Label of the pixels that belong to no class.
        reduce_zero_label: Whether 0 stands for no class, and 1 for the first one; by default as the layout has it.
        colors: Label of each (red, green, blue), for masks that are drawn in colors.
        allow_damaged: Largest share of pairs with a damaged file, in [0, 1], to leave out and list in a warning; more
            is an error. With 0 the first damaged file is one.
        pixel_range: (low, high), the smallest and the largest pixel, as for `read_image`.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image or mask to read, as for `read_image`.
        options: Other arguments of `make_dataset`, such as `crop=SegmentationCrop(...)`.

    Returns:
        A dataset for `fit`, with a length: images (batch, height, width, channels), uint8 or float32, and masks
        (batch, height, width), uint8 or uint16. It has `num_classes`, `class_names`, `ignore_label` and
        `reduce_zero_label`.

    Raises:
        ValueError: If there is no such folder, an image has no mask, or one of them cannot be read.

    Example:
        >>> train = keras_mae.data.pairs_from_directory("ADEChallengeData2016/", 512, 16, split="train")
    """
    source = FolderPairs(
        directory,
        image_size,
        channels,
        masks=masks,
        split=split,
        num_classes=num_classes,
        class_names=class_names,
        ignore_label=ignore_label,
        reduce_zero_label=reduce_zero_label,
        colors=colors,
        allow_damaged=allow_damaged,
        pixel_range=pixel_range,
        white_level=white_level,
        max_pixels=max_pixels,
    )
    return make_dataset(source, batch_size, **options)


def pairs_from_arrays(
    images: Any,
    masks: Any,
    batch_size: int = 16,
    *,
    image_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    ignore_label: int = IGNORED,
    reduce_zero_label: bool = False,
    pixel_range: PixelRange = BYTES,
    **options: Any,
) -> Any:
    """Load batches from an array of images and one of their segmentation masks.

    Args:
        images: (images, height, width, channels) or (images, height, width), integers or floats in `pixel_range`.
        masks: Labels (images, height, width), integers.
        batch_size: Images in a batch.
        image_size: Side in pixels of the images to make, or (height, width); by default the images' own, uncut
            unless `crop` is given.
        num_classes: Number of classes; by default the largest label and one.
        class_names: Names of the classes, in the order of the labels.
        ignore_label: Label of the pixels that belong to no class.
        reduce_zero_label: Whether 0 stands for no class, and 1 for the first one.
        pixel_range: (low, high), the smallest and the largest value that a pixel may have; as the encoder's.
        options: Other arguments of `make_dataset`, such as `crop=SegmentationCrop(...)`.

    Returns:
        A dataset as from `pairs_from_directory`.

    Raises:
        ValueError: If these are not images and masks of one size, or an option is out of range.
    """
    source = ArrayPairs(
        images,
        masks,
        image_size,
        num_classes=num_classes,
        class_names=class_names,
        ignore_label=ignore_label,
        reduce_zero_label=reduce_zero_label,
        pixel_range=pixel_range,
    )
    return make_dataset(source, batch_size, **options)


def pairs_from_tfds(
    name: str,
    split: str = "train",
    image_size: int | tuple[int, int] | None = 512,
    batch_size: int = 16,
    *,
    channels: int = 3,
    image_key: str | None = None,
    mask_key: str | None = None,
    data_dir: str | Path | None = None,
    download: bool = False,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    ignore_label: int = IGNORED,
    reduce_zero_label: bool = False,
    colors: Mapping[tuple[int, int, int], int] | None = None,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
    **options: Any,
) -> Any:
    """Load batches of a TensorFlow Datasets split whose examples hold an image and its segmentation mask.

    It must be stored as ArrayRecord, which is read by index and without TensorFlow.

    Args:
        name: Name of the data set, as in `tfds.load`.
        split: Name of a split, or a part of one: "train" or "train[:10%]".
        image_size: Side in pixels of the images to make, or (height, width); `None` leaves images their own sizes.
        batch_size: Images in a batch.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
        image_key: Name of the feature that is the image; by default the one there is beside the mask.
        mask_key: Name of the feature that is the mask; by default the one with a usual name, such as
            "segmentation_mask" or "annotation".
        data_dir: Folder in which TFDS keeps its data sets; its own default if `None`.
        download: Whether to download and prepare what is not there.
        num_classes: Number of classes; by default the largest label and one, for which all masks are read.
        class_names: Names of the classes, in the order of the labels.
        ignore_label: Label of the pixels that belong to no class.
        reduce_zero_label: Whether 0 stands for no class, and 1 for the first one.
        colors: Label of each (red, green, blue), for masks that are drawn in colors.
        pixel_range: (low, high), the smallest and the largest pixel, as for `read_image`.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image or mask to read, as for `read_image`.
        options: Other arguments of `make_dataset`, such as `crop=SegmentationCrop(...)`.

    Returns:
        A dataset as from `pairs_from_directory`.

    Raises:
        ValueError: If there is no such data set or split, it is not prepared, or it holds no such images.
        ImportError: If tensorflow-datasets is missing.
    """
    source = TFDSPairs(
        name,
        split,
        image_size,
        channels,
        image_key=image_key,
        mask_key=mask_key,
        data_dir=data_dir,
        download=download,
        masks=MaskLabels(num_classes, class_names, ignore_label, reduce_zero_label, colors),
        levels=Levels(pixel_range, white_level, max_pixels),
    )
    return make_dataset(source, batch_size, **options)


def pairs_from_huggingface(
    dataset: Any,
    image_size: int | tuple[int, int] | None = 512,
    batch_size: int = 16,
    *,
    channels: int = 3,
    image_key: str | None = None,
    mask_key: str | None = None,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    ignore_label: int = IGNORED,
    reduce_zero_label: bool = False,
    colors: Mapping[tuple[int, int, int], int] | None = None,
    pixel_range: PixelRange = BYTES,
    white_level: int | None = None,
    max_pixels: int | None = None,
    **options: Any,
) -> Any:
    """Load batches of a split of a Hugging Face data set that has a column of images and one of segmentation masks.

    Args:
        dataset: A `datasets.Dataset`; both columns hold images (`datasets.Image`).
        image_size: Side in pixels of the images to make, or (height, width); `None` leaves images their own sizes.
        batch_size: Images in a batch.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA) for pictures; for files of arrays their bands.
        image_key: Name of the column of images; by default the one there is beside the masks.
        mask_key: Name of the column of masks; by default the one with a usual name, such as "annotation", "label" or
            "mask".
        num_classes: Number of classes; by default the largest label and one, for which all masks are read.
        class_names: Names of the classes, in the order of the labels.
        ignore_label: Label of the pixels that belong to no class.
        reduce_zero_label: Whether 0 stands for no class, and 1 for the first one.
        colors: Label of each (red, green, blue), for masks that are drawn in colors.
        pixel_range: (low, high), the smallest and the largest pixel, as for `read_image`.
        white_level: Number that becomes 255 in grays of 9 to 16 bits, as for `read_image`.
        max_pixels: Pixels of the largest image or mask to read, as for `read_image`.
        options: Other arguments of `make_dataset`, such as `crop=SegmentationCrop(...)`.

    Returns:
        A dataset as from `pairs_from_directory`.

    Raises:
        ValueError: If it is no such data set, or has no such columns.
        ImportError: If the `datasets` library is missing.
    """
    source = HuggingFacePairs(
        dataset,
        image_size,
        channels,
        image_key=image_key,
        mask_key=mask_key,
        masks=MaskLabels(num_classes, class_names, ignore_label, reduce_zero_label, colors),
        levels=Levels(pixel_range, white_level, max_pixels),
    )
    return make_dataset(source, batch_size, **options)
