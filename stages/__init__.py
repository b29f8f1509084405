"""One module per DVC stage (verbs), and what several of them share (nouns).

A stage module holds its params model, a `run` and a short `main`; it is started by
`python -m stages NAME`, or by DVC as `python -m stages NAME`, which checks all params. Heavy
libraries are imported where they are used, so that checking the params or printing an error takes
no second.
"""

import gc
import os

# torch and MLflow make a million objects that stay; looking for garbage among them every 700 takes
# a sixth of their import.
gc.set_threshold(10_000)

# Else pydantic searches all installed packages for plugins, 0.05 s in each of many processes.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
