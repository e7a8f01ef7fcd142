"""The networks: plain `nn.Module`s that know nothing of ranks; beside each, its roles."""
