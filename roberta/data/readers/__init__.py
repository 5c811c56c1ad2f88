"""Readers of data sets in the formats they are published in. Each is a pure function from a path to examples."""
