"""Where files lie: one folder on a disk or in an object store, its lock, and the files of an input."""
