"""The report of a run, or of several: one HTML page that needs no server and no internet."""
