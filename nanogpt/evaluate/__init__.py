"""Baselines for the final evaluation, and dynamic evaluation: the loss while learning."""
