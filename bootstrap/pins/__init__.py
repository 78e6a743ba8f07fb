"""One module per pin: how a content key is wrapped and recovered."""
