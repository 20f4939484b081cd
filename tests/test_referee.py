"""Against `transformers`' ViTMAEForPreTraining, and against models saved under another backend.

`transformers` needs PyTorch. There its results are computed afresh and left in `KERAS_MAE_REFEREE`; the other
environments compare with what the same run left.
"""

from types import MethodType

import contracts
import keras
import numpy as np
import oracles
import pytest
from keras import ops

import keras_mae

# name: image, patch, norm_pix_loss. The referee takes square patches, and grids whose patches make a square
# number; 2 x 8 and 8 x 2 patches are 16.
CASES = {
    "grey": ((15, 15, 1), 3, False),
    "colour_normalised": ((15, 15, 3), 3, True),
    "wide": ((6, 24, 3), 3, False),
    "tall_four_channels_normalised": ((40, 10, 4), 5, True),
}
MASK_RATIO = 0.7


def to_numpy(x):
    return ops.convert_to_numpy(x)


# === The referee ===
def their_state(weights):
    """Our weights under the names, and in the layouts, of `transformers`."""

    def dense(ours):
        return {"weight": weights[f"{ours}.kernel"].T, "bias": weights[f"{ours}.bias"]}

    def norm(ours):
        return {"weight": weights[f"{ours}.gamma"], "bias": weights[f"{ours}.beta"]}

    parts = {"vit.layernorm": norm("encoder.norm"), "decoder.decoder_embed": dense("decoder.embedding")}
    parts |= {"decoder.decoder_norm": norm("decoder.norm"), "decoder.decoder_pred": dense("decoder.prediction")}
    for theirs, ours in (("vit.layers", "encoder"), ("decoder.decoder_layers", "decoder")):
        i = 0
        while f"{ours}.{i}.qkv.kernel" in weights:
            kernels = np.split(weights[f"{ours}.{i}.qkv.kernel"], 3, axis=1)
            biases = np.split(weights[f"{ours}.{i}.qkv.bias"], 3)
            for letter, kernel, bias in zip("qkv", kernels, biases, strict=True):
                parts[f"{theirs}.{i}.attention.{letter}_proj"] = {"weight": kernel.T, "bias": bias}
            parts[f"{theirs}.{i}.attention.o_proj"] = dense(f"{ours}.{i}.projection")
            parts[f"{theirs}.{i}.layernorm_before"] = norm(f"{ours}.{i}.norm1")
            parts[f"{theirs}.{i}.layernorm_after"] = norm(f"{ours}.{i}.norm2")
            parts[f"{theirs}.{i}.mlp.fc1"] = dense(f"{ours}.{i}.fc1")
            parts[f"{theirs}.{i}.mlp.fc2"] = dense(f"{ours}.{i}.fc2")
            i += 1
    return {f"{module}.{key}": value for module, values in parts.items() for key, value in values.items()}


EMBEDDINGS = "vit.embeddings"


def their_embeddings(weights, sizes):
    """Class and mask token, positions, and the patch projection, which is a convolution there."""
    p, q = sizes.patch_size
    kernel = weights["encoder.patches.kernel"].reshape(p, q, sizes.image_shape[2], -1)
    return {
        f"{EMBEDDINGS}.cls_token": weights["encoder.class_token"],
        f"{EMBEDDINGS}.position_embeddings": weights["encoder.positions"][None],
        f"{EMBEDDINGS}.patch_embeddings.projection.weight": kernel.transpose(3, 2, 0, 1),
        f"{EMBEDDINGS}.patch_embeddings.projection.bias": weights["encoder.patches.bias"],
        "decoder.mask_token": weights["decoder.mask_token"],
        "decoder.decoder_pos_embed": weights["decoder.positions"][None],
    }


