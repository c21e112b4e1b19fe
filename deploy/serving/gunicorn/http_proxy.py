"""Settings for a gunicorn of one's own: ``gunicorn -c python:strongroom.deploy.serving.gunicorn.http_proxy``.

Where the settings are is said by STRONGROOM_HOME or STRONGROOM_CONFIG, as to ``strongroom serve``.
"""

from typing import Any

from strongroom.deploy.serving.gunicorn import configure, shared_crowd, shared_meter, shared_tls
from strongroom.deploy.serving.server import Role, make_app

_settings, _options = configure(Role.PROXY)
globals().update(_options)  # gunicorn reads a module's names
_crowd = shared_crowd()  # here, before the workers are forked
wsgi_app = f"{__name__}:application()"


def application() -> Any:
    """Return the application; gunicorn calls this in each worker."""
    return make_app(Role.PROXY, _settings, _crowd, shared_meter(Role.PROXY), tls=shared_tls(_settings.proxy))
