"""Django's SQLite backend, with a queue of this process's writers."""