def ours_from_theirs(values, weights, sizes):
    """Their gradients under our names and in our layouts: the way back of the two functions above."""
    p, q = sizes.patch_size
    kernel = values[f"{EMBEDDINGS}.patch_embeddings.projection.weight"].transpose(2, 3, 1, 0)
    ours = {
        "encoder.class_token": values[f"{EMBEDDINGS}.cls_token"],
        "encoder.patches.kernel": kernel.reshape(p * q * sizes.image_shape[2], -1),
        "encoder.patches.bias": values[f"{EMBEDDINGS}.patch_embeddings.projection.bias"],
        "decoder.mask_token": values["decoder.mask_token"],
        "encoder.norm.gamma": values["vit.layernorm.weight"],
        "encoder.norm.beta": values["vit.layernorm.bias"],
        "decoder.norm.gamma": values["decoder.decoder_norm.weight"],
        "decoder.norm.beta": values["decoder.decoder_norm.bias"],
    }
    pairs = [("decoder.embedding", "decoder.decoder_embed"), ("decoder.prediction", "decoder.decoder_pred")]
    for theirs, name, depth in (
        ("vit.layers", "encoder", sizes.depth),
        ("decoder.decoder_layers", "decoder", sizes.decoder_depth),
    ):
        for i in range(depth):
            own, other = f"{name}.{i}", f"{theirs}.{i}"
            split = [f"{other}.attention.{letter}_proj" for letter in "qkv"]
            ours[f"{own}.qkv.kernel"] = np.concatenate([values[f"{key}.weight"].T for key in split], axis=1)
            ours[f"{own}.qkv.bias"] = np.concatenate([values[f"{key}.bias"] for key in split])
            pairs += [(f"{own}.projection", f"{other}.attention.o_proj")]
            pairs += [(f"{own}.{fc}", f"{other}.mlp.{fc}") for fc in ("fc1", "fc2")]
            for norm, place in (("norm1", "before"), ("norm2", "after")):
                ours[f"{own}.{norm}.gamma"] = values[f"{other}.layernorm_{place}.weight"]
                ours[f"{own}.{norm}.beta"] = values[f"{other}.layernorm_{place}.bias"]
    for own, other in pairs:
        ours[f"{own}.kernel"] = values[f"{other}.weight"].T
        ours[f"{own}.bias"] = values[f"{other}.bias"]
    return ours


def run_transformers(mae, images, noise):
    """Tokens, predictions, loss and gradients of `transformers` with our weights, under our names."""
    import torch
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    weights, sizes = oracles.weights_of(mae), oracles.Sizes.of(mae)
    config = ViTMAEConfig(
        hidden_size=mae.encoder.embed_dim,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.num_heads,
        intermediate_size=4 * mae.encoder.embed_dim,
        image_size=sizes.image_shape[:2],
        patch_size=sizes.patch_size[0],
        num_channels=sizes.image_shape[2],
        decoder_hidden_size=mae.decoder.embed_dim,
        decoder_num_hidden_layers=sizes.decoder_depth,
        decoder_num_attention_heads=sizes.decoder_num_heads,
        decoder_intermediate_size=4 * mae.decoder.embed_dim,
        mask_ratio=MASK_RATIO,
        norm_pix_loss=mae.norm_pix_loss,
        layer_norm_eps=1e-6,
    )
    model = ViTMAEForPreTraining(config).eval()
    state = their_state(weights) | their_embeddings(weights, sizes)
    model.load_state_dict({key: torch.tensor(value) for key, value in state.items()}, strict=True)
    # Its `patchify` refuses images that are not square, and does nothing else with the flag that lets them in.
    patchify = ViTMAEForPreTraining.patchify
    model.patchify = MethodType(
        lambda self, pixels, **_: patchify(self, pixels, interpolate_pos_encoding=True), model
    )

    pixels = torch.tensor(oracles.normalised(images, sizes).transpose(0, 3, 1, 2), dtype=torch.float32)
    noise = torch.tensor(noise)
    tokens = model.vit(pixels, noise=noise).last_hidden_state
    outputs = model(pixels, noise=noise)
    outputs.loss.backward()
    gradients = {key: value.grad.numpy() for key, value in model.named_parameters() if value.grad is not None}
    found = {"tokens": tokens, "logits": outputs.logits, "loss": outputs.loss, "mask": outputs.mask}
    return {
        "images": images,
        "noise": noise.numpy(),
        **{key: value.detach().numpy() for key, value in found.items()},
        **{f"weight:{key}": value for key, value in weights.items()},
        **{f"gradient:{key}": value for key, value in ours_from_theirs(gradients, weights, sizes).items()},
    }


