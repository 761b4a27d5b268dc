"""Hostile input for the commands."""
