"""The A3C policy in RLlib: the same network class, the same state dict, trained by RLlib's learners.

    config.rl_module(rl_module_spec=RLModuleSpec(NeurocoderRLModule, model_config={"a3c": A3CConfig(...).to_dict()}))
    config.training(learner_class=LEARNERS["impala"])

The learners add the network's auxiliary loss (the Neurocoder's orthogonality) to RLlib's.
Shapes: B sequences, T steps each.
"""

from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.appo.torch.appo_torch_learner import APPOTorchLearner
from ray.rllib.algorithms.impala.torch.impala_torch_learner import IMPALATorchLearner
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import (
    TARGET_NETWORK_ACTION_DIST_INPUTS,
    TargetNetworkAPI,
    ValueFunctionAPI,
)
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor

from agents.a3c.config import A3CConfig
from agents.a3c.policy import build_policy
from neurocoder import auxiliary_loss
from neurocoder.networks.conv_lstm import HIDDEN, ConvLSTM


class NeurocoderRLModule(TorchRLModule, ValueFunctionAPI, TargetNetworkAPI):
    """`ConvLSTM` for frames (1, 80, 80) uint8 and discrete actions.

    `model_config["a3c"]` holds the settings of its head, as from `A3CConfig.to_dict`; `model_config["max_seq_len"]` is RLlib's.
    """

    def setup(self) -> None:
        config = A3CConfig.from_dict(self.model_config["a3c"])
        self.policy = build_policy(config, int(self.action_space.n))

    def get_initial_state(self) -> dict[str, np.ndarray]:
        return {name: np.zeros(HIDDEN, dtype=np.float32) for name in ("h", "c")}

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        hidden, state = _hidden(self.policy, batch)
        return {Columns.ACTION_DIST_INPUTS: self.policy.actor(hidden), Columns.STATE_OUT: state}

    def _forward_train(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        hidden, state = _hidden(self.policy, batch)
        return {
            Columns.ACTION_DIST_INPUTS: self.policy.actor(hidden),
            Columns.STATE_OUT: state,
            Columns.EMBEDDINGS: hidden,  # for `compute_values`
        }

    def compute_values(self, batch: dict[str, Any], embeddings: Tensor | None = None) -> Tensor:
        """Values (B, T)."""
        hidden = _hidden(self.policy, batch)[0] if embeddings is None else embeddings
        return self.policy.critic(hidden).squeeze(-1)

    def make_target_networks(self) -> None:
        self.target = make_target_network(self.policy)

    def get_target_network_pairs(self) -> list[tuple[ConvLSTM, ConvLSTM]]:
        return [(self.policy, self.target)]

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        hidden, _ = _hidden(self.target, batch)
        return {TARGET_NETWORK_ACTION_DIST_INPUTS: self.target.actor(hidden)}


def _hidden(network: ConvLSTM, batch: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """The LSTM's outputs (B, T, 512) and its state (B, 512) after the last step. RLlib's sequences do not cross episodes."""
    frames, state = batch[Columns.OBS], batch[Columns.STATE_IN]  # (B, T, 1, 80, 80)
    features = network.features(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])  # (B, T, 1024)
    start = torch.zeros(frames.shape[1::-1], dtype=torch.bool, device=frames.device)  # (T, B)
    hidden, (h, c) = network.recur(features.transpose(0, 1), (state["h"], state["c"]), start)
    return hidden.transpose(0, 1), {"h": h, "c": c}


class _WithAuxiliaryLoss:
    def compute_loss_for_module(self, *, module_id: str, **arguments: Any) -> Tensor:
        loss = super().compute_loss_for_module(module_id=module_id, **arguments)  # type: ignore[misc]
        return loss + auxiliary_loss(self.module[module_id].unwrapped().policy)  # type: ignore[attr-defined]


class IMPALALearner(_WithAuxiliaryLoss, IMPALATorchLearner):
    pass


class APPOLearner(_WithAuxiliaryLoss, APPOTorchLearner):
    pass


class PPOLearner(_WithAuxiliaryLoss, PPOTorchLearner):
    pass


LEARNERS = {"impala": IMPALALearner, "appo": APPOLearner, "ppo": PPOLearner}