# === Ours ===
def loss_and_gradients(mae, inputs):
    """The training loss and its gradients, by the backend's own means, under the names of `oracles`.

    With JAX the normalised models are compiled with all of LLVM's optimisations, as users run them.
    """
    variables = {key: value for key, value in oracles.named_variables(mae).items() if value.trainable}

    def loss_of():
        outputs = mae.outputs_for_loss(inputs, training=True)
        return mae.compute_loss(inputs, None, outputs, training=True)

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = loss_of()
        gradients = tape.gradient(loss, [variable.value for variable in variables.values()])
    elif backend == "jax":
        import jax

        def stateless(values):
            state = zip(variables.values(), values, strict=True)
            with keras.StatelessScope(state_mapping=list(state)):
                return loss_of()

        optimised = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True}
        step = jax.jit(jax.value_and_grad(stateless), compiler_options=optimised if mae.norm_pix_loss else None)
        loss, gradients = step([variable.value for variable in variables.values()])
    else:
        mae.zero_grad()
        loss = loss_of()
        loss.backward()
        gradients = [variable.value.grad for variable in variables.values()]
    return float(to_numpy(loss)), dict(zip(variables, map(to_numpy, gradients), strict=True))


@pytest.fixture(scope="module", params=list(CASES))
def case(request, referee, make_mae, make_images, randomise):
    """A model of ours and what `transformers` made of its weights."""
    image_shape, patch_size, norm_pix_loss = CASES[request.param]
    mae = make_mae(
        image_shape=image_shape,
        patch_size=patch_size,
        masking=keras_mae.RandomMasking(MASK_RATIO),
        norm_pix_loss=norm_pix_loss,
    )
    name = f"transformers_{request.param}.npz"
    if referee.live:
        pytest.importorskip("transformers", reason="the referee of the PyTorch environment is not installed")
        randomise(mae, seed=7)
        noise = np.random.default_rng(8).random((3, mae.encoder.num_patches), "float32")
        arrays = run_transformers(mae, make_images(3, image_shape), noise)
        referee.write(name, **arrays)
    else:
        arrays = referee.read(name)
        for key, variable in oracles.named_variables(mae).items():
            variable.assign(arrays[f"weight:{key}"])
    return mae, arrays


@pytest.fixture(scope="module")
def ours(case, quick):
    """Tokens, predictions and mask of our model."""
    mae, arrays = case

    @quick
    def run(images, noise):
        ids = mae.masking(noise, grid=mae.encoder.grid).ids_keep
        return {"tokens": mae.encoder(images, ids_keep=ids), **mae({"images": images, "noise": noise})}

    outputs = run(ops.convert_to_tensor(arrays["images"]), ops.convert_to_tensor(arrays["noise"]))
    return {key: to_numpy(value) for key, value in outputs.items()}


def test_masks_agree_with_transformers(case, ours):
    np.testing.assert_array_equal(ours["mask"], case[1]["mask"])


def test_tokens_agree_with_transformers(case, ours):
    np.testing.assert_allclose(ours["tokens"], case[1]["tokens"], atol=1e-5)


def test_predictions_agree_with_transformers(case, ours):
    np.testing.assert_allclose(ours["reconstruction"], case[1]["logits"], atol=1e-5)


