"""Bundles: what a device needs to run a model by itself, and later only what has changed.

`device` and `patch` need the standard library and numpy alone; `difference`, `shelf` and `app` are the server's side.
"""
