"""Language-model policies guided by language: the library both processes share.

    from hintwise import Client, AsyncClient
    from hintwise.describers import describer_for

Importing this package loads no torch: a program that only calls the service stays light.
"""

from hintwise.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
__version__ = "0.1.0"
