"""Weights in and out: the authors' files, `timm`, `transformers`, KerasHub; and models for other runtimes.

model, report = convert.load("mae_pretrain_vit_base_full.pth")
convert.save(classifier, "classifier.safetensors", "timm")
convert.export(classifier, "classifier.onnx", "onnx")

A further library is a subclass of `Layout`, whose methods say what is in a file, and an entry in `FORMATS`;
`weight_map` has the rules of common layers for its author.
"""

from keras_mae.convert import weight_map
from keras_mae.convert.continuing import continued
from keras_mae.convert.exporting import EXPORT_FORMATS, export, export_ending
from keras_mae.convert.hub import push_to_hub
from keras_mae.convert.keras_hub import from_keras_hub, image_converter_of, to_keras_hub
from keras_mae.convert.layout import Converted, Format, Hints, Layout, Sizes, Stated
from keras_mae.convert.load_save import FORMATS, load, save
from keras_mae.convert.locate import PUBLISHED, fetch
from keras_mae.convert.locate import located as located
from keras_mae.convert.own import load_model
from keras_mae.convert.state_dict import Files, StateDict, write_safetensors, write_torch
from keras_mae.convert.usage import how_to_load
from keras_mae.convert.weight_map import Kind, Report, Rule, Transform, load_weights, named_weights, save_weights

__all__ = [
    "EXPORT_FORMATS",
    "FORMATS",
    "PUBLISHED",
    "Converted",
    "Files",
    "Format",
    "Hints",
    "Kind",
    "Layout",
    "Report",
    "Rule",
    "Sizes",
    "StateDict",
    "Stated",
    "Transform",
    "continued",
    "export",
    "export_ending",
    "fetch",
    "from_keras_hub",
    "how_to_load",
    "image_converter_of",
    "load",
    "load_model",
    "load_weights",
    "named_weights",
    "push_to_hub",
    "save",
    "save_weights",
    "to_keras_hub",
    "weight_map",
    "write_safetensors",
    "write_torch",
]
