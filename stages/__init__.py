"""Pipeline stages and tools.

A stage is a folder with a `stage.py`, which DVC runs as `python -m stages NAME`. Heavy libraries
are imported where they are used, so that checking params or printing an error takes less than a
second.
"""

import gc
import os

# torch and MLflow make a million objects that stay; collecting garbage every 700 objects
# takes a sixth of their import time.
gc.set_threshold(10_000)

# Otherwise pydantic searches all installed packages for plugins, 0.05 s in each of many processes.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
