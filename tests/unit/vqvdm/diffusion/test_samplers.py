"""Samplers against known solutions and against `diffusers`; when they ask for guidance."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from vqvdm.diffusion.guidance import Conditions, guided
from vqvdm.diffusion.known_latents import KnownLatents
from vqvdm.diffusion.objectives import Denoised, ObjectiveName, denoised
from vqvdm.diffusion.samplers import (
    Point,
    Sampler,
    SamplingOptions,
    clipped,
    ddim,
    ddpm,
    dpm_solver,
    even_points,
    find_sampler,
    guided_denoise,
    held,
    heun,
)
from vqvdm.errors import UserError

MU, SCALE = 0.7, 0.3


def noise() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 2, 2, 3, 3, generator=generator, dtype=torch.float64)


def drawing(seed: int = 1) -> Callable[[], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(4, 2, 2, 3, 3, generator=generator, dtype=torch.float64)


def point_data(z: Tensor, point: Point) -> Denoised:
    """The best guess where all data are MU."""
    data = torch.full_like(z, MU)
    return Denoised(data, (z - point.alpha * data) / point.sigma)


def gaussian_data(z: Tensor, point: Point) -> Denoised:
    """The best guess for data x ~ N(0, SCALE²) and z = alpha x + sigma e."""
    _, alpha, sigma = point
    variance = alpha**2 * SCALE**2 + sigma**2
    return Denoised(alpha * SCALE**2 / variance * z, sigma / variance * z)


CASES: list[tuple[Sampler, ObjectiveName]] = [
    (ddim, "flow"),
    (ddim, "v"),
    (heun, "flow"),
    (dpm_solver, "flow"),
    (dpm_solver, "v"),
    (ddpm, "v"),
]


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize(("sampler", "name"), CASES)
def test_where_all_data_are_the_same_every_sampler_finds_them(
    sampler: Sampler, name: ObjectiveName, steps: int
) -> None:
    z = sampler(point_data, noise(), even_points(name, steps), drawing())
    torch.testing.assert_close(z, torch.full_like(z, MU), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("sampler", "name"), CASES)
def test_what_is_known_passes_through_every_sampler_and_is_told_noised(
    sampler: Sampler, name: ObjectiveName
) -> None:
    frames = torch.arange(noise().shape[2]) % 2 == 0
    start, known = noise(), torch.full_like(noise(), 3.0)
    told = KnownLatents(known, frames.expand(len(start), -1))
    seen: list[tuple[Tensor, Point]] = []

    def denoise(z: Tensor, point: Point) -> Denoised:
        seen.append((z, point))
        return point_data(z, point)

    z = sampler(held(denoise, told), start, even_points(name, 5), drawing())
    torch.testing.assert_close(z[:, :, frames], known[:, :, frames], atol=1e-9, rtol=0)
    torch.testing.assert_close(z[:, :, ~frames], torch.full_like(z, MU)[:, :, ~frames])
    first = seen[0][1]
    own = (start - first.alpha * known) / first.sigma
    for noised, point in seen if sampler is not ddpm else seen[:1]:  # others draw no new noise
        expected = point.alpha * known + point.sigma * own
        torch.testing.assert_close(noised[:, :, frames], expected[:, :, frames], atol=1e-9, rtol=0)


def error(sampler: Sampler, name: ObjectiveName, steps: int) -> float:
    """Distance from the solution for Gaussian data: noise scaled by a constant."""
    points = even_points(name, steps)
    _, alpha, sigma = points[0]
    scale = SCALE / math.sqrt(alpha**2 * SCALE**2 + sigma**2)
    z = sampler(gaussian_data, noise(), points, drawing())
    return (z - scale * noise()).norm().item()


@pytest.mark.parametrize(
    ("sampler", "name", "order"), [(ddim, "flow", 1), (ddim, "v", 1), (heun, "flow", 2)]
)
def test_the_error_falls_with_the_order_of_the_sampler(
    sampler: Sampler, name: ObjectiveName, order: int
) -> None:
    observed = math.log2(error(sampler, name, 64) / error(sampler, name, 128))
    assert observed == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("name", ["flow", "v"])
def test_the_second_order_is_better_at_the_same_cost(name: ObjectiveName) -> None:
    assert error(dpm_solver, name, 20) < error(ddim, name, 20) / 2


def test_heun_is_better_at_the_same_cost() -> None:
    assert error(heun, "flow", 16) < error(ddim, "flow", 31) / 2


def test_ancestral_samples_have_the_spread_of_the_data() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randn(20_000, 1, 1, 1, 1, generator=generator, dtype=torch.float64)

    z = ddpm(gaussian_data, draw(), even_points("v", 500), draw)
    assert z.std().item() == pytest.approx(SCALE, rel=0.03)
    assert z.mean().item() == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize(("sampler", "cost"), [(ddim, 5), (heun, 9), (ddpm, 5), (dpm_solver, 5)])
def test_points_fall_from_noise_and_never_reach_the_data(sampler: Sampler, cost: int) -> None:
    seen: list[Point] = []

    def denoise(z: Tensor, point: Point) -> Denoised:
        seen.append(point)
        return point_data(z, point)

    sampler(denoise, noise(), even_points("flow", 5), drawing())
    assert len(seen) == cost
    assert seen == sorted(seen, reverse=True)
    assert (seen[0].time, seen[-1].time) == (1.0, pytest.approx(0.2))


def mixture(z: Tensor, alpha: float, sigma: float) -> Denoised:
    """The best guess for data that are -1 or 1 with a spread of SCALE: far from linear."""
    variance = alpha**2 * SCALE**2 + sigma**2
    which = torch.tanh(alpha * z / variance)
    data = which + alpha * SCALE**2 / variance * (z - alpha * which)
    return Denoised(data, (z - alpha * data) / sigma)


def mine(sampler: Sampler, points: Sequence[Point], within: float = math.inf) -> Tensor:
    denoise = clipped(lambda z, p: mixture(z, p.alpha, p.sigma), *torch.tensor([-within, within]))
    return sampler(denoise, noise(), points, drawing())


def theirs(scheduler: object, levels: Sequence[tuple[float, float]], kind: str) -> Tensor:
    """What a scheduler of `diffusers` makes of the mixture; `levels` are alpha, sigma a call."""
    z, generator = noise(), torch.Generator().manual_seed(1)
    own: dict[type, dict[str, object]] = {
        diffusers.DDPMScheduler: {"generator": generator},
        diffusers.DDIMScheduler: {"use_clipped_model_output": True},
    }
    for (alpha, sigma), time in zip(levels, scheduler.timesteps, strict=True):  # type: ignore[attr-defined]
        data, e = mixture(z, alpha, sigma)
        output = {"flow": e - data, "epsilon": e, "v_prediction": alpha * e - sigma * data}[kind]
        z = scheduler.step(output, time, z, **own.get(type(scheduler), {})).prev_sample  # type: ignore[attr-defined]
    return z


def cosine(kind: str, steps: int) -> tuple[dict, Callable[[object], list[Point]]]:
    """Settings of a scheduler of 1000 training times, and its points for our samplers."""
    settings = {
        "num_train_timesteps": 1000,
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": kind,
    }

    def points(scheduler: object) -> list[Point]:
        scheduler.set_timesteps(steps)  # type: ignore[attr-defined]
        times = scheduler.timesteps.tolist()  # type: ignore[attr-defined]
        # Their tables are float32; taken as they are, the two compute from the same numbers.
        levels = scheduler.alphas_cumprod[times].double()  # type: ignore[attr-defined]
        found = [
            Point(time / 1000, alpha, sigma)
            for time, alpha, sigma in zip(
                times, levels.sqrt().tolist(), (1 - levels).sqrt().tolist(), strict=True
            )
        ]
        return [*found, Point(0.0, 1.0, 0.0)]

    return settings, points


KINDS = ["epsilon", "v_prediction"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("within", [0.9, math.inf])
def test_ddim_equals_diffusers(kind: str, within: float) -> None:
    settings, points_of = cosine(kind, 20)
    clip = {"clip_sample": within < math.inf, "clip_sample_range": within}
    scheduler = diffusers.DDIMScheduler(**settings, **clip)
    points = points_of(scheduler)
    expected = theirs(scheduler, [point[1:] for point in points[:-1]], kind)
    torch.testing.assert_close(mine(ddim, points, within), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("within", [0.9, math.inf])
def test_ddpm_equals_diffusers(kind: str, within: float) -> None:
    settings, points_of = cosine(kind, 50)
    clip = {"clip_sample": within < math.inf, "clip_sample_range": within}
    scheduler = diffusers.DDPMScheduler(**settings, **clip)
    points = points_of(scheduler)
    expected = theirs(scheduler, [point[1:] for point in points[:-1]], kind)
    torch.testing.assert_close(mine(ddpm, points, within), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [8, 20])
def test_dpm_solver_equals_diffusers(kind: str, steps: int) -> None:
    settings, points_of = cosine(kind, steps)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **settings,
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type="zero",
        timestep_spacing="leading",
    )
    points = points_of(scheduler)
    expected = theirs(scheduler, [point[1:] for point in points[:-1]], kind)
    torch.testing.assert_close(mine(dpm_solver, points), expected, atol=1e-4, rtol=0)


def flow_points(sigmas: Sequence[float]) -> list[Point]:
    return [Point(sigma, 1 - sigma, sigma) for sigma in sigmas]


def test_euler_equals_diffusers() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(20)
    points = flow_points(scheduler.sigmas.tolist())
    expected = theirs(scheduler, [point[1:] for point in points[:-1]], "flow")
    torch.testing.assert_close(mine(ddim, points), expected, atol=1e-4, rtol=0)


def test_heun_equals_diffusers() -> None:
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(20)
    # Theirs lists every time twice, once for each of the two slopes.
    sigmas = list(dict.fromkeys(scheduler.sigmas.tolist()))
    calls = [sigma for n, sigma in enumerate(sigmas[:-1]) for _ in range(2 if n else 1)]
    expected = theirs(scheduler, [(1 - sigma, sigma) for sigma in calls], "flow")
    torch.testing.assert_close(mine(heun, flow_points(sigmas)), expected, atol=1e-4, rtol=0)


HALF = Point(0.5, 0.5, 0.5)
CONDITIONS = Conditions(torch.tensor([0, 1, 2, 3]), torch.full((4,), 8.0), no_class=3)


def predict(z: Tensor, time_B: Tensor, conditions: Conditions) -> Tensor:
    """Differs by class and time."""
    return z * time_B.view(-1, 1, 1, 1, 1) + (conditions.class_B.view(-1, 1, 1, 1, 1) + 1) ** 2


def test_a_guided_prediction_becomes_data_and_noise() -> None:
    found = guided_denoise(predict, CONDITIONS, "flow", 2.0)(noise().float(), HALF)
    velocity = guided(predict, CONDITIONS, 2.0)(noise().float(), torch.full((4,), 0.5))
    torch.testing.assert_close(found, denoised("flow", velocity, noise().float(), 0.5, 0.5))


@pytest.mark.parametrize(
    ("interval", "rows", "guidance"),
    [((0.0, 1.0), 8, 2.0), ((0.5, 0.6), 8, 2.0), ((0.6, 1.0), 4, 1.0), ((0.0, 0.4), 4, 1.0)],
)
def test_outside_the_interval_no_unconditional_prediction_is_made(
    interval: tuple[float, float], rows: int, guidance: float
) -> None:
    batches: list[int] = []

    def counted(z: Tensor, time_B: Tensor, conditions: Conditions) -> Tensor:
        batches.append(len(z))
        return predict(z, time_B, conditions)

    found = guided_denoise(counted, CONDITIONS, "v", 2.0, interval)(noise().float(), HALF)
    assert batches == [rows]
    everywhere = guided_denoise(predict, CONDITIONS, "v", guidance)
    torch.testing.assert_close(found, everywhere(noise().float(), HALF))


@pytest.mark.parametrize(
    "wrong",
    [
        *({"steps": value} for value in (0, -1)),
        *({"guidance": value} for value in (-1.0, math.nan, math.inf)),
        *(
            {"guidance_interval": value}
            for value in ((0.5, 0.5), (0.8, 0.2), (-0.1, 1.0), (0.0, 2.0), (math.nan, 1.0))
        ),
    ],
)
def test_an_option_out_of_its_range_is_refused_by_name(wrong: dict[str, Any]) -> None:
    SamplingOptions().check()
    (name,) = wrong
    with pytest.raises(UserError, match=f"^{name} (is .*: |must )") as caught:
        SamplingOptions(**wrong).check()
    assert "\n" not in str(caught.value)


def test_samplers_by_name() -> None:
    assert find_sampler("flow", None) is heun
    assert find_sampler("flow", "euler") is ddim  # the same steps along a flow's levels
    assert find_sampler("epsilon", None) is find_sampler("epsilon", "ddpm") is ddpm
    assert find_sampler("v", None) is find_sampler("v", "dpm") is dpm_solver


@pytest.mark.parametrize(
    ("objective", "name", "cure"),
    [
        ("flow", "ddim", "heun, euler, dpm"),
        ("epsilon", "heun", "ddpm, ddim, dpm"),
        ("flow", "huen", "heun, euler, dpm"),
    ],
)
def test_a_sampler_that_does_not_fit_names_those_that_do(
    objective: ObjectiveName, name: str, cure: str
) -> None:
    with pytest.raises(UserError, match=f"'{name}' .*'{objective}'; use one of: {cure}$"):
        find_sampler(objective, name)
