"""Classes go by their names: in classifiers, datasets, training and scores."""

import json

import keras
import numpy as np
import pytest
from classifier_helpers import BACKEND, BATCH, CLASSES, IMAGES, compiled, make_classifier, make_encoder
from data_helpers import CLASSES as FOLDERS
from data_helpers import COUNT, INDEXED, LOADERS, STREAMED, epoch, make, prepare, write_folder
from rich.console import Console
from training_helpers import quick_compile

import keras_mae
from keras_mae import data, recipes, training, transfer
from keras_mae.data.relabeling import relabeled
from keras_mae.data.streams import Stream

NAMES = tuple(f"kind {letter}" for letter in "abcdefghijk")
TURNED = (*NAMES[4:], *NAMES[:4])  # another order
LABELS = np.arange(4 * BATCH) % CLASSES
FINE_TUNE = recipes.FineTuneRecipe.for_size("small_images", epochs=1, warmup_epochs=0, batch_size=BATCH)
PROBE = recipes.LinearProbeRecipe.for_size("small_images", epochs=1, warmup_epochs=0, batch_size=BATCH)


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


def batches(names, labels=LABELS, images=IMAGES, **options):
    options = {"loader": "grain", "shuffle": False, **options}
    return data.from_arrays(images, labels, BATCH, class_names=names, **options)


def labels_of(dataset):
    return np.concatenate([labels for _, labels in epoch(dataset)])


# === A classifier's ===
def test_names_are_part_of_a_classifier(tmp_path):
    classifier = make_classifier(class_names=list(NAMES))
    assert type(classifier.class_names) is tuple
    assert classifier.class_names == NAMES
    classifier.save(tmp_path / "named.keras")
    assert keras.saving.load_model(tmp_path / "named.keras").class_names == NAMES
    assert make_classifier().class_names is None


@pytest.mark.backends("torch")
@pytest.mark.parametrize(
    "names", [NAMES[:-1], (*NAMES, "more"), (*NAMES[:-1], "kind a"), (*NAMES[:-1], ""), range(11), "abcdefghijk", []]
)
def test_names_must_be_one_for_each_class_and_different(names):
    with pytest.raises(
        ValueError, match="`class_names` must be 11 different non-empty names, one for each class. Rec"
    ):
        make_classifier(class_names=names)


# === A dataset's ===
@pytest.mark.backends("torch")
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("kind", INDEXED)
def test_every_labeled_dataset_has_them(kind, loader, tmp_path):
    options = {"class_names": FOLDERS} if kind == "arrays" else {}
    assert make(kind, tmp_path, loader=loader, **options).class_names == FOLDERS


@pytest.mark.parametrize("kind", STREAMED)
def test_streams_have_them_where_their_source_does(kind, tmp_path):
    assert make(kind, tmp_path).class_names == (FOLDERS if kind == "tfrecord" else None)


@pytest.mark.backends("torch")
@pytest.mark.parametrize("loader", LOADERS)
def test_without_labels_there_are_none(loader, tmp_path):
    assert data.from_directory(write_folder(tmp_path / "photos"), 8, 4, loader=loader).class_names is None
    assert data.from_arrays(IMAGES, LABELS, loader=loader).class_names is None


@pytest.mark.backends("torch")
@pytest.mark.parametrize("labels", [None, LABELS])
def test_an_arrays_names_are_at_least_as_many_as_its_labels(labels):
    with pytest.raises(
        ValueError, match="must be one for each label. Received: 10 names, (no labels|labels up to 10)"
    ):
        data.from_arrays(IMAGES, labels, class_names=NAMES[:10])


@pytest.mark.backends("torch")
@pytest.mark.parametrize("kind", ["folder", "array_record", *STREAMED[:1]])
def test_a_folder_is_numbered_as_it_is_told(kind, tmp_path):
    """Of the images 0, 1, 2, ... the classes are ant, cat, owl, ant, ..."""
    write_folder(tmp_path / "photos")
    path = tmp_path / "photos" if kind == "folder" else tmp_path / kind
    if kind != "folder":
        prepare(tmp_path / "photos", path, format=kind)
    own, told = (
        data.from_directory(path, 8, 4, labeled=True, class_names=names, shuffle=False)
        for names in (None, ("owl", "bat", "ant", "cat"))
    )
    assert told.class_names == ("owl", "bat", "ant", "cat")
    np.testing.assert_array_equal(labels_of(told), np.array([2, 3, 0])[labels_of(own)])
    assert len(labels_of(told)) == COUNT
    with pytest.raises(
        ValueError, match="among those known: ant, owl. Received: ant, cat, owl, of which unknown: cat"
    ):
        data.from_directory(path, 8, labeled=True, class_names=("ant", "owl"))
    with pytest.raises(ValueError, match="`class_names` must be different non-empty names"):
        data.from_directory(path, 8, labeled=True, class_names=("ant", "ant", "owl", "cat"))


