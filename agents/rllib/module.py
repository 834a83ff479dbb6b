"""The Atari policy in RLlib: the network and the state dict of A3C, trained by RLlib's learners.

    settings = {"policy": PolicySettings(...).to_dict()}
    config.rl_module(rl_module_spec=RLModuleSpec(NeurocoderRLModule, model_config=settings))
    config.training(learner_class=LEARNERS["impala"])

The learners add the network's auxiliary loss (the Neurocoder's orthogonality) to RLlib's. They log the same scalars
of every update as A3C, by TensorBoard tag. RLlib's results have them under (module, `SCALARS`).

Shapes: B sequences, T steps each, A actions, C frames of an observation, F features, H units of the LSTM.
"""

import math
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from ray.rllib.algorithms.appo.torch.appo_torch_learner import APPOTorchLearner
from ray.rllib.algorithms.impala.torch.impala_torch_learner import IMPALATorchLearner
from ray.rllib.algorithms.impala.torch.vtrace_torch_v2 import vtrace_torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import (
    TARGET_NETWORK_ACTION_DIST_INPUTS,
    TargetNetworkAPI,
    ValueFunctionAPI,
)
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from agents.actor_critic.config import PolicySettings
from agents.actor_critic.diagnostics import describe_network, describe_rollout
from agents.actor_critic.loss import actor_critic_losses
from agents.actor_critic.network import build_network
from agents.finite import first_cause
from neurocoder import auxiliary_loss
from neurocoder.networks.recurrent import RecurrentActorCritic

SCALARS = "scalars"
FEATURES = "features"


class NeurocoderRLModule(TorchRLModule, ValueFunctionAPI, TargetNetworkAPI):
    """The network of the policy's settings, for observations (C, 80, 80) uint8 and discrete actions.

    `model_config["policy"]` holds what `PolicySettings.to_dict` gives; `model_config["max_seq_len"]` is RLlib's.
    """

    def setup(self) -> None:
        self.policy = build_network(PolicySettings.from_dict(self.model_config["policy"]))

    def get_initial_state(self) -> dict[str, np.ndarray]:
        return {name: np.zeros(self.policy.lstm.hidden_size, dtype=np.float32) for name in ("h", "c")}

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        hidden, state = _hidden(self.policy, batch)
        return {Columns.ACTION_DIST_INPUTS: _logits(self.policy, hidden), Columns.STATE_OUT: state}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        features = _features(self.policy, batch)
        hidden, state = _recur(self.policy, features, batch)
        return {
            Columns.ACTION_DIST_INPUTS: _logits(self.policy, hidden),
            Columns.STATE_OUT: state,
            Columns.EMBEDDINGS: hidden,  # for `compute_values`
            FEATURES: features,  # for the learner's scalars
        }

    def compute_values(self, batch: dict[str, Any], embeddings: Tensor | None = None) -> Tensor:
        """Values (B, T)."""
        hidden = _hidden(self.policy, batch)[0] if embeddings is None else embeddings
        return self.policy.critic(hidden).squeeze(-1)

    def make_target_networks(self) -> None:
        self.target = make_target_network(self.policy)

    def get_target_network_pairs(self) -> list[tuple[RecurrentActorCritic, RecurrentActorCritic]]:
        return [(self.policy, self.target)]

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        hidden, _ = _hidden(self.target, batch)
        self.target_logits = _logits(self.target, hidden)  # for the learner's scalars
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: self.target_logits}


