"""In what order and with which retries the stages run: the Prefect flow over dvc.yaml.

DVC decides what has to run, Prefect when and how often. No tensor, no formula in here.
"""
