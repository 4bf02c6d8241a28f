"""Composition root, command line and embedded services: the one place where features meet."""
