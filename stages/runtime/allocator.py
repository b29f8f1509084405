"""glibc's memory, for processes that need the same large arrays again and again.

By itself it gives what is freed back to the system, which clears it for the next array.
"""

# The environment to start such a process in. On 2 cores a training step takes a sixth less, text
# to shards a twentieth (docs/lab-notes.md).
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
