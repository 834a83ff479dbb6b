"""The layers that Neurocoder is compared with, under the same contract."""