@pytest.mark.backends("torch")
def test_a_stream_is_numbered_twice():
    names = {"class_names": ("a", "b", "c"), "labeled": True}
    stream = Stream("three images", lambda shuffle, seed: None, image_size=8, channels=3, sized=True, **names)
    twice = relabeled(relabeled(stream, ("c", "a", "b")), ("b", "c", "a"))
    image = np.zeros((8, 8, 3), "uint8")
    assert [twice.load((image, label), 0, None, lambda index: [])[1] for label in range(3)] == [2, 0, 1]
    with pytest.raises(ValueError, match="must be numbers of its 3 classes. Received: 3"):
        twice.load((image, 3), 0, None, lambda index: [])


@pytest.mark.backends("torch")
def test_images_without_labels_are_not_numbered(tmp_path):
    with pytest.raises(ValueError, match="`class_names` are for images with labels that have names"):
        data.from_directory(write_folder(tmp_path / "photos"), 8, class_names=FOLDERS)


# === Training and Keras' own scores ===
def test_a_classifier_learns_the_names_of_what_it_is_trained_on():
    classifier = compiled(make_classifier())
    classifier.fit(batches(NAMES), validation_data=batches(NAMES), verbose=0)
    assert classifier.class_names == NAMES
    classifier.fit(IMAGES, LABELS, batch_size=BATCH, verbose=0)
    assert classifier.class_names == NAMES


def test_labels_that_mean_other_classes_are_refused():
    classifier = compiled(make_classifier(class_names=NAMES))
    both = f"Received: {', '.join(TURNED)}; the classifier's are {', '.join(NAMES)}"
    with pytest.raises(ValueError, match=both):
        classifier.fit(batches(TURNED), verbose=0)
    with pytest.raises(ValueError, match=both):
        classifier.fit(batches(NAMES), validation_data=batches(TURNED), verbose=0)
    with pytest.raises(ValueError, match=both):
        classifier.evaluate(batches(TURNED), verbose=0)
    first = batches(NAMES[:3], LABELS % 3)  # their places are the same
    assert classifier.evaluate(first, verbose=0) == classifier.evaluate(IMAGES, LABELS % 3, BATCH, verbose=0)


def test_a_classifier_without_names_takes_labels_by_their_place():
    classifier = compiled(make_classifier())
    with pytest.warns(
        UserWarning, match="The classifier has no class names: its classes 0 to 10 are taken to be kind e"
    ):
        scores = classifier.evaluate(batches(TURNED), verbose=0)
    assert scores == classifier.evaluate(IMAGES, LABELS, BATCH, verbose=0)
    for method in (classifier.evaluate, classifier.fit):
        with pytest.raises(ValueError, match="has 11 classes. Received: 3 classes: kind a, kind b, kind c"):
            method(batches(NAMES[:3], LABELS % 3), verbose=0)
    assert classifier.class_names is None


def test_labels_of_another_loss_need_not_be_classes():
    classifier = keras_mae.ViTClassifier(make_encoder(), 1)
    classifier.compile(
        "sgd", keras.losses.BinaryCrossentropy(from_logits=True), metrics=[], run_eagerly=BACKEND != "jax"
    )
    answers = batches(("no", "yes"), LABELS % 2)
    assert answers.class_names == ("no", "yes")
    classifier.names_fit(answers)
    assert classifier.class_names is None


@pytest.mark.backends("torch")
def test_the_protocols_take_names_from_the_dataset(monkeypatch):
    """Before `fit` would: that is left out."""
    monkeypatch.setattr(keras_mae.ViTClassifier, "fit", lambda classifier, *args, **kwargs: None)
    encoder, train = make_encoder(), batches(NAMES)
    for trained in (
        transfer.fine_tune(encoder, train, CLASSES, FINE_TUNE),
        transfer.partial_fine_tune(encoder, train, CLASSES, FINE_TUNE, trainable_blocks=1),
        transfer.linear_probe(encoder, train, CLASSES, PROBE),
        transfer.linear_probe(encoder, batches(None), CLASSES, PROBE, class_names=NAMES),
    ):
        assert trained.class_names == NAMES
    with pytest.raises(ValueError, match="`class_names` must be 12 different non-empty names"):
        transfer.fine_tune(encoder, train, 12, FINE_TUNE)


