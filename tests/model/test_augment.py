from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skumatch.data.images import Pixels
from skumatch.model import views
from skumatch.model.chance import generator
from skumatch.model.preprocess import Preprocess
from skumatch.model.views import Drawn, augmented
from skumatch.params import AugmentParams
from tests.model.plain import mild

CANVAS = Preprocess(height=56, width=56, resize="squash", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
PAD = Preprocess(height=80, width=40, resize="pad", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
PLAIN = mild(min_crop=1.0, cutout=0, jitter=0.0)
ALWAYS = 0.9999


def ramp() -> Image.Image:
    """Dark on the left, light on the right; red at the top, blue at the bottom."""
    across, down = np.meshgrid(np.linspace(0, 255, 80), np.linspace(0, 255, 60))
    return Image.fromarray(np.stack([255 - down, across, down], axis=-1).astype(np.uint8))


@given(key=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)))
def test_a_view_is_a_pure_function_of_its_key(key: tuple[int, int, int]) -> None:
    first = augmented(ramp(), CANVAS, mild(), generator(*key))
    torch.rand(3)  # the global generator plays no part
    assert first.equal(augmented(ramp(), CANVAS, mild(), generator(*key)))
    assert first.shape == (3, 56, 56) and first.dtype == torch.uint8


def test_views_differ_between_epochs_and_images() -> None:
    views = [
        augmented(ramp(), CANVAS, mild(), generator(*key))
        for key in [(7, 0, 0), (7, 1, 0), (7, 0, 1), (8, 0, 0)]
    ]
    assert not any(a.equal(b) for i, a in enumerate(views) for b in views[:i])


def test_nothing_turned_on_is_the_preprocessed_picture() -> None:
    assert augmented(ramp(), CANVAS, PLAIN, generator(1)).equal(CANVAS(ramp()))


@given(seed=st.integers(0, 1000))
def test_never_flipped(seed: int) -> None:
    view = augmented(ramp(), CANVAS, mild(cutout=0), generator(seed)).float()
    assert view[1, :, -10:].mean() > view[1, :, :10].mean()
    assert view[2, -10:].mean() > view[2, :10].mean()


@given(seed=st.integers(0, 1000))
def test_crop_keeps_at_least_the_share_asked_for(seed: int) -> None:
    view = augmented(ramp(), CANVAS, PLAIN.model_copy(update={"min_crop": 0.6}), generator(seed)).float()
    assert view[1].mean(dim=0).max() - view[1].mean(dim=0).min() > 0.55 * 255


def before(
    image: Image.Image, preprocess: Preprocess, params: AugmentParams, draws: torch.Generator
) -> torch.Tensor:
    """Crop, light and cut-out as they were when they were all there was."""

    def uniform(count: int) -> list[float]:
        return torch.rand(count, generator=draws, dtype=torch.float64).tolist()  # type: ignore[no-any-return]

    size, across, down = uniform(3)
    share = params.min_crop + (1 - params.min_crop) * size
    width, height = (max(1, round(side * share)) for side in image.size)
    left, top = round((image.width - width) * across), round((image.height - height) * down)
    view = preprocess(image.crop((left, top, left + width, top + height)))
    light, contrast, *tint = (1 + params.jitter * (2 * value - 1) for value in uniform(5))
    gain = light * (1 + (torch.tensor(tint).view(3, 1, 1) - 1) / 4)
    pixels = view.float()
    view = (
        ((pixels - pixels.mean()) * contrast + pixels.mean())
        .mul_(gain)
        .round_()
        .clamp_(0, 255)
        .to(torch.uint8)
    )
    at, rows, columns = (
        uniform(2),
        preprocess.height * params.cutout // 224,
        preprocess.width * params.cutout // 224,
    )
    top, left = round(at[0] * preprocess.height - rows / 2), round(at[1] * preprocess.width - columns / 2)
    view[:, max(0, top) : max(0, top + rows), max(0, left) : max(0, left + columns)] = preprocess.fill()
    return view


