"""Hints and their scores as a trainer asks a service for them: kept by question, borne or raised when it is away.

Gymnasium wrappers (`hintwise.wrappers`) and the worker's own training are built on it.
"""
