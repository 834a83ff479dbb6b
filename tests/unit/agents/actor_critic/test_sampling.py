"""Actions drawn from probabilities, against torch's own draws."""

import pytest
import torch

from agents.actor_critic.sampling import sample_actions


def test_the_draws_are_those_of_torch_bit_for_bit():
    probabilities = torch.rand(50, 6, generator=torch.Generator().manual_seed(0)).softmax(dim=-1)
    ours, theirs = (torch.Generator().manual_seed(1) for _ in range(2))
    for _ in range(20):
        expected = torch.multinomial(probabilities, 1, generator=theirs).squeeze(1)
        assert torch.equal(sample_actions(probabilities, ours), expected)
    assert torch.equal(ours.get_state(), theirs.get_state())


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_probabilities_that_are_not_finite_give_an_action_that_exists(wrong):
    probabilities = torch.full((4, 6), wrong)
    actions = sample_actions(probabilities, torch.Generator().manual_seed(0))
    assert actions.shape == (4,) and ((actions >= 0) & (actions < 6)).all()