def _logits(network: RecurrentActorCritic, hidden: Tensor) -> Tensor:
    """Returns logits (B, T, A), 0 where they are not finite: RLlib's processes would fail at those, one after another.

    The gradients of such logits are not finite, which the learner reports.
    """
    return network.actor(hidden).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def _hidden(network: RecurrentActorCritic, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the LSTM's outputs (B, T, H) and its state (B, H) after the last step.

    No sequence crosses an episode's end.
    """
    return _recur(network, _features(network, batch), batch)


def _features(network: RecurrentActorCritic, batch: dict[str, Any]) -> Tensor:
    """Returns the features (B, T, F) of the observations (B, T, C, 80, 80)."""
    frames = batch[Columns.OBS]
    return network.features(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])


def _recur(
    network: RecurrentActorCritic, features: Tensor, batch: dict[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    state = batch[Columns.STATE_IN]
    start = torch.zeros(features.shape[1::-1], dtype=torch.bool, device=features.device)  # (T, B)
    hidden, (h, c) = network.recur(features.transpose(0, 1), (state["h"], state["c"]), start)
    return hidden.transpose(0, 1), {"h": h, "c": c}


class _Learner:
    """Adds the auxiliary loss and the scalars to a learner of RLlib."""

    policy_loss: ClassVar[str]
    """The name under which RLlib logs the policy loss, a mean over steps."""
    not_finite: str | None = None
    """What was not finite in an update; None if all was."""

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        loss = super().compute_loss_for_module(  # type: ignore[misc]
            module_id=module_id, config=config, batch=batch, fwd_out=fwd_out
        )
        module = self.module[module_id].unwrapped()  # type: ignore[attr-defined]
        orthogonality = auxiliary_loss(module.policy)
        with torch.no_grad():
            logits = fwd_out[Columns.ACTION_DIST_INPUTS]
            values = module.compute_values(batch, embeddings=fwd_out[Columns.EMBEDDINGS])
            advantages, returns = self.advantages(module, config, batch, logits, values)
            scalars = describe_update(batch, logits, values, advantages, returns)
            scalars |= describe_network(
                fwd_out[FEATURES].transpose(0, 1),
                fwd_out[Columns.EMBEDDINGS].transpose(0, 1),
                module.policy.lstm_weights(),
            )
        scalars["losses/policy"] = self.metrics.peek((module_id, self.policy_loss))  # type: ignore[attr-defined]
        scalars["losses/orthogonality"] = orthogonality.item()
        self.log_scalars(module_id, scalars)
        return loss + orthogonality

    def postprocess_gradients_for_module(
        self, *, module_id: str, config: Any = None, module_gradients_dict: dict[Tensor, Tensor]
    ) -> dict[Tensor, Tensor]:
        policy = self.module[module_id].unwrapped().policy  # type: ignore[attr-defined]
        norms = {
            name: torch.nn.utils.get_total_norm(
                [module_gradients_dict[parameter] for parameter in block.parameters()]
            ).item()
            for name, block in policy.named_children()
        }
        if not math.isfinite(sum(norms.values())):
            gradients = {
                name: module_gradients_dict[parameter] for name, parameter in policy.named_parameters()
            }
            self.not_finite = first_cause(policy, gradients)
        scalars = {f"gradients/norm_{name}": norm for name, norm in norms.items()}
        self.log_scalars(module_id, scalars | {"gradients/norm": float(np.linalg.norm(list(norms.values())))})
        # RLlib clips them, in place.
        return super().postprocess_gradients_for_module(  # type: ignore[misc]
            module_id=module_id, config=config, module_gradients_dict=module_gradients_dict
        )

    def log_scalars(self, module_id: str, scalars: dict[str, float]) -> None:
        """Logs scalars. RLlib's results have their means over the updates."""
        self.metrics.log_dict(scalars, key=(module_id, SCALARS), reduce="mean")  # type: ignore[attr-defined]

    def advantages(
        self, module: NeurocoderRLModule, config: Any, batch: dict[str, Any], logits: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the advantages and the values' targets, (B, T) each, that the loss was computed with.

        Args:
            logits, values: (B, T, A) and (B, T), from the policy that learns.
        """
        raise NotImplementedError


class IMPALALearner(_Learner, IMPALATorchLearner):
    policy_loss = "mean_pi_loss"

    def advantages(
        self, module: NeurocoderRLModule, config: Any, batch: dict[str, Any], logits: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        return _vtrace(config, batch, logits, values)


class APPOLearner(_Learner, APPOTorchLearner):
    policy_loss = "policy_loss"

    def advantages(
        self, module: NeurocoderRLModule, config: Any, batch: dict[str, Any], logits: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        return _vtrace(config, batch, module.target_logits, values)


class PPOLearner(_Learner, PPOTorchLearner):
    policy_loss = "policy_loss"

    def advantages(
        self, module: NeurocoderRLModule, config: Any, batch: dict[str, Any], logits: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        # The batch has standardised advantages, whose RMS would always be 1.
        targets = batch[Postprocessing.VALUE_TARGETS]
        return targets - values, targets


LEARNERS = {"impala": IMPALALearner, "appo": APPOLearner, "ppo": PPOLearner}


def describe_update(
    batch: dict[str, Any], logits: Tensor, values: Tensor, advantages: Tensor, returns: Tensor
) -> dict[str, float]:
    """Returns means over the valid steps, by TensorBoard tag. Actions are named by their numbers.

    Args:
        batch: RLlib's. Its loss mask excludes padding and the step that is added to a sequence for its last value.
        logits: (B, T, A), from the policy that learns. The batch has those of the policy that acted.
        values, advantages, returns: (B, T).
    """
    valid, actions = batch[Columns.LOSS_MASK].bool(), batch[Columns.ACTIONS].long()
    names = [str(number) for number in range(logits.shape[-1])]
    scalars = describe_rollout(values, advantages, returns, actions, valid, names)
    acted = batch[Columns.ACTION_DIST_INPUTS][valid].log_softmax(dim=-1)  # (valid steps, A)
    learning = logits[valid].log_softmax(dim=-1)
    # The loss function sees the valid steps as one step of many games.
    flat = [x[valid].unsqueeze(0) for x in (logits, values, actions, advantages, returns, valid)]
    _, value, entropy = actor_critic_losses(*flat)
    return scalars | {
        "losses/value": value.item(),
        "losses/entropy": entropy.item(),
        "policy/kl": F.kl_div(learning, acted, reduction="batchmean", log_target=True).item(),
    }


def _vtrace(config: Any, batch: dict[str, Any], logits: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns V-trace's advantages and the values' targets, (B, T) each, as RLlib's loss uses them.

    Args:
        logits: (B, T, A), from the policy that V-trace corrects to.
        values: (B, T).
    """
    actions = batch[Columns.ACTIONS].long().unsqueeze(-1)
    log_taken = logits.log_softmax(dim=-1).gather(-1, actions).squeeze(-1)  # (B, T)
    continues = (~batch[Columns.TERMINATEDS].bool() & batch[Columns.LOSS_MASK].bool()).to(values.dtype)
    targets, advantages = vtrace_torch(
        target_action_log_probs=log_taken.T,
        behaviour_action_log_probs=batch[Columns.ACTION_LOGP].T,
        discounts=config.gamma * continues.T,
        rewards=batch[Columns.REWARDS].T,
        values=values.T,
        # A full sequence continues in the next row.
        bootstrap_values=values[:, 0].roll(-1),
        clip_rho_threshold=config.vtrace_clip_rho_threshold,
        clip_pg_rho_threshold=config.vtrace_clip_pg_rho_threshold,
    )
    return advantages.T, targets.T
