"""The command line: arguments -> recipe -> one library call."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Masked autoencoders in Keras: pre-train on images, look at what a model learned.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DEFAULT_MODELS = {"digits": "mae_vit_micro_patch2_8", "fashion_mnist": "mae_vit_micro_patch4_28"}
FOLDER_MODEL = "mae_vit_small_patch16_224"


class MaskingName(StrEnum):
    """How patches are chosen."""

    random = "random"
    block = "block"
    grid = "grid"


class Precision(StrEnum):
    """Keras dtype policies."""

    float32 = "float32"
    mixed_bfloat16 = "mixed_bfloat16"
    mixed_float16 = "mixed_float16"


class Statistics(StrEnum):
    """What undoes a normalised target."""

    visible = "visible"
    true = "true"


@app.command()
def pretrain(
    data: Annotated[str, typer.Argument(help="digits, fashion_mnist, or a folder of images.")] = "digits",
    model: Annotated[str | None, typer.Option(help="Preset; by default one that fits the data.")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of a folder's images; the preset's by default.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the data.")] = 40,
    warmup_epochs: Annotated[
        int | None, typer.Option(help="Of warm-up; a twentieth of the epochs by default.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images behind one update.")] = 32,
    accumulation_steps: Annotated[int, typer.Option(help="Batches whose gradients make one update.")] = 1,
    base_learning_rate: Annotated[
        float, typer.Option(help="For 256 images; the learning rate is base * batch size / 256.")
    ] = 8e-3,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.05,
    mask_ratio: Annotated[float, typer.Option(help="Fraction of the patches to remove.")] = 0.75,
    masking: Annotated[MaskingName, typer.Option(help="How patches are chosen.")] = MaskingName.random,
    norm_pix_loss: Annotated[
        bool, typer.Option(help="Predict each patch standardised by its own statistics.")
    ] = False,
    masks_per_image: Annotated[int, typer.Option(help="Masks drawn for each image in one step.")] = 1,
    precision: Annotated[Precision, typer.Option(help="Keras dtype policy.")] = Precision.float32,
    seed: Annotated[int, typer.Option(help="Of weights, masks and data order.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Run directory; by default the next free runs/DATA-N.")] = None,
) -> None:
    """Pre-train a masked autoencoder and leave a run directory.

    Without arguments: 1,437 digits, a micro ViT, a minute or two on a laptop. The defaults are for small images
    and data sets; the published recipe for ImageNet is --epochs 800 --warmup-epochs 40 --batch-size 4096
    --base-learning-rate 1.5e-4 --norm-pix-loss.
    """
    import keras

    import keras_mae
    from keras_mae.training import PretrainRecipe

    recipe = PretrainRecipe(
        epochs=epochs,
        warmup_epochs=epochs // 20 if warmup_epochs is None else warmup_epochs,
        batch_size=batch_size,
        accumulation_steps=accumulation_steps,
        base_learning_rate=base_learning_rate,
        weight_decay=weight_decay,
        mask_ratio=mask_ratio,
        norm_pix_loss=norm_pix_loss,
        masks_per_image=masks_per_image,
        seed=seed,
    )
    preset = model or DEFAULT_MODELS.get(data, FOLDER_MODEL)
    source, held_out, image_shape = _open(data, preset, image_size)
    keras.utils.set_random_seed(seed)
    maskings = {"random": keras_mae.RandomMasking, "block": keras_mae.BlockMasking, "grid": keras_mae.GridMasking}
    mae = keras_mae.MaskedAutoencoder.from_preset(
        preset,
        image_shape=image_shape,
        masking=maskings[masking.value](mask_ratio),
        norm_pix_loss=norm_pix_loss,
        masks_per_image=masks_per_image,
        seed=seed,
        dtype=precision.value,
    )
    batch = min(recipe.step_batch_size, len(source))
    dataset = keras_mae.data.make_dataset(source, batch, seed=seed, drop_remainder=True)
    directory = out or _next_run(Path(data).name)
    typer.echo(
        f"{preset}: {mae.count_params():,} parameters, {len(source):,} images of {'x'.join(map(str, image_shape))}, "
        f"{keras.backend.backend()}, learning rate {recipe.learning_rate:.3g}"
    )
    keras_mae.training.pretrain(mae, dataset, recipe, directory, held_out)
    typer.echo(f"{directory}: {', '.join(sorted(path.name for path in directory.iterdir()))}")


def _open(data: str, preset: str, image_size: int | None) -> tuple[Any, Any, tuple[int, int, int]]:
    """The source of images, a few to look at, and their shape."""
    import numpy as np

    from keras_mae import data as keras_mae_data
    from keras_mae import presets

    shape = presets.get(preset).encoder["image_shape"]
    if data in keras_mae_data.NAMES:
        if image_size is not None:
            raise ValueError(
                f"`image_size` goes with a folder of images. Received: image_size={image_size} for {data}"
            )
        source = keras_mae_data.ArraySource(keras_mae_data.load(data, "train")[0])
        return source, keras_mae_data.load(data, "test")[0][:8], source.image_shape
    if not Path(data).is_dir():
        names = ", ".join(keras_mae_data.NAMES)
        raise ValueError(f"`data` must be {names} or an existing folder of images. Received: data={data!r}")
    size = image_size or shape[:2]
    folder = keras_mae_data.FolderSource(data, size, shape[2])
    return folder, folder.batch(np.arange(min(8, len(folder)))), folder.image_shape


def _next_run(name: str) -> Path:
    number = 1
    while (directory := Path("runs") / f"{name}-{number}").exists():
        number += 1
    return directory


@app.command()
def reconstruct(
    model: Annotated[Path, typer.Argument(help="A saved MaskedAutoencoder, such as runs/digits-1/model.keras.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("reconstructions.png"),
    seed: Annotated[int | None, typer.Option(help="Of the masks.")] = None,
    statistics: Annotated[
        Statistics, typer.Option(help="What undoes a normalised target; 'true' leaks the answer.")
    ] = Statistics.visible,
) -> None:
    """Mask images, let MODEL fill them in, and write the picture."""
    import numpy as np

    import keras_mae
    from keras_mae.training.runner import write

    mae = _load(model)
    if not isinstance(mae, keras_mae.MaskedAutoencoder):
        raise ValueError(
            f"`model` must be a MaskedAutoencoder: reconstructing takes its decoder. "
            f"Received: a {type(mae).__name__} in {str(model)!r}"
        )
    keras_mae.visualize.check_savable(out)
    batch = np.stack([keras_mae.data.read_image(path, mae.encoder.image_shape) for path in images])
    result = mae.reconstruct(batch, seed=seed, statistics=statistics.value)
    figure = keras_mae.visualize.reconstructions(result, max_images=len(batch))
    out.parent.mkdir(parents=True, exist_ok=True)
    write(out, figure.savefig)
    typer.echo(f"{out}: {len(batch)} image{'s' if len(batch) > 1 else ''}")


@app.command()
def info(model: Annotated[Path, typer.Argument(help="A saved model, such as runs/digits-1/model.keras.")]) -> None:
    """Say what is in a saved model."""
    from rich.console import Console
    from rich.table import Table

    import keras_mae

    loaded = _load(model)
    encoder = getattr(loaded, "encoder", loaded)
    rows: dict[str, Any] = {
        "class": type(loaded).__name__,
        "image": "x".join(map(str, encoder.image_shape)),
        "patch": "x".join(map(str, encoder.patch_size)) + f" ({encoder.num_patches} patches)",
        "encoder": _size(encoder),
    }
    if isinstance(loaded, keras_mae.MaskedAutoencoder):
        masking = loaded.masking
        rows |= {
            "decoder": _size(loaded.decoder),
            "parameters": f"{loaded.count_params():,}",
            "masking": f"{type(masking).__name__}, ratio {masking.mask_ratio}, seed {loaded.seed}",
            "target": "normalised pixels" if loaded.norm_pix_loss else "pixels",
        }
    rows |= {
        "pixel mean, std": f"{json.dumps(encoder.pixel_mean)}, {json.dumps(encoder.pixel_std)}",
        "training steps": int(keras_mae.ops.concrete(encoder.step.value)),
        "dtype": encoder.dtype_policy.name,
    }
    table = Table(title=str(model), show_header=False)
    for name, value in rows.items():
        table.add_row(name, str(value))
    Console().print(table)


def _size(part: Any) -> str:
    return f"{part.embed_dim} wide, {part.depth} blocks, {part.num_heads} heads, {part.count_params():,} parameters"


def _load(path: Path) -> Any:
    """A model that keras_mae saved, or a `ValueError` that says what the file is instead."""
    import keras

    import keras_mae

    if path.is_dir():
        raise ValueError(f"A model is a .keras file, not a folder: try {str(path / 'model.keras')!r}")
    if not path.is_file():
        raise ValueError(f"There is no model file {str(path)!r}")
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError(f"A model file is a .keras file that keras_mae saved. Received: {str(path)!r}")
    try:
        model = keras.saving.load_model(path)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"Cannot load the model file {str(path)!r}: {first}") from error
    if not isinstance(model, (keras_mae.MaskedAutoencoder, keras_mae.ViTEncoder)):
        raise ValueError(
            f"`model` must hold a MaskedAutoencoder or a ViTEncoder. "
            f"Received: a {type(model).__name__} in {str(path)!r}"
        )
    return model


def main() -> None:
    """Run the command; a mistake of the user's is one line and status 2."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    command = typer.main.get_command(app)
    try:
        status = command(standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(130)
    except (ValueError, ImportError, OSError) as error:
        _fail(str(error), 2)
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's errors have it, whichever click typer brings
            raise
        _fail(error.format_message() or "a command is missing; see keras-mae --help", 2)
    sys.exit(status or 0)


def _fail(message: str, status: int) -> None:
    print(f"Error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
