"""The faces of the service: what crosses its socket becomes a call of a service, and its answer bytes again."""
