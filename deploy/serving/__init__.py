"""How both processes are served: all that touches gunicorn and sockets, in one place."""
