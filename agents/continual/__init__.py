"""Learning a sequence of tasks: regularisers against forgetting, their importances and the metrics of transfer."""
