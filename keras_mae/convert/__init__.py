"""Weights in and out: the authors' files, `timm`, `transformers`, KerasHub; and models for other runtimes.

model, report = convert.load("mae_pretrain_vit_base_full.pth")
convert.save(classifier, "classifier.safetensors", "timm")
convert.export(classifier, "classifier.onnx", "onnx")
"""

from keras_mae.convert.checkpoints import FORMATS, Converted, load, save
from keras_mae.convert.exporting import EXPORT_FORMATS, export, export_ending
from keras_mae.convert.keras_hub import from_keras_hub, image_converter_of, to_keras_hub
from keras_mae.convert.own import load_model
from keras_mae.convert.published import fetch
from keras_mae.convert.state_dict import StateDict
from keras_mae.convert.weight_map import Report, Rule, Transform, load_weights, named_weights

__all__ = [
    "EXPORT_FORMATS",
    "FORMATS",
    "Converted",
    "Report",
    "Rule",
    "StateDict",
    "Transform",
    "export",
    "export_ending",
    "fetch",
    "from_keras_hub",
    "image_converter_of",
    "load",
    "load_model",
    "load_weights",
    "named_weights",
    "save",
    "to_keras_hub",
]
