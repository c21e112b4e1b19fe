"""Configuration modules for gunicorn's ``-c python:…``, for whoever runs it without the ``strongroom`` command."""

import os
from typing import Any

from deploy.server import Role, options
from deploy.settings import Settings, load


def configure(role: Role) -> tuple[Settings, dict[str, Any]]:
    """Return what the operator said, and gunicorn's settings for *role*.

    Raises:
        ConfigurationError: see ``deploy.settings.load``.
    """
    settings = load(environ=os.environ)
    return settings, options(role, settings)
