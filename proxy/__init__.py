"""The network edge: configuration, supervisor, and the Rust program that serves."""
