"""Convection's generic stores."""
