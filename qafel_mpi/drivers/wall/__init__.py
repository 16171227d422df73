"""The wall clock: rank 0 is the server (server.py), the other ranks are clients (client.py), in real time."""
