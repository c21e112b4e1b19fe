"""Engines: what is asked, beside rules and authorizers, whether an act may be done. Each kind is a file."""
