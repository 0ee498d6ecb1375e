"""Outlines of the objects in a class map. Pure, no I/O."""