def test_a_probe_on_cached_features_has_names_and_refuses_others():
    given = {"cache_features": True, "verbose": 0}
    probe = transfer.linear_probe(make_encoder(), batches(NAMES), CLASSES, PROBE, **given)
    assert probe.class_names == NAMES
    with pytest.raises(ValueError, match="the classifier's are kind a"):
        transfer.linear_probe(
            make_encoder(), batches(NAMES), CLASSES, PROBE, validation_data=batches(TURNED), **given
        )


# === Scores by name ===
class Scored:
    """A classifier, and labels of which it gets 14 of 20 right."""

    def __init__(self):
        self.classifier = make_classifier(class_names=NAMES)
        self.predicted = self.classifier.predict(IMAGES, batch_size=BATCH, verbose=0).argmax(-1)
        self.labels = np.where(np.arange(20) < 14, self.predicted, (self.predicted + 1) % CLASSES)

    def evaluate(self, directory, names, chosen=slice(None)):
        """Score on the chosen images, whose classes are numbered by these names."""
        labels = np.array([names.index(NAMES[label]) for label in self.labels[chosen]])
        run = training.run_evaluation(self.classifier, batches(names, labels, IMAGES[chosen]), directory)
        return json.loads((run / "metrics.json").read_text())


@pytest.fixture(scope="module")
def scored():
    return Scored()


@pytest.mark.backends("torch")
def test_another_order_is_scored_right(scored, tmp_path):
    metrics = scored.evaluate(tmp_path / "run", TURNED)
    assert (metrics["accuracy"], metrics["images"]) == (0.7, 20)
    expected = {
        name: (scored.predicted == scored.labels)[scored.labels == index].mean() if index in scored.labels else None
        for index, name in enumerate(NAMES)
    }
    assert metrics["accuracy_by_class"] == expected


@pytest.mark.backends("torch")
def test_some_of_the_classes_are_scored_on_those(scored, tmp_path):
    """The classifier may still answer with any of its classes."""
    present = sorted(set(scored.labels))[1:]
    chosen = np.isin(scored.labels, present)
    metrics = scored.evaluate(tmp_path / "run", [NAMES[index] for index in reversed(present)], chosen)
    assert metrics["accuracy"] == (scored.predicted == scored.labels)[chosen].mean()
    assert {name for name, score in metrics["accuracy_by_class"].items() if score is not None} == {
        NAMES[index] for index in present
    }


@pytest.mark.backends("torch")
def test_a_class_that_nobody_knows_is_an_error_that_lists_both(scored, tmp_path):
    with pytest.raises(
        ValueError, match="those known: kind a, .*, kind k. Received: kind a, kind z, of which unknown: kind z"
    ):
        training.run_evaluation(scored.classifier, batches(("kind a", "kind z"), LABELS % 2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.backends("torch")
def test_names_on_one_side_only_go_by_place(scored, tmp_path):
    nameless = make_classifier()
    with pytest.warns(UserWarning, match="The classifier has no class names"):
        run = training.run_evaluation(nameless, batches(TURNED, scored.labels), tmp_path / "nameless")
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["accuracy"], tuple(metrics["accuracy_by_class"])) == (0.7, TURNED)
    run = training.run_evaluation(scored.classifier, batches(None, scored.labels), tmp_path / "arrays")
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["accuracy"], tuple(metrics["accuracy_by_class"])) == (0.7, NAMES)
    run = training.run_evaluation(nameless, batches(None, scored.labels), tmp_path / "neither")
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["accuracy"], list(metrics["accuracy_by_class"])) == (0.7, [str(index) for index in range(11)])


@pytest.mark.backends("torch")
def test_the_confusion_matrix_has_the_classes_that_are_there_or_predicted(scored, tmp_path, monkeypatch):
    drawn = []
    whole = keras_mae.visualize.confusion
    monkeypatch.setattr(keras_mae.visualize, "confusion", lambda *given: drawn.append(given) or whole(*given))
    scored.evaluate(tmp_path / "run", TURNED)
    ((true, predicted, names),) = drawn
    assert [names[index] for index in true] == [NAMES[index] for index in scored.labels]
    assert [names[index] for index in predicted] == [NAMES[index] for index in scored.predicted]
    assert set(names) == {NAMES[index] for index in {*scored.labels, *scored.predicted}}


