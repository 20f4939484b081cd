"""The masked autoencoder: encoder, masking and decoder in one trainable model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_mae import _checks
from keras_mae._types import Tensor
from keras_mae.copying import copied_parts
from keras_mae.decoder import Decoder, MAEDecoder
from keras_mae.encoder import ViTEncoder
from keras_mae.from_preset import PresetFiles
from keras_mae.fusion import copy_weights, encoded, fused_blocks, fusion_of
from keras_mae.loss import psnr, reconstruction_loss
from keras_mae.mask_inputs import given_mask, masks_of, named
from keras_mae.masking import Mask, Masking, RandomMasking, explicit_mask
from keras_mae.partial_prediction import drawn, in_reading_order
from keras_mae.pixels import check_images
from keras_mae.random import EVALUATION_STEP, hash_noise, places
from keras_mae.reconstruction import Reconstruction, to_pictures, undo_normalization
from keras_mae.targets.patch_targets import PatchTargets, plain, restored, settled
from keras_mae.train_step import Directed
from keras_mae.unlabeled import Unlabeled
from keras_mae.window_attention import check_full_attention

__all__ = ["MaskedAutoencoder"]


@keras.saving.register_keras_serializable(package="keras_mae")
class MaskedAutoencoder(PresetFiles, Unlabeled):
    """Hides most of an image's patches, encodes the rest, and learns to predict the hidden pixels.

    Give `fit` images: arrays, or any dataset Keras takes of `images`, `(images, labels)` (labels are
    ignored) or dicts with the key `"images"`. A dict may also say what to hide: `"mask"` (batch, patches),
    (batch, rows, columns), or (batch, height, width) in pixels, which remove every patch they touch; 1 = removed, as
    many patches of every image as the masking would remove; `"noise"` (batch, patches) for the masking to go by; or
    `"ids_keep"` and `"ids_removed"`, a `Mask`'s.

    Without that, masks are a pure function of (seed, training step, index of the sample in the global batch): the
    same on every backend, compiled or not, on one device or many. `evaluate`, `predict` and `reconstruct` always
    use the masks of one fixed step, so they repeat their results and leave training alone.

    The training step is the package's own (`keras_mae.train_step`): a step whose loss or gradients are not
    finite changes no weight and is counted in the metric `skipped_steps`.

    Args:
        encoder: A `ViTEncoder`.
        decoder: An `MAEDecoder` or a `CrossAttentionDecoder`; the paper's `MAEDecoder` (512 wide, 8 blocks, 16 heads)
            by default. It takes image and patch size from the encoder.
        masking: A `RandomMasking` (75 % by default), `BlockMasking` or `GridMasking`.
        norm_pix_loss: Whether each patch is standardized before it is predicted. Better features, but
            reconstructions then need statistics from elsewhere. By default as `target` says.
        target: What to predict for each patch. "pixels", the default; "normalized", another name for
            `norm_pix_loss=True`; "low_pass" (`keras_mae.targets.LowPass`), which `norm_pix_loss` standardizes too;
            "hog" (`HOG`); a `Teacher`; or a function in `keras.ops` of images (batch, height, width, channels), as
            given to the model, that returns vectors (batch, patches, dim). The decoder is built to fit.
        band_groups: Groups of channels, such as ((0, 1, 2), (3,)), that a normalized target standardizes each by its
            own mean and variance in every patch; all channels together by default.
        masks_per_image: Masks drawn for each image in one training step. One decoded image then serves
            several times; the loss is the mean over them.
        predict_ratio: Share of the removed patches that a training step predicts, in (0, 1]; the loss and its PSNR
            are over them, and the decoder gets no other mask tokens. They are drawn anew in each step, by the hash.
            Without `training` every patch is predicted, so that `evaluate` takes the loss over all removed patches.
        fuse_blocks: Indices of two or more blocks of the encoder, the last one among them, whose outputs the decoder
            reads fused into one; see `fusion.BlockFusion`. By default it reads the last one's.
        seed: Seed for the masks.

    Call arguments:
        inputs: Images (batch, height, width, channels) in the encoder's `pixel_range`, 0–255 by default, or a dict as
            above.
        training: Whether to draw the masks of the current training step, and to end that step.

    Returns:
        A dict: `reconstruction`, float32 (batch, patches, pixels), the decoder's prediction of the target for
        every patch, and `mask`, float32 (batch, patches), 1 = removed. Where a training step predicts a share of the
        removed patches, also `predicted`, of the same form, and the reconstruction of the others is 0.

    Raises:
        ValueError: If the parts do not fit one another, or nothing would be removed.

    Example:
        >>> encoder = keras_mae.ViTEncoder((32, 32, 3), patch_size=4, embed_dim=64, depth=2, num_heads=4)
        >>> mae = keras_mae.MaskedAutoencoder(encoder, keras_mae.MAEDecoder(32, depth=1, num_heads=4))
        >>> mae.compile(optimizer=keras_mae.optimizers.AdamW(1e-3))
        >>> history = mae.fit(np.random.randint(0, 256, (64, 32, 32, 3), "uint8"), verbose=0)

    Reference: "Masked Autoencoders Are Scalable Vision Learners", section 3.
    """

    def __init__(
        self,
        encoder: ViTEncoder,
        decoder: Decoder | None = None,
        masking: Masking | None = None,
        *,
        norm_pix_loss: bool | None = None,
        target: Any = None,
        band_groups: Sequence[Sequence[int]] | None = None,
        masks_per_image: int = 1,
        predict_ratio: float = 1.0,
        fuse_blocks: Sequence[int] | None = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        # Mixed precision must round neither the noise nor the targets; encoder and decoder cast themselves.
        kwargs.setdefault("autocast", False)
        super().__init__(**kwargs)
        self.encoder = _checks.instance("encoder", encoder, ViTEncoder)
        check_full_attention(encoder.window)
        decoder = MAEDecoder(dtype=encoder.dtype_policy) if decoder is None else decoder
        self.decoder = _checks.instance("decoder", decoder, Decoder, "a keras_mae.MAEDecoder or another Decoder")
        masking = RandomMasking() if masking is None else masking
        self.masking = _checks.instance("masking", masking, Masking, "a Masking, such as RandomMasking(0.75)")
        self.target, standardized = settled(target, norm_pix_loss)
        self.masks_per_image = _checks.positive_int("masks_per_image", masks_per_image)
        self.predict_ratio = _checks.share("predict_ratio", predict_ratio)
        self.seed = _checks.seed_int("seed", seed)
        if self.masking.num_kept(encoder.grid) == encoder.num_patches:
            raise ValueError(
                "`masking` must remove at least one patch. Received: "
                f"mask_ratio={self.masking.mask_ratio} for {encoder.num_patches} patches"
            )
        self._targets = PatchTargets(self.target, standardized, encoder, band_groups)
        self.band_groups = self._targets.groups
        self.decoder.join(
            encoder.image_shape,
            encoder.patch_size,
            encoder.embed_dim,
            depth=encoder.depth,
            class_tokens=encoder.class_tokens,
            output_dim=self._targets.dim,
        )
        self._fused = () if fuse_blocks is None else fused_blocks(fuse_blocks, encoder.depth)
        self.fuse_blocks = None if fuse_blocks is None else tuple(fuse_blocks)
        self.fusion = fusion_of(len(self._fused), encoder, self.decoder)
        self._predicts_from = self.masking.num_kept(encoder.grid)
        self.psnr_tracker = keras.metrics.Mean(name="psnr")
        measured = [self.psnr_tracker] if self._targets.is_pixels else []
        self._directed = Directed(up=measured, down=[self.skipped_tracker])
        self.build((None, *self.encoder.image_shape))  # all parts are; `export` wants to have seen a shape

    @property
    def norm_pix_loss(self) -> bool:
        """Whether each patch is standardized before it is predicted."""
        return self._targets.norm_pix_loss

    @property
    def predicts_pixels(self) -> bool:
        """Whether predictions are pixels: `reconstruct` shows them, and the metric `psnr` measures them."""
        return self._targets.is_pixels

    @property
    def target_name(self) -> str:
        """The target's name: "pixels", "normalized", "low_pass", "hog", "teacher", or "custom" for any other."""
        return self.target if isinstance(self.target, str) else self._targets.kind

    @property
    def target_description(self) -> str:
        """What is predicted for each patch, in words."""
        return self._targets.description

    # === The method ===
    def call(self, inputs: Any, training: bool | None = None) -> dict[str, Tensor]:
        _, mask, predicted, prediction = self._predict(inputs, training, removed_only=False)
        # The decoder saw the patches in shuffled order: only here are they put back.
        return in_reading_order(prediction, mask, predicted)

    def outputs_for_loss(self, x: Any, training: bool) -> dict[str, Tensor]:
        """Return the prediction of the removed patches that are predicted, and what it is judged by.

        Args:
            x: Images or dict, as given to the model.
            training: Whether to draw the masks of the current training step, and to end that step.

        Returns:
            A dict of float32: `removed_prediction` and `removed_pixels` (batch, predicted, pixels), normalized as the
            encoder sees them, for "low_pass" without their high frequencies; for a normalized target also
            `guessed_mean` and `guessed_std` (batch, predicted, 1), or with `band_groups` (batch, predicted, pixels),
            which put the prediction back into pixels. For a target that is not made of pixels, `removed_target`
            (batch, predicted, dim) instead of all these. All removed patches are predicted, but for training with a
            `predict_ratio` below 1.
        """
        # The model is not called, so that what Keras does to arguments is done here.
        x = {key: ops.convert_to_tensor(value) for key, value in named(x).items() if value is not None}
        images, mask, predicted, prediction = self._predict(x, training, removed_only=True)
        return {"removed_prediction": prediction, **self._targets.outputs(images, mask.ids_keep, predicted)}

    def _predict(self, inputs: Any, training: bool | None, removed_only: bool) -> tuple[Tensor, Mask, Tensor, Tensor]:
        """Return images, mask, patches to predict, and the float32 prediction in the decoder's order."""
        inputs = named(inputs)
        images = inputs["images"]
        mask = self._mask(inputs, training)  # before the encoder is called, which in training ends the step
        predicted = mask.ids_removed
        if training and self.predict_ratio < 1:
            place = self.encoder.step.place(ops.shape(mask.ids_keep)[0])
            mask, predicted = drawn(mask, self.predict_ratio, self.seed, *place)
        tokens = encoded(self.encoder, self.decoder, images, mask.ids_keep, training, self.fusion, self._fused)
        prediction = self.decoder(tokens, mask.ids_keep, predicted, removed_only=removed_only, training=training)
        return images, mask, predicted, ops.cast(prediction, "float32")

    def _mask(self, inputs: dict[str, Any], training: bool | None) -> Mask:
        """Return the patches to keep and to remove: as `inputs` says, or as drawn for this step or for evaluation."""
        encoder, repeats = self.encoder, self.masks_per_image if training else 1
        mask = given_mask(inputs, self.masking, encoder.grid, patch_size=encoder.patch_size, repeats=repeats)
        if mask is None:
            rows = ops.shape(inputs["images"])[0] * repeats
            step, index = encoder.step.place(rows) if training else (EVALUATION_STEP, places(rows))
            mask = self.masking(hash_noise(self.seed, step, index, encoder.num_patches), grid=encoder.grid)
        return mask

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Tensor:
        """Return the mean over the batch of the reconstruction loss, and any losses added by layers.

        Args:
            x: Images or dict, as given to the model.
            y: Not used: the images are their own target.
            y_pred: What `outputs_for_loss`, or a call of the model, returned for `x`.
            sample_weight: (batch,), multiplies each image's loss. As in Keras' own losses, the sum is divided
                by the number of images, not by the sum of the weights.
            training: Whether the model drew masks for training, `masks_per_image` of them.

        Returns:
            A float32 scalar.
        """
        if "reconstruction" in y_pred:  # from `call`, which Keras' own training step uses
            prediction, mask = y_pred["reconstruction"], y_pred.get("predicted", y_pred["mask"])
            vectors = self._targets.vectors(named(x)["images"])
            vectors = ops.repeat(vectors, self.masks_per_image if training else 1, axis=0)
        else:
            prediction, mask, vectors = y_pred["removed_prediction"], None, self._targets.in_outputs(y_pred)
        loss = reconstruction_loss(prediction, self._targets.to_predict(vectors), mask)
        if sample_weight is not None:
            weights = ops.reshape(ops.cast(sample_weight, "float32"), (-1, 1))
            loss = ops.reshape(loss, (ops.shape(weights)[0], -1)) * weights
        return ops.mean(loss) + sum(ops.sum(extra) for extra in self.losses)

    def removed_psnr(self, outputs: dict[str, Tensor]) -> Tensor:
        """Return the PSNR over the removed pixels, float32 (batch,), from what `outputs_for_loss` returned.

        For a normalized target the prediction is put back into pixels with the visible patches' statistics:
        the true ones would leak the answer.

        Raises:
            ValueError: If the model does not predict pixels.
        """
        self._targets.check_visible("`removed_psnr`")
        prediction = outputs["removed_prediction"]
        if self.norm_pix_loss:
            prediction = prediction * outputs["guessed_std"] + outputs["guessed_mean"]
        low, high = self.encoder.pixel_range
        return psnr(prediction, outputs["removed_pixels"], self.encoder.pixel_std, high - low)

    # === Training ===
    def check_batch(self, data: Any) -> Any:
        """Return `data` as it came, unless it holds masks that the model cannot use.

        Raises:
            ValueError: If the masks are not 0 and 1 or do not all remove what the masking would.
        """
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        if isinstance(x, dict) and x.get("mask") is not None:
            encoder, mask = self.encoder, ops.convert_to_tensor(x["mask"])
            explicit_mask(mask, encoder.grid, self.masking.num_kept(encoder.grid), encoder.patch_size)
        return data

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        return [*([self._loss_tracker] if self.compiled else []), self._directed.together]

    def update_metrics(
        self,
        data: tuple[Any, Any, Any],
        outputs: dict[str, Tensor],
        loss: Tensor,
        finite: Tensor | None = None,
    ) -> dict[str, Any]:
        """Add one batch to the metrics; a skipped one (`finite` false) to the count of skipped steps only.

        Returns:
            The logs: `loss`, `psnr` (dB over the encoder's `pixel_range`, removed pixels) where the target is made
            of pixels, and, in training, `skipped_steps`.
        """
        means = [(self._loss_tracker, loss)]
        if self.predicts_pixels:
            means.append((self.psnr_tracker, ops.mean(self.removed_psnr(outputs))))
        self._add_to_means(ops.shape(outputs["removed_prediction"])[0], finite, *means)
        logs = self.get_metrics_result()
        if finite is None:
            logs.pop(self.skipped_tracker.name)
        return logs

    # === Looking ===
    def reconstruct(
        self,
        images: Any,
        mask: Tensor | None = None,
        *,
        seed: int | None = None,
        statistics: str = "visible",
        batch_size: int = 32,
    ) -> Reconstruction:
        """Mask images and fill them in again.

        Args:
            images: (batch, height, width, channels), integers or floats in the encoder's `pixel_range`.
            mask: What to remove, (batch, patches), (batch, rows, columns), or (batch, height, width) in pixels,
                1 = removed; any ratio, the same number of patches in every image, of which every touched one
                counts. Drawn by the model's masking if `None`.
            seed: Seed for the drawn masks, the same every time; the model's by default.
            statistics: What puts a normalized target back into pixels (`norm_pix_loss` models only).
                "visible": the visible patches' mean and standard deviation, weighted by 1 / distance**2.
                "true": each removed patch's own, which tells the model's contrast and brightness in advance:
                good for pictures, never for a score.
            batch_size: Number of images at a time.

        Returns:
            A `Reconstruction`: NumPy arrays in the images' own shape, range and dtype. What a "low_pass" model
            predicts lacks the high frequencies.

        Raises:
            ValueError: If images, their range or mask do not fit the model, pixels are not finite, or the model
                predicts something else than pixels.

        Reference: "Masked Autoencoders Are Scalable Vision Learners", figure 2.
        """
        self._targets.check_visible("`reconstruct`")
        _checks.one_of("statistics", statistics, ("visible", "true"))
        images = check_images(images, self.encoder.image_shape, self.encoder.pixel_range)
        seed = self.seed if seed is None else _checks.seed_int("seed", seed)
        ids_keep, ids_removed = masks_of(len(images), self.masking, self.encoder, mask=mask, seed=seed)
        if ids_keep.shape[1] != self._predicts_from:
            # TensorFlow would trace again with the number of visible patches unknown; here it is always known.
            self.make_predict_function(force=True)
            self._predicts_from = ids_keep.shape[1]
        masked = {"images": images, "ids_keep": ids_keep, "ids_removed": ids_removed}
        outputs = self.predict(masked, batch_size=_checks.positive_int("batch_size", batch_size), verbose=0)
        prediction, source = outputs["reconstruction"], ""
        if self.norm_pix_loss:
            prediction, source = undo_normalization(
                prediction,
                images,
                self._targets.vectors(images),
                ids_keep=ids_keep,
                ids_removed=ids_removed,
                statistics=statistics,
                encoder=self.encoder,
                groups=self.band_groups,
            )
        return to_pictures(images, prediction, outputs["mask"], statistics=source, encoder=self.encoder)

    def copy(self, **changes: Any) -> MaskedAutoencoder:
        """Return an independent model with the same weights, not compiled; training one leaves the other alone.

        Args:
            changes: `image_shape`, with the same channels: the positions of encoder and decoder are resized in two
                dimensions. `masking`, `masks_per_image`, `predict_ratio`, `seed` (of the masks), `drop_path_rate`,
                `remat` (of both parts), `name`, `dtype`.

        Returns:
            A model of the same class, its step counter at 0.

        Raises:
            ValueError: If another argument is given, or the masking does not fit the new grid.
        """
        copied = type(self)(**copied_parts(self, changes))
        copy_weights(self.fusion, copied.fusion)
        return copied

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "decoder": keras.saving.serialize_keras_object(self.decoder),
            "masking": keras.saving.serialize_keras_object(self.masking),
            "norm_pix_loss": self.norm_pix_loss,
            # The method's own targets are what `norm_pix_loss` says, as in files from before there were others.
            "target": None if plain(self.target) else keras.saving.serialize_keras_object(self.target),
            "band_groups": self.band_groups,
            "masks_per_image": self.masks_per_image,
            "predict_ratio": self.predict_ratio,
            "fuse_blocks": self.fuse_blocks,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MaskedAutoencoder:
        parts = {key: keras.saving.deserialize_keras_object(config[key]) for key in ("encoder", "decoder", "masking")}
        return cls(**{**config, **parts, "target": restored(config.get("target"))})
