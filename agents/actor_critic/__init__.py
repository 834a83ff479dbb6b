"""What all learners of the Atari policy share: settings, network, policy, and the interface of a training run."""