@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    preprocess=st.sampled_from([CANVAS, PAD, PAD.model_copy(update={"resize": "crop"})]),
    crop=st.floats(0.1, 1),
    jitter=st.sampled_from([0.0, 0.2, 0.6]),
    cutout=st.integers(0, 100),
    seed=st.integers(0, 99),
)
def test_with_the_new_options_off_the_bits_are_those_of_before(
    size: tuple[int, int], preprocess: Preprocess, crop: float, jitter: float, cutout: int, seed: int
) -> None:
    image = ramp().resize(size)
    params = mild(min_crop=crop, jitter=jitter, cutout=cutout)
    expected = before(image, preprocess, params, generator(seed))
    assert augmented(image, preprocess, params, generator(seed)).equal(expected)
    assert augmented(np.array(image), preprocess, params, generator(seed)).equal(expected)


def turned_on(
    seed: int = 3, preprocess: Preprocess = CANVAS, image: Image.Image | None = None, **options: Any
) -> torch.Tensor:
    """A view with these options and no others."""
    return augmented(
        image or ramp(), preprocess, PLAIN.model_copy(update=options), generator(seed), lambda _: neighbour()
    )


def neighbour() -> Pixels:
    """Red on its left and top, green on its right, blue at the bottom."""
    pixels = np.full((40, 60, 3), (255, 0, 0), np.uint8)
    pixels[:, 40:] = (0, 255, 0)
    pixels[30:] = (0, 0, 255)
    return pixels


OFF = ["warped", "_occlude", "_moved", "_compressed", "_lit", "_cut_out"]


def test_an_option_that_is_off_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OFF:
        monkeypatch.setattr(views, name, lambda *_: pytest.fail("an option that is off was computed"))
    augmented(ramp(), CANVAS, PLAIN, generator(1))


@pytest.mark.parametrize(
    "options",
    [
        {"flip": ALWAYS},
        {"blur": ALWAYS},
        {"jpeg": ALWAYS},
        {"ratio": 0.5},
        {"rotate": 20.0},
        {"occlude": 0.5},
    ],
)
def test_turning_one_option_on_leaves_the_draws_of_the_others(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[float]] = []
    lit = views._lit
    monkeypatch.setattr(
        views, "_lit", lambda view, strength, numbers: seen.append(numbers) or lit(view, strength, numbers)
    )
    for params in (mild(), mild(**options)):
        augmented(ramp(), CANVAS, params, generator(4), lambda _: neighbour())
    assert seen[0] == seen[1]


def test_flip_mirrors_its_share_of_views() -> None:
    assert turned_on(flip=ALWAYS).equal(CANVAS(ramp()).flip(2))
    plain = CANVAS(ramp())
    views = [turned_on(seed, flip=0.25) for seed in range(300)]
    mirrored = sum(view.equal(plain.flip(2)) for view in views)
    assert 45 < mirrored < 105 and sum(view.equal(plain) for view in views) == 300 - mirrored


def test_jitter_changes_light_contrast_and_colour() -> None:
    means = torch.stack([turned_on(seed, jitter=0.3).float().mean(dim=(1, 2)) for seed in range(40)])
    assert means.mean(dim=1).std() > 10 and (means[:, 0] / means[:, 1]).std() > 0.03
    assert len({int(turned_on(seed, jitter=0.3).float().std()) for seed in range(40)}) > 10


def test_motion_blur_is_the_mean_along_a_line() -> None:
    dot = Image.new("RGB", (56, 56))
    dot.putpixel((28, 28), (240, 240, 240))
    lengths = set()
    for seed in range(40):
        view = turned_on(seed, image=dot, blur=ALWAYS)[0]
        rows, columns = torch.nonzero(view, as_tuple=True)
        taps = 3 + int(Drawn.of(generator(seed)).blur[1] * 1)  # at most a 16th of 56 pixels
        angle = torch.pi * torch.tensor(Drawn.of(generator(seed)).blur[2])
        assert abs(int(view.sum()) - 240) <= taps and 2 <= len(rows) <= taps
        off_line = (rows - 28) * angle.cos() - (columns - 28) * angle.sin()
        assert off_line.abs().max() <= 0.71  # half a pixel's diagonal
        lengths.add(len(rows))
    assert 3 in lengths


