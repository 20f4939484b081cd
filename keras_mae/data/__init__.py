"""Images for `fit`, from the sources people have."""

from keras_mae.data.array_source import ArrayFileSource
from keras_mae.data.augment import Augmentation
from keras_mae.data.builtin import BUILTIN, CLASS_NAMES, digits, fashion_mnist, load_builtin, read_idx
from keras_mae.data.crops import Box, CenterCrop, RandomCrop, RandomResizedCrop
from keras_mae.data.datasets import (
    from_array_file,
    from_arrays,
    from_dataset,
    from_directory,
    from_huggingface,
    from_tfds,
    from_tfrecords,
)
from keras_mae.data.directories import open_directory
from keras_mae.data.examination import Examination
from keras_mae.data.images import read_image
from keras_mae.data.loading import make_dataset
from keras_mae.data.masks import MaskLabels
from keras_mae.data.merging import merge_prepared
from keras_mae.data.pair_crops import SegmentationCrop, WholeImage
from keras_mae.data.pair_datasets import (
    pairs_from_arrays,
    pairs_from_directory,
    pairs_from_huggingface,
    pairs_from_tfds,
)
from keras_mae.data.pair_folders import FolderPairs
from keras_mae.data.pairs import ArrayPairs, PairSource
from keras_mae.data.photometry import PhotometricDistortion
from keras_mae.data.preparation import check_directory, find_damaged, prepare
from keras_mae.data.records import RecordSource
from keras_mae.data.sources import ArraySource, FolderSource
from keras_mae.data.statistics import PixelStatistics, pixel_statistics
from keras_mae.data.streams import Stream
from keras_mae.data.subsets import Subset
from keras_mae.data.surveying import Survey, survey

__all__ = [
    "BUILTIN",
    "CLASS_NAMES",
    "ArrayFileSource",
    "ArrayPairs",
    "ArraySource",
    "Augmentation",
    "Box",
    "CenterCrop",
    "Examination",
    "FolderPairs",
    "FolderSource",
    "MaskLabels",
    "PairSource",
    "PhotometricDistortion",
    "PixelStatistics",
    "RandomCrop",
    "RandomResizedCrop",
    "RecordSource",
    "SegmentationCrop",
    "Stream",
    "Subset",
    "Survey",
    "WholeImage",
    "check_directory",
    "digits",
    "fashion_mnist",
    "find_damaged",
    "from_array_file",
    "from_arrays",
    "from_dataset",
    "from_directory",
    "from_huggingface",
    "from_tfds",
    "from_tfrecords",
    "load_builtin",
    "make_dataset",
    "merge_prepared",
    "open_directory",
    "pairs_from_arrays",
    "pairs_from_directory",
    "pairs_from_huggingface",
    "pairs_from_tfds",
    "pixel_statistics",
    "prepare",
    "read_idx",
    "read_image",
    "survey",
]
