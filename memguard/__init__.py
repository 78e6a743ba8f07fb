"""Who may hold and use a secret: guard, the native extension, and their control client."""
