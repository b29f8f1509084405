"""The Prefect flow over dvc.yaml: the order of the stages and their retries.

DVC decides which stages have to run, Prefect when and how often. There are no tensors here.
"""
