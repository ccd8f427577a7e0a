"""The critic: its own optimizer, a start step, and weights that do not depend on who computes what."""

from dataclasses import replace

import pytest
import torch

from models.autoencoders.tae import TAE
from models.discriminator import DiscriminatorConfig
from training.checkpoints import newest
from training.data.loader import Loader
from training.data.pixels import WindowReader, pixel_shape
from training.data.plan import Plan
from training.loop import LoopConfig, Training, run_loop, train_step
from training.objectives.adversarial import AdversarialConfig, AdversarialObjective, hinge
from training.objectives.autoencoder import AutoencoderObjective
from training.optim import OptimizerConfig
from training.recipes import recipe_from
from training.storage import open_storage
from training.world import World

CRITIC = AdversarialConfig(weight=0.5, discriminator=DiscriminatorConfig(width=8, layers=2, groups=4))
CONFIG = LoopConfig(steps=4, optimizer=OptimizerConfig(learning_rate=1e-3), checkpoint_every=2)
CPU = torch.device("cpu")


@pytest.fixture
def plan(rows, tae_recipe):
    return Plan(rows, tae_recipe, seed=0)


def start(tae_recipe, config=CRITIC, dtype=torch.float32, checkpoint=None):
    torch.manual_seed(0)
    critic = AdversarialObjective(AutoencoderObjective(kl_weight=1e-3), config, CPU)
    critic.critic.to(dtype)
    return Training.start(TAE(tae_recipe.model).to(dtype), CONFIG.optimizer, checkpoint, critic)


def weights_of(training):
    parameters = [*training.model.parameters(), *training.companion.critic.parameters()]
    return torch.cat([p.detach().flatten() for p in parameters])


def steps(training, plan, count, micro=None, dtype="float32"):
    reader = WindowReader(plan)
    loader = Loader(plan, lambda s: reader(s).astype(dtype), pixel_shape, micro_batch=micro, last_step=count)
    lines = [train_step(training, training.companion, loader.step(s), CONFIG, s, World()) for s in range(count)]
    loader.close()
    return lines


def test_the_critic_waits_for_its_start_step(plan, tae_recipe):
    late = start(tae_recipe, replace(CRITIC, start_step=2))
    before = [p.clone() for p in late.companion.critic.parameters()]
    lines = steps(late, plan, 2)

    assert all("critic" not in line for line in lines)
    assert all(torch.equal(a, b) for a, b in zip(before, late.companion.critic.parameters(), strict=True))
    late.companion.begin_step(2)
    assert late.companion.active


def test_its_weight_balances_the_gradients_of_the_step_before(plan, tae_recipe):
    lines = steps(start(tae_recipe), plan, 3)

    assert lines[0]["critic_balance"] == 0, "nothing has been measured yet"
    assert lines[1]["critic_balance"] > 0
    for line in lines:
        weighed = CRITIC.weight * line["critic_balance"] * line["caught"]
        assert line["loss"] == pytest.approx(
            line["l1"] + 1e-3 * line["kl"] + 1e5 / (3 * 32 * 32) * line["outlier"] + weighed, rel=1e-4
        )


def test_micro_batches_change_neither_the_autoencoder_nor_the_critic(plan, tae_recipe):
    ends = []
    for micro in (None, 1):
        training = start(tae_recipe, dtype=torch.float64)
        steps(training, plan, 3, micro, "float64")
        ends.append(weights_of(training))

    assert float((ends[0] - ends[1]).abs().max()) < 1e-9


def test_a_run_with_a_critic_resumes_bit_for_bit(plan, tae_recipe, tmp_path):
    ends = []
    for name, parts in (("straight", (4,)), ("parts", (2, 4))):
        out = tmp_path / name
        for until in parts:
            training = start(tae_recipe, checkpoint=newest(open_storage(out / "checkpoints")))
            loader = Loader(plan, WindowReader(plan), pixel_shape, last_step=4)
            config = replace(CONFIG, steps=until)
            run_loop(
                training,
                training.companion,
                loader,
                config,
                out=out,
                storage=open_storage(out / "checkpoints"),
                world=World(),
                num_rows=3,
                state={"plan_hash": ""},
            )
            loader.close()
        ends.append(weights_of(training))

    assert torch.equal(*ends)


def test_hinge_pays_for_what_the_critic_gets_wrong(plan):
    class Says(torch.nn.Module):
        def forward(self, video):
            return video[:, :1, :1, :1, :1] * 4  # +2 for videos of 0.5, -2 for reconstructions of -0.5

    from training.data.groups import Group

    samples = tuple(plan.step(0)[:2])
    right = torch.stack([torch.full((2, 3, 1, 4, 4), 0.5), torch.full((2, 3, 1, 4, 4), -0.5)], dim=1)
    losses, _ = hinge(Says(), Group(samples=samples, data=right, weights=torch.ones(2)))
    wrong, _ = hinge(Says(), Group(samples=samples, data=right.flip(1), weights=torch.ones(2)))

    assert losses.tolist() == [0, 0]
    assert wrong.tolist() == [3, 3]


def test_recipes_switch_it_on(tae_recipe):
    recipe = recipe_from(
        type(tae_recipe), {"adversarial": {"start_step": 7, "discriminator": {"width": 16}}}, tae_recipe
    )

    assert recipe.adversarial == AdversarialConfig(start_step=7, discriminator=DiscriminatorConfig(width=16))
    with pytest.raises(
        ValueError, match=r"unknown field 'adversarial\.strat_step'; the nearest known one is 'start_step'"
    ):
        recipe_from(type(tae_recipe), {"adversarial": {"strat_step": 7}}, tae_recipe)
