"""`timm`: the authors' names, with a `config.json` beside them in a folder from the Hub."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from keras_mae import _class_names
from keras_mae.convert.layout import Hints, Sizes
from keras_mae.convert.reference import Reference
from keras_mae.convert.state_dict import Files, StateDict
from keras_mae.masked_autoencoder import MaskedAutoencoder

__all__ = ["Timm"]


class Timm(Reference):
    """Encoders and classifiers of `timm`, whose single files read as the authors' do."""

    name = "timm"
    holds_batch_norm = False
    class_tokens = (0, 1)
    class_tokens_in_words = "one class token or none (its register tokens are not pooled)"

    def matches(self, files: Files) -> bool:
        return super().matches(files) and "config.json" in files.state.config

    def sizes(self, state: StateDict, hints: Hints) -> Sizes:
        config = state.config["config.json"]
        if (
            self.kind(state) == "classifier"
            and "fc_norm.weight" not in state.tensors
            and config.get("global_pool") == "avg"
        ):
            raise ValueError(
                "This classifier of timm averages all tokens behind its norm; here the norm is behind the mean of "
                "the patch tokens (fc_norm). Received: global_pool='avg' without fc_norm"
            )
        sizes, statistics = super().sizes(state, hints), {}
        for argument, key in (("pixel_mean", "mean"), ("pixel_std", "std")):
            values = config.get("pretrained_cfg", {}).get(key)
            if values is not None:
                statistics[argument] = [round(255 * value, 9) for value in values]
        return replace(sizes, encoder=sizes.encoder | statistics, image_size=sizes.image_size or _size(config, sizes))

    def head(self, state: StateDict) -> dict[str, Any]:
        head, labels = super().head(state), state.config["config.json"].get("label_names")
        if isinstance(labels, dict):  # by number, as text
            labels = [labels.get(str(number)) for number in range(head["num_classes"])]
        names = _class_names.usable(labels, head["num_classes"])
        return head if names is None else head | {"class_names": names}

    def refuse(self, model: Any) -> None:
        super().refuse(model)
        if isinstance(model, MaskedAutoencoder):
            raise ValueError("A `timm` ViT has no decoder: save mae.encoder, or in the format 'reference'")


def _size(config: dict[str, Any], sizes: Sizes) -> tuple[int, int] | None:
    """Return the size of the images that a configuration says, if they have as many patches as the file.

    A model made for another size than its published weights has the same configuration.
    """
    _, height, width = config.get("pretrained_cfg", {}).get("input_size") or (0, 0, 0)
    rows, columns = height // sizes.encoder["patch_size"][0], width // sizes.encoder["patch_size"][1]
    return (height, width) if rows * columns == sizes.patches else None
