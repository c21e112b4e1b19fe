"""Another Strongroom."""
