"""Host identity: a key that says which host asks. It opens nothing, and never stands in for an approval."""
