"""Wrong calls of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from wrong_arguments import (
    CHOICE,
    COUNT,
    NAN,
    NOT_NEGATIVE,
    PAIR,
    PATH,
    PIXEL_RANGE,
    SEED,
    Group,
    sweep,
)

import keras_mae
from keras_mae import visualize
from wrong.inputs import (
    BATCH,
    IMAGES,
    LABELS,
    MODELS,
    OBJECTS,
    RNG,
    STRINGS,
    classifier,
    encoder,
    mae,
)


# === Pictures ===
def of_pictures(folder: Path) -> list[Group]:
    shown = (None, "x", 3, [], STRINGS, OBJECTS, BATCH * 1j, BATCH[0], BATCH[:0])
    bands = (9, -1, "x", (0, 1), (0.5,), ())
    looking: dict[str, Any] = {"model": MODELS, "images": IMAGES, "batch_size": COUNT}
    drawing: dict[str, Any] = {"images": shown, "bands": bands, "pixel_range": PIXEL_RANGE}
    maps, tokens = RNG.random((4, 2, 2)), RNG.random((4, 5, 5))
    colors = RNG.integers(0, 256, (4, 2, 2, 3), "uint8")
    result = mae().reconstruct(BATCH)
    text = np.full((4, 2, 2), "a")
    explained: dict[str, Any] = {
        "classifier": (*MODELS, encoder()),
        "images": IMAGES,
        "classes": (3, -1, "x", 0.5, LABELS[:2], LABELS + 0.5),
        "batch_size": COUNT,
    }
    history = {"loss": [1.0, 2.0]}
    histories = (
        None,
        3,
        [],
        {},
        {"x": [1]},
        {"loss": []},
        {"loss": [1, 2], "val_loss": [1]},
        {"loss": [1, 2], "learning_rate": [1]},
        {"loss": ["a", "b"]},
        {"loss": 3},
        {"loss": [[1], [2]]},
        {"loss": [1, 2], "epoch": [1]},
        "nowhere",
        {"a": history, "b": 3},
    )
    attentive = keras_mae.ViTClassifier(encoder(), 3, pooling="attentive")
    return [
        sweep(
            "attention",
            visualize.attention,
            {"model": encoder(), "images": BATCH},
            {**looking, "layers": (2, -3, "x", 0.5, (), (0.5,), [True])},
        ),
        sweep("attention_rollout", visualize.attention_rollout, {"model": encoder(), "images": BATCH}, looking),
        sweep(
            "neighbors",
            visualize.neighbors,
            {"rows": [[BATCH[0]]], "titles": [["a"]]},
            {
                "rows": (None, 3, "x", [], [3], ["x"], [["x"]], [[BATCH]]),
                "titles": (None, 3, "x", [], [[]], [["a", "b"]]),
                "bands": bands,
                "pixel_range": PIXEL_RANGE,
            },
        ),
        sweep(
            "map_page",
            visualize.map_page,
            {"coordinates": RNG.random((4, 2)), "names": list("abcd"), "images": list(BATCH)},
            {
                "coordinates": (None, 3, "x", RNG.random(4), RNG.random((4, 3)), RNG.random((4, 2)) * NAN, STRINGS),
                "names": (None, 3, "abcd", ["a"]),
                "classes": (3, "abcd", ["a"]),
                "images": (3, "abcd", [BATCH[0]], ["x"] * 4, [BATCH] * 4),
                "title": (None, 3, ""),
                "thumbnail": COUNT,
                "bands": bands,
                "pixel_range": PIXEL_RANGE,
            },
        ),
        sweep("feature_colors", visualize.feature_colors, {"model": encoder(), "images": BATCH}, looking),
        sweep("position_similarity", visualize.position_similarity, {"model": encoder()}, {"model": MODELS}),
        sweep(
            "patch_maps",
            visualize.patch_maps,
            {"model": encoder(), "attention": tokens},
            {
                "model": MODELS,
                "attention": (None, "x", 3, tokens[:, 0], np.full((5, 5), "a")),
                "query": (3, "x", (0,), (2, 0), (-1, 0), (0.5, 0), (0, "x")),
            },
        ),
        sweep(
            "reconstruct_at",
            visualize.reconstruct_at,
            {"mae": mae(), "images": BATCH, "mask_ratios": (0.5,)},
            {
                "mae": (*MODELS, encoder()),
                "images": IMAGES,
                "mask_ratios": (0.5, None, "x", (), (0,), (1,), (NAN,), ("a",)),
                "seed": SEED,
                "statistics": CHOICE,
            },
            mask_ratios="mask_ratio",
        ),
        sweep(
            "reconstructions",
            visualize.reconstructions,
            {"result": result, "max_images": 1},
            {"result": (None, 3, "x", [], [3], BATCH), "max_images": COUNT, "bands": bands},
        ),
        sweep(
            "overlays",
            visualize.overlays,
            {"images": BATCH, "maps": maps},
            {**drawing, "maps": (None, "x", 3, maps[:2], maps[0], text, {}, {"a": maps[:2]})},
        ),
        sweep(
            "heat_maps",
            visualize.heat_maps,
            {"images": BATCH, "maps": {"a": BATCH[..., 0]}},
            {
                **drawing,
                "maps": (None, "x", 3, {}, BATCH[..., 0], {"a": maps}, {"a": BATCH[..., 0] * NAN}),
                "names": ("abcd", 3, ["a"], [1, 2, 3, 4]),
                "defects": ("x", 3, BATCH, maps),
            },
        ),
        sweep(
            "attention_heads",
            visualize.attention_heads,
            {"image": BATCH[0], "maps": RNG.random((1, 1, 2, 2))},
            {
                "image": (None, "x", 3, BATCH, STRINGS[0]),
                "maps": (None, "x", 3, maps, text[None], maps[None, :0]),
                "layers": ((0, 1), "x", 0.5),
                "bands": bands,
                "pixel_range": PIXEL_RANGE,
            },
        ),
        sweep(
            "position_maps",
            visualize.position_maps,
            {"similarity": np.ones((2, 2, 2, 2))},
            {"similarity": (None, "x", 3, maps, np.ones((2, 3, 3, 2)), np.full((2, 2, 2, 2), "a"))},
        ),
        sweep(
            "feature_maps",
            visualize.feature_maps,
            {"images": BATCH, "colors": colors},
            {**drawing, "colors": (None, "x", 3, colors[:2], colors[..., 0], np.full((4, 2, 2, 3), "a"))},
        ),
        sweep(
            "confusion",
            visualize.confusion,
            {"labels": LABELS, "predicted": LABELS, "class_names": ["a", "b", "c"]},
            {
                "labels": (
                    None,
                    "x",
                    3,
                    LABELS + 0.5,
                    LABELS[:2],
                    -LABELS,
                    LABELS + 5,
                    LABELS[:0],
                    ["a"] * 4,
                    [LABELS],
                ),
                "predicted": (None, "x", 3, LABELS + 0.5, LABELS[:2], -LABELS, LABELS + 5, ["a"] * 4),
                "class_names": (None, 3, [], ["a"], [1, 2, 3], ["a", "a", "b"], "abc"),
            },
            class_names=("class_names", "labels"),
        ),
        sweep(
            "curves",
            visualize.curves,
            {"history": history},
            {"history": histories},
            history=("history", "loss", "nowhere"),
        ),
        sweep(
            "read_history",
            visualize.read_history,
            {},
            {"path": (*PATH, "nowhere")},
            check_right=False,
            path=("path", "nowhere", "history file"),
        ),
        sweep(
            "maskings",
            visualize.maskings,
            {"images": BATCH[:1], "patch_size": 4, "kinds": [keras_mae.RandomMasking()]},
            {
                **drawing,
                "patch_size": (*PAIR, 3),
                "kinds": (3, "x", [], [3], keras_mae.RandomMasking(), [keras_mae.RandomMasking]),
                "seed": SEED,
            },
        ),
        sweep("saliency", visualize.saliency, {"classifier": classifier(), "images": BATCH}, explained),
        sweep(
            "smooth_grad",
            visualize.smooth_grad,
            {"classifier": classifier(), "images": BATCH, "samples": 1},
            {**explained, "samples": COUNT, "noise": NOT_NEGATIVE, "seed": SEED},
        ),
        sweep(
            "query_attention",
            visualize.query_attention,
            {"classifier": attentive, "images": BATCH},
            {"classifier": (*MODELS, encoder(), classifier()), "images": IMAGES, "batch_size": COUNT},
        ),
        sweep(
            "query_maps",
            visualize.query_maps,
            {"images": BATCH, "maps": RNG.random((4, 3, 2, 2))},
            {
                **drawing,
                "maps": (None, "x", 3, maps, RNG.random((2, 3, 2, 2))),
                "queries": (3, -1, "x", 0.5, (), [True]),
            },
        ),
        sweep(
            "check_savable",
            visualize.check_savable,
            {"path": "a.png"},
            {"path": (*PATH, "a.xyz", "png")},
            path=("path", "picture's name"),
        ),
        sweep(
            "keras_vis",
            visualize.keras_vis,
            {},
            {"classifier": (*MODELS, encoder())},
            check_right=False,
            classifier=("classifier", "backend"),
        ),
    ]
