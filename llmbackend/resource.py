"""What every view of the API is."""

from __future__ import annotations

from rest_framework import viewsets


class Resource(viewsets.ViewSet):
    """Takes the methods that its routes name; the guard answers preflights before."""

    # OPTIONS is none of them, nor does `Allow` name it.
    http_method_names = [
        name for name in viewsets.ViewSet.http_method_names if name != "options"
    ]
