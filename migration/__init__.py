"""How what lies elsewhere gets in: read at its source, saved through the service, compared, and journalled."""
