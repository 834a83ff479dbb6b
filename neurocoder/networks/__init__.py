"""Main Networks. Each takes factories for the layers that Neurocoder or an alternative may replace."""
