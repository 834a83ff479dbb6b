"""Main Networks: each takes factories for the layers that Neurocoder or an alternative may replace."""
