"""RLlib trains the Atari policy: IMPALA, APPO or PPO."""
