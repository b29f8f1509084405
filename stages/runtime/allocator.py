"""Settings of glibc's allocator for processes that allocate the same large arrays repeatedly.

By default glibc returns freed memory to the system, which zeroes it before the next array gets it.
"""

# Environment variables for such a process. On 2 cores a training step takes a sixth less time, text
# to shards a twentieth (docs/lab-notes.md).
KEEP_FREED_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(256 << 20),
}
