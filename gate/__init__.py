"""The approving Tang server: requests, operators, audit, keyholder."""
