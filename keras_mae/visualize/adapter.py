"""The classifier in the form that tf-keras-vis takes."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_mae.visualize.models import classifier_of

__all__ = ["keras_vis"]


class _Front(keras.layers.Layer):
    """Images to tokens, up to and with block `depth - 1`."""

    def __init__(self, encoder: Any, depth: int):
        super().__init__(name="front", autocast=False)
        self.encoder, self.depth = encoder, depth
        self.built = True

    def call(self, images: Any) -> Any:
        encoder, x = self.encoder, self.encoder.embed(images)
        return encoder.outputs_of(x, encoder.grid, False, [self.depth - 1])[0] if self.depth else x


class _Back(keras.layers.Layer):
    """Class tokens and patches, as a map, to logits."""

    def __init__(self, classifier: Any, depth: int):
        super().__init__(name="back", autocast=False)
        self.classifier, self.depth = classifier, depth
        self.built = True

    def call(self, class_tokens: Any, patches: Any) -> Any:
        encoder = self.classifier.encoder
        patches = ops.reshape(patches, (-1, encoder.num_patches, encoder.embed_dim))
        x = ops.concatenate([class_tokens, patches], axis=1)
        if self.depth < encoder.depth:
            [x] = encoder.outputs_of(x, encoder.grid, False, [encoder.depth - 1], first=self.depth)
        return self.classifier.head(self.classifier.features_of(x))


def keras_vis(classifier: Any) -> keras.Model:
    """Turn a classifier into a functional model with the feature map that tf-keras-vis looks for. TensorFlow only.

    It shares the classifier's weights and returns its logits. Its layer "feature_map" holds the patch tokens as
    (batch, rows, columns, embed_dim): after the last block, or before it with `pooling="token"`, because after
    it the patches no longer reach the class tokens. Pass its name to Grad-CAM, Grad-CAM++, Score-CAM and Layer-CAM,
    always with `seek_penultimate_conv_layer=False`; saliency and activation maximization take no layer. Images are
    floats in the encoder's `pixel_range`: integers have no gradient. The output is logits already, so no
    `ReplaceToLinear` is needed.

    Args:
        classifier: A `ViTClassifier`.

    Returns:
        A functional `keras.Model`: images (batch, height, width, channels) to logits (batch, num_classes).

    Raises:
        ValueError: If this is no `ViTClassifier`, or Keras' backend is not TensorFlow.

    Example:
        >>> from tf_keras_vis.gradcam import Gradcam
        >>> from tf_keras_vis.utils.scores import CategoricalScore
        >>> gradcam = Gradcam(keras_mae.visualize.keras_vis(classifier), clone=False)
        >>> maps = gradcam(
        ...     CategoricalScore([3, 5]),
        ...     images[:2].astype("float32"),
        ...     penultimate_layer="feature_map",
        ...     seek_penultimate_conv_layer=False,
        ... )
        >>> figure = keras_mae.visualize.overlays(images[:2], maps)
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            "tf-keras-vis works on the TensorFlow backend only: set KERAS_BACKEND=tensorflow (the same .keras file "
            "loads there), or use `saliency`, `smooth_grad` and `attention_rollout`, which take every backend. "
            f"Received: the backend {backend!r}"
        )
    encoder = classifier_of(classifier).encoder
    depth = encoder.depth - (classifier.pooling == "token")
    count, images = encoder.class_tokens, keras.Input(encoder.image_shape, name="images")
    tokens = _Front(encoder, depth)(images)
    patches = keras.layers.Reshape((*encoder.grid, encoder.embed_dim), name="feature_map")(tokens[:, count:])
    return keras.Model(images, _Back(classifier, depth)(tokens[:, :count], patches), name="keras_vis")
