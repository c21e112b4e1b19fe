"""Directories of SSH keys."""
