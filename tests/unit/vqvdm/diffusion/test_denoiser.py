"""Whatever net denoises: where it starts, what it depends on, which sizes it takes, and how a
bundle describes it."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vqvdm.diffusion.conditioning import NetInputs
from vqvdm.diffusion.denoiser import Denoiser, DenoiserConfig, build, described, read_config
from vqvdm.diffusion.dit import DiT, DiTConfig
from vqvdm.diffusion.unet import LATER, UNet, UNetConfig
from vqvdm.errors import UserError

CLASSES = 3
UNET = UNetConfig(width=8, multipliers=(1, 2), depths=(1, 1), head_width=8)
DIT = DiTConfig(width=16, depth=2, head_width=8)
NETS: dict[str, DenoiserConfig] = {
    "unet": UNET,
    "unet, factorised": replace(UNET, factorised=True),
    "unet, in seconds": replace(UNET, temporal_positions="seconds"),
    "unet, joint below": replace(UNET, joint_attention_from=1),
    "unet, joint": replace(UNET, joint_attention_from=0),
    "dit": DIT,
    "dit, factorised": replace(DIT, attention="factorised"),
    "dit, patches of two": replace(DIT, patch=2),
    "dit, factorised, patches of two": replace(DIT, attention="factorised", patch=2),
}
every_net = pytest.mark.parametrize("config", NETS.values(), ids=NETS)


def net_of(
    config: DenoiserConfig,
    intervals: bool = False,
    known_frames: bool = False,
    text_width: int = 0,
) -> Denoiser:
    torch.manual_seed(0)
    return build(config, NetInputs(4, CLASSES, intervals, known_frames, text_width))


def stirred(net: Denoiser) -> Denoiser:
    """As after some training: no weight is zero any more."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def latent(batch: int = 1) -> Tensor:
    return torch.randn(batch, 4, 3, 4, 4, generator=torch.Generator().manual_seed(2))


def predict(net: Denoiser, time: float = 0.5, label: int = 0, fps: float = 8.0) -> Tensor:
    """One fixed latent under the conditions given."""
    with torch.no_grad():
        return net(latent(), torch.tensor([time]), torch.tensor([label]), torch.tensor([fps]))


@every_net
def test_it_starts_at_zero(config: DenoiserConfig) -> None:
    net = net_of(config)
    assert not predict(net).any()
    assert predict(stirred(net)).any()


@every_net
def test_every_condition_counts(config: DenoiserConfig) -> None:
    net = stirred(net_of(config))
    outputs = [
        predict(net),
        predict(net, time=0.8),
        predict(net, label=1),
        predict(net, label=CLASSES),  # no class
        predict(net, fps=16.0),
        predict(net, fps=7.9),
    ]
    for i, a in enumerate(outputs):
        for b in outputs[:i]:
            assert (a - b).abs().max() > 1e-4


@every_net
def test_a_caption_counts_once_it_is_learned_and_none_is_as_without(config: DenoiserConfig) -> None:
    fresh, told = net_of(config, text_width=5), (torch.tensor([0.5]), torch.tensor([0]))
    told += (torch.tensor([8.0]),)
    assert fresh.state_dict()["conditioning.text.weight"].shape[1] == 5
    assert not fresh.state_dict()["conditioning.text.weight"].any()
    net = stirred(fresh)

    def said(text_BD: Tensor | None) -> Tensor:
        with torch.no_grad():
            return net(latent(), *told, text_BD=text_BD)

    red, blue, none = torch.randn(1, 5), torch.randn(1, 5), torch.zeros(1, 5)
    assert torch.equal(said(none), said(None))
    assert (said(red) - said(blue)).abs().max() > 1e-4
    assert (said(red) - said(none)).abs().max() > 1e-4


@every_net
def test_a_net_without_captions_is_what_it_was(config: DenoiserConfig) -> None:
    plain, told = net_of(config).state_dict(), net_of(config, text_width=5).state_dict()
    assert told.keys() - plain.keys() == {"conditioning.text.weight"}
    assert all(told[name].shape == value.shape for name, value in plain.items())


@every_net
def test_time_and_frame_rate_are_continuous(config: DenoiserConfig) -> None:
    net = stirred(net_of(config))
    far = (predict(net, time=0.2) - predict(net, time=0.8)).norm()
    assert (predict(net, time=0.5) - predict(net, time=0.50001)).norm() < 0.05 * far
    far = (predict(net, fps=8) - predict(net, fps=16)).norm()
    assert (predict(net, fps=12.5) - predict(net, fps=12.5005)).norm() < 0.05 * far


@every_net
@pytest.mark.parametrize("size", [(1, 2, 2), (3, 4, 6), (8, 8, 4)])
def test_other_lengths_and_sizes(size: tuple[int, int, int], config: DenoiserConfig) -> None:
    z_BCTHW, net = torch.randn(2, 4, *size), stirred(net_of(config))
    out = net(z_BCTHW, torch.rand(2), torch.tensor([0, 3]), torch.tensor([8.0, 16.0]))
    assert out.shape == z_BCTHW.shape
    assert out.isfinite().all()


