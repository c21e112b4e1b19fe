"""How an existing estate gets in: read at its source, saved through the service, compared, and journalled."""