@pytest.mark.backends("torch")
def test_an_accent_is_the_same_however_it_is_written(tmp_path):
    """File systems differ in it: é is one character or two."""
    write_folder(tmp_path)
    (tmp_path / "cat").rename(tmp_path / "be\u0301te")
    opened = data.from_directory(tmp_path, 8, labeled=True, class_names=("ant", "b\u00e9te", "owl"), shuffle=False)
    assert set(labels_of(opened)) == {0, 1, 2}
    classifier = keras_mae.ViTClassifier(make_encoder(), 3, class_names=("ant", "b\u00e9te", "owl"))
    classifier.names_fit(data.from_directory(tmp_path, 8, labeled=True))


# === Runs ===
@pytest.mark.backends("torch")
def test_a_run_scores_its_test_images_by_name_and_saves_the_names(tmp_path):
    train, quiet = batches(NAMES, drop_remainder=True), Console(quiet=True)
    test = batches(NAMES[3:5], np.array([0, 1, 1, 0, 1]), IMAGES[:5])
    run = training.run_linear_probe(
        make_encoder(), train, test, PROBE, tmp_path / "run", validation_data=train, console=quiet
    )
    saved = keras.saving.load_model(run / "classifier.keras")
    assert saved.class_names == NAMES
    assert training.RunDirectory(run).metadata["class_names"] == list(NAMES)
    right = saved.predict(IMAGES[:5], verbose=0).argmax(-1) == np.array([3, 4, 4, 3, 4])
    assert training.RunDirectory(run).metrics["accuracy"] == right.mean()
    with pytest.raises(ValueError, match="of which unknown: kind z"):
        training.run_linear_probe(
            make_encoder(), train, batches(("kind z",), LABELS * 0), PROBE, tmp_path / "other", console=quiet
        )
    with pytest.raises(ValueError, match="`class_names` must be given for a dataset without class names"):
        training.run_linear_probe(make_encoder(), batches(None), test, PROBE, tmp_path / "other", console=quiet)
    with pytest.raises(ValueError, match="the classifier's are kind e"):
        training.run_linear_probe(
            make_encoder(), train, test, PROBE, tmp_path / "other", class_names=TURNED, console=quiet
        )
    assert not (tmp_path / "other").exists()


@pytest.mark.backends("torch")
def test_a_run_is_not_resumed_with_other_classes():
    """Older runs did not record them."""
    from keras_mae.training import metadata

    given = {"class_names": list(NAMES), "backend": BACKEND}
    for others, said in (
        (list(TURNED), r"other classes \(the same in another order\)"),
        ([*NAMES[1:], "cats", "dogs"], rf"other classes \(new: {NAMES[0]}; missing: cats, dogs\)"),
    ):
        with pytest.raises(ValueError, match=f"is another one. Received: {said}"):
            metadata.check_same_run("run", given, {**given, "class_names": others})
    metadata.check_same_run("run", given, {"backend": BACKEND})


@pytest.mark.backends("torch")
def test_neighbors_vote_by_name(tmp_path):
    encoder, order = make_encoder(), np.array([TURNED.index(name) for name in NAMES])
    train, test = batches(NAMES), batches(TURNED, order[LABELS])
    features = [transfer.extract_features(encoder, one, progress=False) for one in (train, test)]
    assert transfer.knn_accuracy(*features, k=1) == 1  # the same images
    metrics = json.loads((training.run_knn(encoder, train, test, tmp_path / "run", k=1) / "metrics.json").read_text())
    assert (metrics["accuracy"], tuple(metrics["accuracy_by_class"])) == (1, NAMES)
    strange = transfer.extract_features(encoder, batches(("kind z",), LABELS * 0), progress=False)
    with pytest.raises(ValueError, match="of which unknown: kind z"):
        transfer.knn_accuracy(features[0], strange, k=1)


@pytest.mark.backends("torch")
def test_a_test_folder_may_lack_classes(tmp_path):
    train, test = write_folder(tmp_path / "train"), write_folder(tmp_path / "test")
    for file in (test / "ant").iterdir():
        file.unlink()
    (test / "ant").rmdir()
    opened = training.open_labeled(train, (8, 8, 1), test=test)
    assert opened.test.class_names == opened.class_names == FOLDERS
    assert set(opened.test.labels) == {1, 2}
    feed = opened.feed(FINE_TUNE)
    assert [feed[name].class_names for name in ("dataset", "test", "validation_data")] == [FOLDERS] * 3
    (train / "ant").rename(train / "zebra")
    with pytest.raises(
        ValueError, match="among those known: cat, owl. Received: cat, owl, zebra, of which unknown: ze"
    ):
        training.open_labeled(test, (8, 8, 1), test=train)
