"""What is counted while a job runs, and how it leaves the process. metrics.py declares it."""
