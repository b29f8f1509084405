"""Token files, the order in which training reads them, and prefetching."""