@given(level=st.integers(0, 255), seed=st.integers(0, 99))
def test_motion_blur_leaves_a_plain_picture_alone(level: int, seed: int) -> None:
    flat = torch.full((3, 200, 180), level, dtype=torch.uint8)
    assert views._moved(flat, *Drawn.of(generator(seed)).blur[1:]).equal(flat)


def test_a_longer_blur_has_more_taps() -> None:
    dot = torch.zeros(3, 192, 192, dtype=torch.uint8)
    dot[:, 96, 96] = 255
    assert [int((views._moved(dot, length, 0.0)[0] > 0).sum()) for length in (0.0, 0.5, 0.999)] == [
        3,
        8,
        12,
    ]


def test_jpeg_is_a_jpeg_of_that_quality() -> None:
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (56, 56, 3), dtype=np.uint8))
    strong, weak = (views._compressed(CANVAS(noisy), quality) for quality in (0.0, 1.0))
    errors = [(view.float() - CANVAS(noisy).float()).abs().mean() for view in (strong, weak)]
    assert errors[0] > errors[1] > 1
    data = simplejpeg.encode_jpeg(np.array(noisy), 30, colorsubsampling="420")
    assert strong.permute(1, 2, 0).equal(torch.from_numpy(simplejpeg.decode_jpeg(data)))
    assert not turned_on(jpeg=ALWAYS, image=noisy).equal(CANVAS(noisy))


@pytest.mark.parametrize("preprocess", [CANVAS, PAD])
def test_a_neighbour_lies_over_one_edge_of_the_picture(preprocess: Preprocess) -> None:
    white = Image.new("RGB", (40, 40), "white")
    edges = set()
    for seed in range(60):
        plain, view = preprocess(white), turned_on(seed, preprocess, white, occlude=ALWAYS)
        rows, columns = ((plain[0] == 255).any(dim=axis).nonzero().flatten() for axis in (1, 0))
        shown, inner = (
            view[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].clone(),
            preprocess.fill(),
        )
        view[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = inner
        assert (view == inner).all()  # nothing beside the picture
        covered = ~(shown == 255).all(dim=0)
        across, down = covered.all(dim=0), covered.all(dim=1)
        assert 0.04 < covered.float().mean() < 0.27
        side = (
            ("left" if across[0] else "right")
            if across.any() and not across.all()
            else ("top" if down[0] else "bottom")
        )
        at = {"left": (2, 0), "right": (2, -1), "top": (0, 2), "bottom": (-1, 2)}[side]
        near = {"left": 1, "right": 0, "top": 2, "bottom": 0}[
            side
        ]  # what touches the picture is the neighbour's other edge
        assert shown[near][at] > 200
        edges.add(side)
    assert edges == {"left", "right", "top", "bottom"}


def test_neighbours_cover_their_share_of_views_and_are_asked_for_only_then() -> None:
    draws: list[float] = []
    for seed in range(300):
        augmented(
            ramp(),
            CANVAS,
            PLAIN.model_copy(update={"occlude": 0.2}),
            generator(seed),
            lambda u: draws.append(u) or neighbour(),
        )
    assert (
        35 < len(draws) < 90
        and len(set(draws)) == len(draws)
        and 0 < min(draws) < 0.1
        and 0.9 < max(draws) < 1
    )


def test_cutout_covers_a_square_of_the_mean_colour() -> None:
    white = Image.new("RGB", (60, 60), "white")
    covered = [
        int(
            (
                augmented(white, CANVAS, PLAIN.model_copy(update={"cutout": 64}), generator(seed))[0] == 128
            ).sum()
        )
        for seed in range(50)
    ]
    assert max(covered) == 16 * 16  # 64 px of a 224 canvas
    assert min(covered) >= 8 * 7  # its centre is on the canvas