@every_net
def test_a_latent_does_not_depend_on_its_neighbours(config: DenoiserConfig) -> None:
    net, z_BCTHW = stirred(net_of(config)), latent(batch=3)
    conditions = torch.rand(3), torch.tensor([0, 1, 3]), torch.tensor([8.0, 16.0, 30.0])
    together = net(z_BCTHW, *conditions)
    for i in range(3):
        alone = net(z_BCTHW[i : i + 1], *(c[i : i + 1] for c in conditions))
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-4)


@every_net
def test_every_parameter_learns(config: DenoiserConfig) -> None:
    net = stirred(net_of(config, intervals=True, known_frames=True, text_width=5))
    told = torch.rand(4), torch.arange(CLASSES + 1), torch.tensor([4.0, 8.0, 16.0, 30.0])
    known_BT = torch.tensor([[True, False, True]]).expand(4, -1)
    more = torch.rand(4), known_BT, torch.randn(4, 5)
    net(latent(batch=4), *told, *more).square().sum().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


@every_net
def test_it_learns_from_where_it_starts(config: DenoiserConfig) -> None:
    """What is zero at first does not keep gradients from what lies before it for long."""
    net, target = net_of(config), latent(batch=4)
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    told = torch.rand(4), torch.arange(4), torch.full((4,), 8.0)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = (net(target, *told) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.99 * losses[0]
    assert not [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]


@every_net
def test_told_an_interval_it_is_at_first_the_net_that_is_not(config: DenoiserConfig) -> None:
    teacher = stirred(net_of(config))
    student = net_of(config, intervals=True)
    missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
    assert missing and not unexpected
    told = torch.tensor([0.5]), torch.tensor([1]), torch.tensor([8.0])
    expected = teacher(latent(), *told)
    assert torch.equal(student(latent(), *told, torch.tensor([0.25])), expected)


@every_net
def test_known_frames_are_told(config: DenoiserConfig) -> None:
    net = stirred(net_of(config, known_frames=True))
    told = torch.tensor([0.5]), torch.tensor([1]), torch.tensor([8.0]), None
    none = net(latent(), *told)
    assert torch.equal(net(latent(), *told, torch.zeros(1, 3, dtype=torch.bool)), none)
    known_BT = torch.tensor([[True, False, False]])
    assert not torch.allclose(net(latent(), *told, known_BT), none, atol=1e-4)


@pytest.mark.parametrize("name", ["unet", "unet, joint below", "dit", "dit, factorised"])
def test_compiled_as_one_piece_it_is_the_same(name: str) -> None:
    net = stirred(net_of(NETS[name]))
    expected = predict(net)
    net.compile(backend="aot_eager", dynamic=False, fullgraph=True)
    torch.testing.assert_close(predict(net), expected, atol=1e-4, rtol=1e-4)


@every_net
def test_in_bf16_it_says_nearly_the_same(config: DenoiserConfig) -> None:
    net = stirred(net_of(config))
    expected = predict(net)
    found = predict(net.to(torch.bfloat16)).float()
    assert (found - expected).norm() < 0.05 * expected.norm()


@every_net
def test_a_bundle_says_which_net_it_holds(config: DenoiserConfig) -> None:
    bundle = json.loads(json.dumps(described(config)))
    assert read_config(bundle) == config
    kind = UNet if isinstance(config, UNetConfig) else DiT
    assert type(build(read_config(bundle), NetInputs(3, 2))) is kind


def test_bundles_of_earlier_versions_are_u_nets() -> None:
    assert "denoiser" not in described(UNET)
    earlier = {
        "width": 8, "multipliers": [1, 2], "depths": [1, 1], "head_width": 8,
        "factorised": False, "spatial_attention_from": 0,
    }  # fmt: skip
    assert read_config({"model": earlier}) == UNET


def test_an_unknown_net_is_refused() -> None:
    with pytest.raises(UserError, match="'mamba', which is none of unet, dit"):
        read_config({"denoiser": "mamba", "model": {}})
    with pytest.raises(UserError, match="no DiTConfig"):
        read_config({"denoiser": "dit", "model": {"multipliers": [1, 2]}})


def test_a_plain_u_net_is_described_as_in_earlier_versions() -> None:
    """So that these read its bundles."""
    assert described(UNET)["model"].keys().isdisjoint(LATER)
    assert described(replace(UNET, joint_attention_from=1))["model"]["joint_attention_from"] == 1


@pytest.mark.parametrize(
    ("level", "said"), [(-1, "must be at least 0, not -1"), (2, "the U-Net has the levels 0 to 1")]
)
def test_joint_attention_from_no_level_is_refused(level: int, said: str) -> None:
    with pytest.raises(UserError, match=f"joint_attention_from.*{said}"):
        replace(UNET, joint_attention_from=level).check()