def test_loss_and_gradients_agree_with_transformers(case):
    mae, arrays = case
    loss, gradients = loss_and_gradients(mae, {"images": arrays["images"], "noise": arrays["noise"]})
    np.testing.assert_allclose(loss, arrays["loss"], rtol=1e-5)
    theirs = {key.removeprefix("gradient:"): value for key, value in arrays.items() if key.startswith("gradient:")}
    assert set(gradients) == set(theirs)
    for key, expected in theirs.items():
        # 1e-4 of the largest entry. The gradient of a key's bias is zero but for rounding: softmax ignores it.
        np.testing.assert_allclose(gradients[key], expected, atol=1e-4 * np.abs(expected).max(), rtol=0, err_msg=key)
        assert np.abs(expected).max() > 1e-6, key


def test_the_oracle_agrees_with_transformers(case):
    """Both referees at once: were one of them wrong, this would be the test to say so."""
    mae, arrays = case
    weights, sizes, mask = oracles.weights_of(mae), oracles.Sizes.of(mae), arrays["mask"]
    prediction = oracles.decode(oracles.encode(arrays["images"], weights, sizes, mask), weights, sizes, mask)
    np.testing.assert_allclose(arrays["logits"], prediction, atol=1e-5)
    target = oracles.target_of(arrays["images"], sizes, mae.norm_pix_loss)
    np.testing.assert_allclose(arrays["loss"], oracles.loss_of(prediction, target, mask), rtol=1e-5)


# === Saved on one backend, loaded on another ===
@pytest.fixture(scope="module", params=["float32", "mixed_bfloat16"])
def saved(request, referee, randomise):
    """A model as PyTorch saved it, what PyTorch computed with it, and the precision."""
    name = f"saved_{request.param}"
    if referee.live:
        if referee.directory is None:
            pytest.skip("KERAS_MAE_REFEREE is not set: nowhere to save for the other backends")
        model = randomise(contracts.mae(dtype=request.param), seed=5)
        model.encoder.step.set(29)
        outputs = {key: to_numpy(value) for key, value in model(contracts.IMAGES).items()}
        features = to_numpy(ops.cast(model.encoder(contracts.IMAGES), "float32"))
        first_weight = to_numpy(model.encoder.blocks[1].attention.qkv.kernel)
        referee.write(f"{name}.npz", features=features, qkv=first_weight, **outputs)
        model.save(referee.directory / f"{name}.keras")
    model = keras.saving.load_model(referee.path(f"{name}.keras"))
    return model, referee.read(f"{name}.npz"), request.param


def test_loaded_model_has_the_saved_configuration(saved):
    model, _, precision = saved
    assert (model.seed, model.masks_per_image, model.norm_pix_loss) == (23, 3, True)
    assert isinstance(model.masking, keras_mae.BlockMasking)
    policies = {layer.dtype_policy.name for layer in contracts.layers_within(model.encoder)}
    assert policies == {precision}
    assert int(model.encoder.step.value) == 29


def test_loaded_model_has_the_saved_weights_and_masks(saved):
    model, arrays, _ = saved
    np.testing.assert_array_equal(to_numpy(model.encoder.blocks[1].attention.qkv.kernel), arrays["qkv"])
    np.testing.assert_array_equal(to_numpy(model(contracts.IMAGES)["mask"]), arrays["mask"])


def test_loaded_model_computes_the_saved_outputs(saved):
    model, arrays, precision = saved
    # bfloat16 has 8 bits, and every backend rounds at other places.
    tolerance = 1e-5 if precision == "float32" else 0.1
    features = to_numpy(ops.cast(model.encoder(contracts.IMAGES), "float32"))
    np.testing.assert_allclose(features, arrays["features"], atol=tolerance)
    reconstruction = to_numpy(model(contracts.IMAGES)["reconstruction"])
    np.testing.assert_allclose(reconstruction, arrays["reconstruction"], atol=tolerance)
