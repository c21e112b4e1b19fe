"""Who asks, and what they may do: no HTTP, and of the store only its own records."""
