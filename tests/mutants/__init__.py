"""Mutation runs: small changes to the code, drawn by a seed, and whether the fast tests notice
them.
"""
