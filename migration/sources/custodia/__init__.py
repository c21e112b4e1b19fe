"""Custodia: the SQLite store that it keeps, and itself while it runs."""
