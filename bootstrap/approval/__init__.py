"""Asking a gate: claims, receipt, code, and the client that waits for a person."""
