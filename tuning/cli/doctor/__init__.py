"""Check what a search or a cluster needs, before it starts."""
