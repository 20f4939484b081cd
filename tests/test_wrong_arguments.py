"""Every wrong argument and option is answered by one clear line; `wrong_arguments.py` says what that is."""

import dataclasses
import warnings

import pytest
import wrong_arguments
import wrong_calls
import wrong_options
from training_helpers import quick_compile

from keras_mae.recipes import PretrainRecipe


@pytest.fixture(scope="module", autouse=True)
def _quick_compile():
    with quick_compile():
        yield


@pytest.fixture(scope="module")
def folder():
    with wrong_arguments.empty_folder() as made:
        wrong_calls.make_files(made)
        yield made


# What no backend has a part in: files and pictures are refused before one is asked. And models and runs are, before
# TensorFlow is, which takes longest to build them.
OF_NO_BACKEND = {
    "files": ["torch"],
    "pairs": ["torch"],
    "folders": ["torch", "tensorflow"],
    "pictures": ["torch"],
    "recipes": ["torch"],
    "segmentation": ["torch"],
}
OF_NO_BACKEND |= {"pairs": ["torch"], "models": ["torch", "jax"], "training": ["torch", "jax"]}


@pytest.mark.parametrize(
    "section",
    [
        pytest.param(section, marks=pytest.mark.backends(*OF_NO_BACKEND.get(section, ("torch", "jax", "tensorflow"))))
        for section in wrong_calls.SECTIONS
    ],
)
def test_wrong_calls_are_answered(section, folder):
    groups = wrong_calls.SECTIONS[section](folder)
    assert [said for group in groups for said in wrong_arguments.complaints(group, right=False)] == []


@pytest.mark.backends("torch")  # the library's calls behind them are tried on each
def test_wrong_options_are_answered(folder):
    groups = wrong_options.groups(folder, cheap=True)
    assert [said for group in groups for said in wrong_arguments.complaints(group, right=False)] == []


def answered_by(call, name="x"):
    return wrong_arguments.complaint(wrong_arguments.Wrong("call", (name,), call))


def test_what_is_accepted_or_answered_unclearly_is_found():
    def fail(error):
        raise error

    assert answered_by(lambda: fail(ValueError("`x` must be 1. Received: x=2"))) is None
    for error in (ValueError("Received: y=2"), TypeError("x"), ValueError("x\ny")):
        assert answered_by(lambda error=error: fail(error)).startswith("UNCLEAR")
    assert answered_by(lambda: 3).startswith("ACCEPTED")


@pytest.mark.parametrize(
    ("target", "norm_pix_loss"), [("hog", True), ("pixels", True), ("normalized", False), ("teacher", True)]
)
def test_a_target_and_norm_pix_loss_that_contradict_are_refused(target, norm_pix_loss):
    with pytest.raises(ValueError, match=f"leave it out, .* norm_pix_loss={norm_pix_loss}, target='{target}'"):
        PretrainRecipe(target=target, norm_pix_loss=norm_pix_loss)
    with pytest.raises(ValueError, match="`norm_pix_loss` is what the target says"):
        PretrainRecipe.for_size(target=target, norm_pix_loss=norm_pix_loss)
    plain = PretrainRecipe(norm_pix_loss=norm_pix_loss)
    with pytest.raises(ValueError, match="`norm_pix_loss` is what the target says"):
        dataclasses.replace(plain, target=target)
    assert dataclasses.replace(plain, target=target, norm_pix_loss=None).norm_pix_loss is not norm_pix_loss


def test_a_recipe_of_an_earlier_version_that_contradicts_itself_is_read():
    old = {**PretrainRecipe(target="hog").to_dict(), "norm_pix_loss": True}
    with pytest.warns(UserWarning, match="its target counts.*norm_pix_loss=True, target='hog'"):
        assert PretrainRecipe.from_dict(old) == PretrainRecipe(target="hog")


def test_a_target_alone_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert PretrainRecipe().norm_pix_loss is True
        assert PretrainRecipe(target="hog").norm_pix_loss is False
        assert PretrainRecipe.for_size("base", target="hog").norm_pix_loss is False
        assert PretrainRecipe.for_size("base", target="low_pass").norm_pix_loss is True
        assert PretrainRecipe.from_dict(PretrainRecipe(target="hog").to_dict()).norm_pix_loss is False
