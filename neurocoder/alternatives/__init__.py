"""The layers that Neurocoder is compared with. Each is a drop-in for `nn.Linear`."""
